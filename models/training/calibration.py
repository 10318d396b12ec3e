"""Calibrates a trained model on `train`, keeps that only where it lowers FID on `validation`, and says on `test` what came out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.calibration.assessment import assess, helps
from models.calibration.bench import Bench, Fitted
from models.calibration.evidence import Evidence
from models.calibration.methods import fit
from models.calibration.ratio_head import LOOK_EVERY
from models.calibration.reliability import Reliability
from models.calibration.settings import Method, RatioHead
from models.cards import Assessment, Calibration
from models.datasets import Split, Splits
from models.device import send
from models.inference.prepared import prepare
from models.metrics.base import Reference
from models.training.measurement import SEEDS, Subject, Trained
from models.training.progress import Stages

LEAST, MOST = 4_000, 10_000  # generated images for one judgement, two for every real one in between: they are held in memory
CHOOSING, KEEPING, REPORTING = 1_000, 2_000, 3_000  # random streams of the generated images that choose, keep and report
RELIABILITY = "reliability.png"


class Plan(NamedTuple):
    """What a calibration is made of."""

    settings: Method
    dataset: str
    seed: int


class Outcome(NamedTuple):
    """A model after an attempt to calibrate it."""

    trained: Trained  # with the log ratio in place where it was kept, else uncalibrated
    calibration: Calibration | None = None
    files: dict[str, bytes] = {}  # to be published beside the weights
    validation: Assessment | None = None  # what decided; None where nothing was tried


class Judges(NamedTuple):
    """What log ratios are compared with, on the networks' device."""

    validation: Reference
    test: Reference


def uncalibrated(trained: Trained) -> Outcome:
    """A model whose targets are as good as they are without a calibration; whatever ratio it has is left out."""
    size, networks = trained.size.model_copy(update={"ratio_heads": 1, "ratio_knots": 0}), trained.networks
    if size != trained.size:
        networks = trained.kind.build(size).eval()
        kept = {name: weight for name, weight in trained.networks.state_dict().items() if not name.startswith("ratio.")}
        networks.load_state_dict(networks.state_dict() | kept)
    trained.kind.uncalibrate(networks)
    return Outcome(replace(trained, networks=networks.to(trained.device), size=size))


def calibrated(trained: Trained, plan: Plan, splits: Splits, judges: Judges, stages: Stages) -> Outcome:
    """A model calibrated as planned, or uncalibrated if that does not lower FID on `validation` by more than its spread.

    `splits` are on the networks' device; `stages` hears every few seconds and may raise. The same plan gives the same weights.
    """
    stages.stage("calibrating", parts_of(plan.settings))
    before = uncalibrated(trained)
    attempt = Attempt(before.trained, plan, splits.train, stages.advance)
    labels = torch.cat([splits.train.labels, splits.validation.labels])  # the proportions of classes in few images are noise
    fitted = fit(plan.settings, attempt.bench, next(attempt.evidences(judges.validation, CHOOSING, labels)))
    decided, _ = attempt.assessed(fitted, judges.validation, KEEPING, labels)
    if not helps(decided):
        return before._replace(validation=decided)
    reported, reliability = attempt.assessed(fitted, judges.test, REPORTING)
    networks = nn.ModuleDict({**before.trained.networks, "ratio": fitted.ratio})
    return Outcome(
        replace(before.trained, networks=networks, size=fitted.size),
        _calibration(plan, fitted, decided, reported),
        {RELIABILITY: reliability.png(f"{trained.name}: {plan.settings.method}, error {reliability.calibration_error:.3f}")},
        decided,
    )


def parts_of(settings: Method) -> int:
    """Calls of `go_on` in a calibration by this method."""
    judgements = 1 + 2 * len(SEEDS)
    return (
        judgements + (settings.heads + settings.stages - 1) * (settings.steps // LOOK_EVERY)
        if isinstance(settings, RatioHead)
        else judgements
    )


@dataclass(frozen=True)
class Attempt:
    """One calibration of a model under way."""

    trained: Trained
    plan: Plan
    train: Split
    go_on: Callable[[], None]

    @cached_property
    def bench(self) -> Bench:
        """The prior as it is served, with the images it may be compared with."""
        prior = Subject.of(self.trained, 0).spaces["prior"]
        device = self.trained.device

        def draw(count: int, random: torch.Generator) -> Split:
            points = prior.start(send(torch.randn(count, *prior.shape, generator=random), device))
            if not prior.classes:
                return Split(prior.decode(points), torch.zeros(count, dtype=torch.int64, device=device))
            labels = send(torch.randint(prior.classes, (count,), generator=random), device)
            return Split(prior.decode(points, labels), labels)

        return Bench(self.trained.kind, self.trained.networks, self.trained.size, self.train, draw, self.plan.seed, self.go_on)

    def evidences(self, reference: Reference, purpose: int, labels: Tensor | None = None) -> Iterator[Evidence]:
        """The same real images beside those of the prior from each seed; `labels` as in `Evidence.gather`."""
        bench, evidence = self.bench, None
        for seed in SEEDS:
            self.go_on()
            fake = bench.fakes(min(max(2 * len(reference.images), LEAST), MOST), bench.random(purpose + seed))
            evidence = evidence.with_fake(reference, fake) if evidence else Evidence.gather(reference, fake, labels)
            yield evidence

    def assessed(self, fitted: Fitted, reference: Reference, purpose: int, labels: Tensor | None = None) -> tuple[Assessment, Reliability]:
        """Figures of a log ratio as it will be served."""
        served = prepare(nn.ModuleDict({"ratio": fitted.ratio}), self.trained.device)["ratio"]
        bench = self.bench

        def log_ratios(evidence: Evidence) -> tuple[Tensor, Tensor]:
            return bench.log_ratios(served, evidence.real), bench.log_ratios(served, evidence.fake)

        return assess(self.evidences(reference, purpose, labels), log_ratios)


def _calibration(plan: Plan, fitted: Fitted, validation: Assessment, test: Assessment) -> Calibration:
    """What the card says."""
    return Calibration(
        method=plan.settings.method,
        settings=plan.settings.model_dump(mode="json", exclude={"method"}),
        made=fitted.made,
        optimum=fitted.optimum,
        fitted_slope=float(f"{fitted.raw.slope:.4g}"),
        fitted_intercept=float(f"{fitted.raw.intercept:.4g}"),
        dataset=plan.dataset,
        seed=plan.seed,
        validation=validation,
        test=test,
    )

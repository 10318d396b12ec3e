"""From trained networks to a published version: calibrate where a sampler needs it, tune, measure, choose defaults, write the card."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import replace
from functools import partial

from models.calibration.settings import RatioHead
from models.cards import Metric, ModelCard
from models.checkpoints import Store
from models.datasets import Split, Splits
from models.images import encode_png, grid, to_pixels
from models.kernels import Kernel
from models.metrics.base import Evaluator
from models.training.calibration import Judges, Outcome, Plan, calibrated, uncalibrated
from models.training.judging import Judge
from models.training.measurement import SEEDS, Subject, Trained, affordable
from models.training.tuning import tuned

SHOWN = 36  # images of samples.png
BUDGET = 9e12  # floating-point operations of the energies of all seeds: about two minutes on two cores
FEWEST, MOST = 500, 10_000  # images of a seed that metrics see
EXPLAINED = 300  # images that reconstructions are measured on, at most


def publish(trained: Trained, splits: Splits, store: Store, go_on: Callable[[], None], *, calibrate: bool) -> ModelCard:
    """Publishes the next version of the model with its measured metrics, calibrated first where it needs that and gets better by it.

    `splits` are on the CPU. It takes minutes: `go_on` is called between its parts, and last before the version appears; what it
    raises ends it there.
    """
    evaluator = Evaluator(splits.evaluator, trained.origin.dataset, device=trained.device)
    if calibrate and trained.kind.needs_calibration:
        judges = Judges(evaluator.against(splits.validation), evaluator.against(splits.test))
        plan = Plan(RatioHead(), trained.origin.dataset, trained.origin.seed)
        outcome = calibrated(trained, plan, splits.to(trained.device), judges, go_on)
    else:
        outcome = uncalibrated(trained)
    return place(outcome, evaluator, splits, store, go_on)


def place(outcome: Outcome, evaluator: Evaluator, splits: Splits, store: Store, go_on: Callable[[], None]) -> ModelCard:
    """Chooses kernel settings for a model as it is, measures it, and publishes it as the next version."""
    trained, kind, validation = outcome.trained, outcome.trained.kind, evaluator.against(splits.validation)
    subject, samplers = Subject.of(trained, 0), dict[str, Kernel | None]()
    for name, kernel in kind.samplers().items():
        if outcome.calibration is None and name in kind.only_calibrated:
            continue
        go_on()
        samplers[name] = tuned(subject, name, kernel, validation) if kernel else None
    subject = replace(subject, images=images_to_draw(subject, samplers, 2 * len(splits.test.images)))
    card = described(outcome, subject, samplers)
    figures = measured(subject, samplers, Judge.on_test(evaluator, splits, subject.images), go_on)
    card = card.model_copy(update={"metrics": figures, "remarks": remarked(trained, subject, samplers, splits.validation)})
    shown = grid(to_pixels(replace(subject, images=SHOWN).draws(card.default_sampler, samplers[card.default_sampler], SEEDS[0]).images))
    go_on()
    return store.publish(card, dict(trained.networks.state_dict()), encode_png(shown, {"Software": "Ebbtide"}), outcome.files)


def images_to_draw(subject: Subject, samplers: Mapping[str, Kernel | None], enough: int) -> int:
    """How many images of each seed the budget allows for the dearest sampler; the others draw as many, so that figures compare."""
    costs = [subject.operations[name] * kernel.ticks * len(SEEDS) for name, kernel in samplers.items() if kernel]
    return min(affordable(BUDGET, max(costs, default=1), FEWEST, MOST), enough)


def measured(
    subject: Subject, samplers: Mapping[str, Kernel | None], judge: Judge, go_on: Callable[[], None] = lambda: None
) -> tuple[Metric, ...]:
    """Every figure of every sampler, then those of reconstructions where the family infers latents."""
    figures: list[Metric] = []
    for name, kernel in samplers.items():
        go_on()
        figures += judge.judged(name, partial(subject.draws, name, kernel), SEEDS)
    if subject.kind.reconstructs:
        go_on()
        figures += judge.judged("posterior", partial(subject.explain, judge.some(EXPLAINED), judge.seen), SEEDS)
    return tuple(figures)


def remarked(trained: Trained, subject: Subject, samplers: Container[str], split: Split) -> dict[str, str]:
    """What results of the samplers offered should warn of."""
    drawn = replace(subject, images=len(split.images)).draws("prior", None, SEEDS[0]).images
    remarks = trained.kind.remarks(trained.networks, split.images.to(trained.device), drawn)
    return {name: remark for name, remark in remarks.items() if name in samplers}


def described(outcome: Outcome, subject: Subject, samplers: Mapping[str, Kernel | None]) -> ModelCard:
    """The card without its figures; the store fills in version and digest."""
    trained, kind = outcome.trained, outcome.trained.kind
    unfit = outcome.calibration is None and kind.default_sampler in kind.needs_calibration
    return ModelCard(
        name=trained.name,
        version=1,
        family=trained.family,
        options=kind.model_dump(mode="json"),
        description=f"{kind.description}, trained on {trained.origin.dataset}",
        image_shape=trained.size.image_shape,
        latent_shape=subject.spaces["prior"].shape,
        classes=kind.classes(trained.size),
        networks=trained.size.model_dump(),
        samplers=dict(samplers),
        default_sampler="prior" if unfit else kind.default_sampler,
        needs_calibration=kind.needs_calibration,
        calibration=outcome.calibration,
        training=trained.origin,
        digest="0" * 64,
    )

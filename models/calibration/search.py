"""Fits ratio heads and chooses among their snapshots by FID to `validation` after exact reweighting, with an eye on the classes.

The held-out loss alone chooses the wrong head: one that tells single images apart by artefacts has the lowest loss and the worst weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.calibration.bench import Bench, Draw, Fitted
from models.calibration.evidence import Evidence, weights_of
from models.calibration.logistic import Line, fit_line
from models.calibration.ratio_head import Disturbance, train_head
from models.calibration.settings import RatioHead
from models.datasets import Split
from models.device import send
from models.networks.ratio import Sum, rescale

SNAPSHOTS = 8  # of a head, that are looked at
SURPLUS = 2  # images of the prior drawn for one that the first stage's weights keep


class Candidate(NamedTuple):
    """Heads whose sum is a log ratio, with slope 1 and intercept 0 on `validation`, and how it does there."""

    heads: tuple[nn.Module, ...]
    real: Tensor  # (real,) log ratios
    fake: Tensor  # (fake,)
    raw: Line  # what was divided out last
    fid: float
    class_distance: float
    made: str
    optimum: str


@dataclass(frozen=True)
class Search:
    """One calibration by ratio heads."""

    bench: Bench
    evidence: Evidence
    settings: RatioHead

    def fitted(self) -> Fitted:
        """The best ratio of those tried."""
        best = self._first_stage()
        if self.settings.stages == 2:
            best = min(best, self._second_stage(best), key=self._rank)
        ratio = best.heads[0] if len(best.heads) == 1 else Sum(best.heads)
        size = self.bench.size.model_copy(update={"ratio_heads": len(best.heads), "ratio_knots": 0})
        return Fitted(ratio, size, best.raw, best.made, best.optimum)

    def _rank(self, candidate: Candidate) -> tuple[bool, float]:
        """By FID, after those that leave the classes' proportions no further off than the prior has them."""
        return candidate.class_distance > self.evidence.class_distance(), candidate.fid

    def _first_stage(self) -> Candidate:
        """The mean of heads that differ in first weights and random numbers; one head where it alone is better."""
        members = [self._best_snapshot(self._disturbance, member, self.bench.draw) for member in range(self.settings.heads)]
        if len(members) == 1:
            return members[0]
        together = self._judged(
            [rescale(copy.deepcopy(head), 1 / len(members), 0) for member in members for head in member.heads],
            torch.stack([member.real for member in members]).mean(0),
            torch.stack([member.fake for member in members]).mean(0),
        )
        made = "mean of " + "; ".join(member.made for member in members)
        return min(together._replace(made=made, optimum=members[0].optimum), *members, key=self._rank)

    def _disturbance(self, step: int) -> Disturbance:
        """What happens to the images of a training step of the first stage."""
        first, last = self.settings.noise_first, self.settings.noise_last
        return Disturbance(first + (last - first) * step / self.settings.steps, self.settings.shifts)

    def _second_stage(self, first: Candidate) -> Candidate:
        """The first ratio plus a head fitted on clean images to what it leaves."""

        def reweighted(count: int, random: torch.Generator) -> Split:
            pool = self.bench.draw(SURPLUS * count, random)
            log_ratio = torch.stack([self.bench.log_ratios(head, pool) for head in first.heads]).sum(0)
            rows = send(torch.multinomial(weights_of(log_ratio), count, replacement=True, generator=random), self.bench.device)
            return Split(pool.images[rows], pool.labels[rows])

        clean = Disturbance(0.0, self.settings.shifts)
        return self._best_snapshot(lambda step: clean, 100, reweighted, before=first)

    def _best_snapshot(self, at: Callable[[int], Disturbance], purpose: int, draw: Draw, *, before: Candidate | None = None) -> Candidate:
        """Trains a head; with the ratio before it, where there is one, it is judged now and then, and the best one is kept."""
        head = self._fresh(purpose)
        every = max(self.settings.steps // SNAPSHOTS, 1)
        best: Candidate | None = None
        for step, disturb in train_head(head, self.bench, at, self.bench.random(purpose), draw):
            if step % every == 0 or step == self.settings.steps:
                seen = self._judged_after(before, head)._replace(made=f"{step} steps", optimum=disturb.optimum)
                best = seen if best is None else min(best, seen, key=self._rank)
            if step == self.settings.steps:
                break
        assert best is not None
        return best if before is None else best._replace(made=f"{before.made}, then {best.made} on what those leave")

    def _judged_after(self, before: Candidate | None, head: nn.Module) -> Candidate:
        heads = [copy.deepcopy(part) for part in (*(before.heads if before else ()), head)]
        real, fake = self.bench.log_ratios(head, self.evidence.real), self.bench.log_ratios(head, self.evidence.fake)
        return self._judged(heads, before.real + real, before.fake + fake) if before else self._judged(heads, real, fake)

    def _judged(self, heads: list[nn.Module], real: Tensor, fake: Tensor) -> Candidate:
        """A candidate of heads with that sum, (real,) and (fake,): rescales them in place by the line they have on `validation`."""
        raw = fit_line(real, fake)
        for head in heads:
            rescale(head.eval(), raw.slope, raw.intercept / len(heads))
        fake = raw.slope * fake + raw.intercept
        fid, class_distance = self.evidence.fid(fake), self.evidence.class_distance(fake)
        return Candidate(tuple(heads), raw.slope * real + raw.intercept, fake, raw, fid, class_distance, "", "")

    def _fresh(self, purpose: int) -> nn.Module:
        """A head with first weights of its own."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.bench.random(purpose).initial_seed())
            return self.bench.kind.build(self.bench.size)["ratio"].to(self.bench.device)

"""Fits ratio heads and chooses among their snapshots by FID to `validation` after exact reweighting, with an eye on the classes.

The held-out loss alone chooses the wrong head: one that tells single images apart by artefacts has the lowest loss and the worst weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.calibration.bench import Bench, Draw, Fitted
from models.calibration.evidence import Evidence, weights_of
from models.calibration.logistic import Line, fit_line, fit_plane
from models.calibration.proportions import MOST_CLASSES, SHRINKAGE, add, class_scores, tilt, widened
from models.calibration.ratio_head import Disturbance, train_head
from models.calibration.settings import RatioHead
from models.datasets import POINT, Split
from models.device import read, send
from models.networks.ratio import Sum, rescale

SNAPSHOTS = 8  # of a head, that are looked at
FIRST_NOISE = 1.0  # of images, where the settings have none
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
        real, fake = (torch.stack(parts).mean(0) for parts in ([each.real for each in members], [each.fake for each in members]))
        line, share = fit_line(real, fake, self.evidence.real_weight), 1 / len(members)
        heads = [rescale(copy.deepcopy(head), share * line.slope, share * line.intercept) for each in members for head in each.heads]
        together = self._candidate(heads, line.slope * real + line.intercept, line.slope * fake + line.intercept, line)
        made = "mean of " + "; ".join(member.made for member in members)
        return min(together._replace(made=made, optimum=members[0].optimum), *members, key=self._rank)

    def _disturbance(self, step: int) -> Disturbance:
        """What happens to the images of a training step of the first stage."""
        first, last = self.settings.noise_first, self.settings.noise_last
        if first is None:
            first = last if self.bench.size.image_shape == POINT else FIRST_NOISE
        return Disturbance(first + (last - first) * step / self.settings.steps, self._shifts)

    @property
    def _shifts(self) -> float:
        """0 where not even a side is shifted by a whole pixel."""
        shifts = self.settings.shifts
        return shifts if round(shifts * self.bench.size.image_shape[-1]) else 0.0

    def _second_stage(self, first: Candidate) -> Candidate:
        """The first ratio plus a head fitted on clean images to what it leaves."""

        def reweighted(count: int, random: torch.Generator) -> Split:
            pool = self.bench.draw(SURPLUS * count, random)
            log_ratio = torch.stack([self.bench.log_ratios(head, pool) for head in first.heads]).sum(0)
            rows = send(torch.multinomial(weights_of(log_ratio), count, replacement=True, generator=random), self.bench.device)
            return Split(pool.images[rows], pool.labels[rows])

        clean = Disturbance(0.0, self._shifts)
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
        """A candidate of a head, after those before it: slope, class proportions and intercept corrected within last layers."""
        head = rescale(copy.deepcopy(head).eval(), 1.0, 0.0)
        heads = [*(copy.deepcopy(part) for part in (before.heads if before else ())), head]
        scores = class_scores(head, self.bench) if self._corrects_classes else None
        wide = widened(head, scores) if scores else head
        real, fake = (_columns(self.bench.log_ratios(wide, split)) for split in (self.evidence.real, self.evidence.fake))
        if before:
            real[:, 0] += before.real
            fake[:, 0] += before.fake
        slopes = self._slopes(real, fake)
        real, fake = real @ slopes, fake @ slopes
        line = fit_line(real, fake, self.evidence.real_weight)
        for part in heads:
            rescale(part, float(slopes[0]), 0.0)
        add(head, scores, slopes[1:])
        for part in heads:
            rescale(part, line.slope, line.intercept / len(heads))
        raw = Line(float(slopes[0]) * line.slope, line.intercept)
        return self._candidate(heads, line.slope * real + line.intercept, line.slope * fake + line.intercept, raw)

    def _slopes(self, real: Tensor, fake: Tensor) -> Tensor:
        """For the output of a head, and for the scores of classes beside it if there are any: (real, columns) and (fake, columns)."""
        plane, _ = fit_plane(real, fake, real_weight=self.evidence.real_weight, shrinkage=SHRINKAGE)
        wanted = self.evidence.real_weight @ real[:, 1:].double()
        return torch.cat([plane[:1], tilt(plane[0] * fake[:, 0].double(), fake[:, 1:], wanted)]).float()

    @property
    def _corrects_classes(self) -> bool:
        """Whether there are classes, and not too many for the real images at hand, that the head does not see anyway."""
        return 1 < self.bench.classes <= MOST_CLASSES and not bool(read(self.evidence.fake.labels).any())

    def _candidate(self, heads: Sequence[nn.Module], real: Tensor, fake: Tensor, raw: Line) -> Candidate:
        return Candidate(tuple(heads), real, fake, raw, self.evidence.fid(fake), self.evidence.class_distance(fake), "", "")

    def _fresh(self, purpose: int) -> nn.Module:
        """A head with first weights of its own."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.bench.random(purpose).initial_seed())
            return self.bench.kind.build(self.bench.size)["ratio"].to(self.bench.device)


def _columns(said: Tensor) -> Tensor:
    """The output of a head, (rows,) or (rows, scores), as (rows, scores)."""
    return said.reshape(len(said), -1).clone()

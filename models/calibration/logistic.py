"""Logistic calibration: the line that turns a score into the log density ratio of two samples, as far as a line can  (Platt 1999)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

ROUNDS = 100  # Newton's method needs under ten; more where it is damped
RIDGE = 1e-8  # keeps the slope finite where the samples do not overlap


class Line(NamedTuple):
    """log ratio ≈ slope · score + intercept; 1 and 0 for a score that is the log ratio already."""

    slope: float
    intercept: float


class Labelled(NamedTuple):
    """Scores of two samples, together, on the CPU."""

    scores: Tensor  # (scores, ...) float64
    is_real: Tensor  # (scores,) float64, 1 or 0
    weight: Tensor  # (scores,) float64; each sample's sum to ½

    def sorted(self) -> Labelled:
        """By score, lowest first."""
        order = self.scores.argsort(stable=True)
        return Labelled(*(column[order] for column in self))


def balanced(real: Tensor, fake: Tensor, real_weight: Tensor | None = None) -> Labelled:
    """Scores of real and of generated images, (real, ...) and (fake, ...), as two samples that weigh the same.

    `real_weight`, (real,), sums to 1; without it all real images weigh the same.
    """
    scores = torch.cat([real, fake]).double().cpu()
    is_real = torch.cat([torch.ones(len(real), dtype=torch.float64), torch.zeros(len(fake), dtype=torch.float64)])
    shares = torch.full((len(real),), 1 / len(real), dtype=torch.float64) if real_weight is None else real_weight
    return Labelled(scores, is_real, torch.cat([shares / 2, torch.full((len(fake),), 0.5 / len(fake), dtype=torch.float64)]))


def fit_line(real: Tensor, fake: Tensor, real_weight: Tensor | None = None) -> Line:
    """The line that minimises the balanced cross-entropy of scores, (real,) and (fake,): the mean over real plus the mean over fake."""
    slopes, intercept = fit_plane(real.unsqueeze(1), fake.unsqueeze(1), real_weight=real_weight)
    return Line(float(slopes[0]), intercept)


def fit_plane(real: Tensor, fake: Tensor, *, real_weight: Tensor | None = None, shrinkage: float = RIDGE) -> tuple[Tensor, float]:
    """The same of several scores, (real, scores) and (fake, scores): slopes, (scores,) float64, and intercept.

    All slopes but the first are shrunk by a penalty of `shrinkage`/2 · slope² on standardised scores.
    """
    labelled = balanced(real, fake, real_weight)
    centre, spread = labelled.scores.mean(0), labelled.scores.std(0).clamp_min(1e-12)
    standard = labelled._replace(scores=torch.cat([(labelled.scores - centre) / spread, torch.ones(len(labelled.scores), 1)], 1))
    ridge = torch.full((standard.scores.shape[1],), shrinkage, dtype=torch.float64)
    ridge[[0, -1]] = RIDGE
    plane = torch.zeros_like(ridge)
    for _ in range(ROUNDS):
        step = _newton(standard, ridge, plane)
        plane = plane - step
        if step.abs().max() < 1e-10:
            break
    slopes = plane[:-1] / spread
    return slopes, float(plane[-1] - slopes @ centre)


def _newton(labelled: Labelled, ridge: Tensor, plane: Tensor) -> Tensor:
    """Newton's step, at most 1 long, on the weighted cross-entropy."""
    columns, is_real, weight = labelled
    chance = (columns @ plane).sigmoid()
    gradient = columns.T @ (weight * (chance - is_real)) + ridge * plane
    curvature = (columns * (weight * chance * (1 - chance)).unsqueeze(1)).T @ columns + ridge.diag()
    step = torch.linalg.solve(curvature, gradient)
    shortened: Tensor = step / step.norm().clamp_min(1.0)
    return shortened

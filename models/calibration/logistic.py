"""Logistic calibration: the line that turns a score into the log density ratio of two samples, as far as a line can  (Platt 1999)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

ROUNDS = 100  # Newton's method needs under ten; more where it is damped
RIDGE = 1e-8  # keeps the slope finite where the samples do not overlap


class Labelled(NamedTuple):
    """Scores of two samples, together, on the CPU."""

    scores: Tensor  # (scores,) float64
    is_real: Tensor  # (scores,) float64, 1 or 0
    weight: Tensor  # (scores,) float64; each sample's sum to ½

    def sorted(self) -> Labelled:
        """By score, lowest first."""
        order = self.scores.argsort(stable=True)
        return Labelled(*(column[order] for column in self))


def balanced(real: Tensor, fake: Tensor) -> Labelled:
    """Scores of real and of generated images, (real,) and (fake,), as two samples that weigh the same."""
    scores = torch.cat([real, fake]).double().cpu()
    is_real = torch.cat([torch.ones(len(real), dtype=torch.float64), torch.zeros(len(fake), dtype=torch.float64)])
    return Labelled(scores, is_real, is_real * (0.5 / len(real)) + (1 - is_real) * (0.5 / len(fake)))


class Line(NamedTuple):
    """log ratio ≈ slope · score + intercept; 1 and 0 for a score that is the log ratio already."""

    slope: float
    intercept: float


def fit_line(real: Tensor, fake: Tensor) -> Line:
    """The line that minimises the balanced cross-entropy of scores, (real,) and (fake,): the mean over real plus the mean over fake."""
    scores, is_real, weight = balanced(real, fake)
    centre, spread = scores.mean(), scores.std().clamp_min(1e-12)
    columns = torch.stack([(scores - centre) / spread, torch.ones_like(scores)], 1)  # (scores, 2)
    line = torch.zeros(2, dtype=torch.float64)
    for _ in range(ROUNDS):
        step = _newton(columns, is_real, weight, line)
        line = line - step
        if step.abs().max() < 1e-10:
            break
    slope = float(line[0] / spread)
    return Line(slope, float(line[1]) - slope * float(centre))


def _newton(columns: Tensor, is_real: Tensor, weight: Tensor, line: Tensor) -> Tensor:
    """Newton's step, at most 1 long, on the weighted cross-entropy."""
    chance = (columns @ line).sigmoid()
    gradient = columns.T @ (weight * (chance - is_real)) + RIDGE * line
    curvature = (columns * (weight * chance * (1 - chance)).unsqueeze(1)).T @ columns + RIDGE * torch.eye(2, dtype=torch.float64)
    step = torch.linalg.solve(curvature, gradient)
    shortened: Tensor = step / step.norm().clamp_min(1.0)
    return shortened

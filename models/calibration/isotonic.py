"""Isotonic calibration: the non-decreasing function of a score that is closest to the log density ratio  (Zadrozny & Elkan 2002).

Isotonic regression gives a staircase, on which a gradient is zero and Langevin chains stand still. Here each step of the stairs becomes
a knot at its mean score, and the function is linear between knots and constant beyond the first and last: it has a gradient almost
everywhere, zero only beyond the knots and between two that have the same value.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from sklearn.isotonic import IsotonicRegression
from torch import Tensor

from models.calibration.logistic import balanced

SHARE = 0.01  # of both samples' weight in a step of the stairs, at least: fewer scores say little about a ratio


class Knots(NamedTuple):
    """Where the function bends."""

    scores: Tensor  # (knots,) increasing
    log_ratios: Tensor  # (knots,) non-decreasing, in nats


def fit_knots(real: Tensor, fake: Tensor) -> Knots:
    """The knots of the function for scores, (real,) and (fake,), each sample of weight 1; at least two of them."""
    scores, is_real, weight = balanced(real, fake).sorted()
    share = IsotonicRegression(y_min=0, y_max=1).fit_transform(scores.numpy(), is_real.numpy(), sample_weight=weight.numpy())
    step = _steps(torch.from_numpy(share), weight)
    total = torch.zeros(int(step[-1]) + 1, dtype=torch.float64)
    mass = total.index_add(0, step, weight)
    middle = total.index_add(0, step, weight * scores) / mass
    chance = total.index_add(0, step, weight * is_real) / mass
    least = 0.5 / (2 + min(len(real), len(fake)) * SHARE)  # Laplace's rule for a step in which one sample is missing
    return _at_least_two(Knots(middle.float(), chance.clamp(least, 1 - least).logit().float()))


def _steps(level: Tensor, weight: Tensor) -> Tensor:
    """The number of the stairs' step each sorted score is on, (scores,) int64; a step lighter than SHARE joins the next one."""
    ends = torch.cat([(level.diff() > 0).nonzero().flatten() + 1, torch.tensor([len(level)])])
    mass = torch.cat([torch.zeros(1, dtype=torch.float64), weight.cumsum(0)])
    kept, begun = [], 0
    for end in ends.tolist():
        if mass[end] - mass[begun] >= SHARE:
            kept.append(end)
            begun = end
    if kept and begun < len(level):
        kept[-1] = len(level)
    starts = torch.zeros(len(level), dtype=torch.int64)
    starts[torch.tensor(kept[:-1], dtype=torch.int64)] = 1
    return starts.cumsum(0)


def _at_least_two(knots: Knots) -> Knots:
    """Two equal knots where the scores say nothing, for a line through them."""
    if len(knots.scores) > 1:
        return knots
    return Knots(torch.cat([knots.scores, knots.scores + 1]), knots.log_ratios.repeat(2))

"""Searches for kernel settings; prefers the cheapest among those whose FID on `validation` it cannot tell from the best."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from statistics import mean, stdev
from typing import NamedTuple

import torch

from models.kernels import Kernel
from models.metrics.base import Reference
from models.metrics.fid import distance
from models.training.measurement import Subject, affordable, evaluations

SEEDS = (100, 101, 102, 103)
TRIALS = 3 * len(SEEDS)  # runs of a search
STUDENT = 3.18  # a mean difference over four seeds beyond so many of its standard errors is no noise (95 %, Student's t)
BUDGET = 4e12  # floating-point operations of energies: about a minute on two cores
FEWEST, MOST = 64, 250  # chains of a seed


class Setting(NamedTuple):
    """What is tuned, the cheapest first."""

    steps: int
    step_size: float


def tuned(subject: Subject, sampler: str, kernel: Kernel, reference: Reference, *, advance: Callable[[], None] = lambda: None) -> Kernel:
    """The kernel with its steps and step size halved, kept or doubled, or as it is if it has no step size.

    Every setting runs from the same latents with the same noise; `reference` holds validation images; `advance`
    hears of each of `TRIALS` runs.
    """
    if "step_size" not in type(kernel).model_fields:
        return kernel
    start = Setting(kernel.steps, float(getattr(kernel, "step_size")))  # noqa: B009
    counts = sorted({max(start.steps // 2, 1), start.steps, 2 * start.steps})
    longest = kernel.model_copy(update={"steps": counts[-1]})
    chains = affordable(BUDGET / 3, subject.operations[sampler] * evaluations(longest) * len(SEEDS), FEWEST, MOST)
    few = replace(subject, images=chains)
    fids: dict[Setting, list[float]] = {}
    for size in (start.step_size / 2, start.step_size, 2 * start.step_size):
        for seed in SEEDS:
            for steps, points in few.passed(sampler, longest.model_copy(update={"step_size": size}), seed, counts).items():
                fids.setdefault(Setting(steps, size), []).append(distance(few.images_of(sampler, torch.cat(points)), reference))
            advance()
    return kernel.model_copy(update=chosen(fids, start)._asdict())


def chosen(fids: dict[Setting, list[float]], start: Setting) -> Setting:
    """The setting with the fewest steps among the best and those not worse than it by more than noise.

    `fids` are those of each setting over common seeds. Among equals in steps `start`'s step size comes first, then the lowest mean.
    """
    best = min(fids, key=lambda setting: mean(fids[setting]))
    level = [setting for setting in fids if not _worse(fids[setting], fids[best])]
    return min(level, key=lambda setting: (setting.steps, setting.step_size != start.step_size, mean(fids[setting])))


def _worse(values: list[float], best: list[float]) -> bool:
    """Whether paired differences show that `values` are higher."""
    differences = [value - other for value, other in zip(values, best, strict=True)]
    return mean(differences) > STUDENT * stdev(differences) / math.sqrt(len(differences))

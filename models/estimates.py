"""What a training or calibration run will take: parameters, memory and floating-point operations, estimated without torch.

A run is more than its steps: the version is calibrated, tuned and measured by chains, and that is most of a short run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from pydantic import JsonValue

from models import datasets
from models.calibration.settings import Method, RatioHead
from models.costs import Cost, total
from models.families import family
from models.families.base import BACK_AND_FORTH, Family, Size

FLOAT = 4  # bytes of a number
PROCESS = 450 << 20  # bytes of a process that has loaded torch
EXTRACTORS = 10**12  # operations that fit the feature networks of the metrics
COPIES = 7  # of a parameter: itself, its gradient, two moments, and those of an evaluation or a save
CHUNK = 250  # chains or images computed together, outside the steps
HELD = 10_000  # generated images held in memory at once, at most
SCORED = 2_000  # images of one evaluation, at most
TUNED, MEASURED = 12 * 64, 3 * 500  # fewest chains that a version is tuned and measured with
BUDGETS = 10**13  # operations that tuning and measuring spend where chains are cheap
HEAD_BATCH = 64  # real and as many generated images of a step of a ratio head
JUDGED = 100_000  # images that a calibration draws and judges, about


class Estimate(NamedTuple):
    """What a run will take."""

    parameters: int
    bytes: int  # of memory at the peak, the dataset included
    operations: int  # floating-point, of the whole run


class Planned(Protocol):
    """What of a training run decides how much it takes."""

    @property
    def family(self) -> str: ...
    @property
    def dataset(self) -> str: ...
    @property
    def steps(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def latent_size(self) -> int: ...
    @property
    def evaluations(self) -> int: ...
    @property
    def calibrate(self) -> bool: ...
    @property
    def options(self) -> Mapping[str, JsonValue]: ...


def of_training(run: Planned) -> Estimate:
    """Of a training run, from its first step to the published version. Raises Unsuitable for images that the family cannot make."""
    kind, seen = family(run.family, run.options), datasets.outline(run.dataset)
    many = 2 if seen.classes is None else seen.classes  # a folder's classes are not known; if it has none, the job says so
    size = Size(image_shape=seen.image_shape, latent_size=run.latent_size, width=run.width, classes=many)
    costs = kind.costs(size)
    step, whole = kind.step_cost(costs), total(*costs.values())
    batch = run.batch_size * kind.batches_per_step
    operations = run.steps * run.batch_size * step.operations + run.evaluations * SCORED * _drawn(kind, whole, kind.preview_sampler)
    operations += _published(kind, whole)
    if run.calibrate and kind.needs_calibration:
        operations += _calibrated(RatioHead(), costs)
    kept = max(run.batch_size * step.numbers, CHUNK * whole.numbers)
    return Estimate(whole.parameters, _bytes(seen, whole, kept, batch), operations)


def of_calibration(family_name: str, options: Mapping[str, JsonValue], size: Size, dataset: str, settings: Method) -> Estimate:
    """Of the calibration of a published version, which is tuned and measured anew."""
    kind = family(family_name, options)
    costs = kind.costs(size)
    whole, heads = total(*costs.values()), settings.heads * settings.stages if isinstance(settings, RatioHead) else 0
    ratios = Cost(parameters=heads * costs["ratio"].parameters)
    operations = _published(kind, whole) + _calibrated(settings, costs)
    return Estimate(whole.parameters, _bytes(datasets.outline(dataset), whole + ratios, CHUNK * whole.numbers, 0), operations)


def _bytes(seen: datasets.Outline, networks: Cost, kept: int, batch: int) -> int:
    """`kept` numbers for the gradient, in a batch of so many real images."""
    images = (seen.images + HELD + batch) * math.prod(seen.image_shape)
    return PROCESS + FLOAT * (COPIES * networks.parameters + kept + images)


def _drawn(kind: Family, whole: Cost, sampler: str) -> int:
    """Operations of an image of a sampler."""
    kernel = kind.samplers()[sampler]
    return whole.operations * (1 + (BACK_AND_FORTH * kernel.ticks if kernel else 0))


def _published(kind: Family, whole: Cost) -> int:
    """Operations of tuning and measuring; each has a budget, and a fewest number of chains that it takes whatever they cost."""
    chains = [max(BUDGETS, (2 * TUNED + MEASURED) * _drawn(kind, whole, name)) for name, kernel in kind.samplers().items() if kernel]
    return EXTRACTORS + sum(chains) + HELD * whole.operations


def _calibrated(settings: Method, costs: Mapping[str, Cost]) -> int:
    """Operations of fitting a log ratio and judging it."""
    generator, ratio = costs["generator"], costs["ratio"]
    judging = JUDGED * (generator + ratio).operations
    if not isinstance(settings, RatioHead):
        return judging
    step = HEAD_BATCH * (generator.operations + 2 * BACK_AND_FORTH * ratio.operations)
    return judging + settings.steps * settings.heads * settings.stages * step

"""Estimates what a training or calibration job takes, and refuses it where that is more than the settings allow."""

from collections.abc import Iterator
from typing import Any

from models import estimates
from models.calibration.settings import Method, RatioHead
from models.cards import ModelCard
from models.costs import Unsuitable
from models.estimates import Estimate
from models.families import FAMILIES
from models.families.base import Size
from service.protocol.errors import Refusal
from service.protocol.schemas import Fault
from service.protocol.validation import shown, summary
from service.settings import Settings
from workers.jobs import TrainJob

TERA = 10**12
# Usual values. A refusal names the field whose usual value would lower the run most.
USUAL: dict[str, Any] = {
    "width": 64,
    "batch_size": 64,
    "latent_size": 64,
    "steps": 2000,
    "evaluations": 10,
    "options": {},
    "dataset": "digits",
}


def training_work(job: TrainJob, limits: Settings) -> float:
    """Operations that a training job takes, in 10^12. Raises Refusal where the job is too costly, or where its parts do not fit."""
    if job.steps > limits.max_training_steps:
        _refuse((_fault("steps", job, f"this server trains at most {limits.max_training_steps} steps"),))
    try:
        estimate = estimates.of_training(job)
    except Unsuitable as error:
        fault = _fault(error.field, job, str(error))
        raise Refusal("invalid-request", summary((fault,)), fault) from None
    excesses = _excesses(estimate, limits)
    _refuse(tuple(_fault(_dearest(job, place), job, reason) for place, reason in excesses))
    return estimate.operations / TERA


def calibration_work(card: ModelCard, dataset: str, settings: Method, limits: Settings) -> float:
    """Operations that a calibration takes, in 10^12. Raises Refusal where that is too much."""
    networks = {"image_shape": card.image_shape, **card.networks}
    if card.family not in FAMILIES or not {"latent_size", "width"} <= networks.keys():
        return 0.0  # no family of this release made it: the job says so
    size = Size.model_validate(networks)
    estimate = estimates.of_calibration(card.family, card.options, size, dataset, settings)
    field, value = ("options.steps", settings.steps) if isinstance(settings, RatioHead) else ("method", settings.method)
    _refuse(tuple(Fault(field=field, value=value, reason=reason) for _, reason in _excesses(estimate, limits)))
    return estimate.operations / TERA


def _excesses(estimate: Estimate, limits: Settings) -> Iterator[tuple[int, str]]:
    """The figures of an estimate, by their place in it, that are over a limit, and what to say of them."""
    if estimate.parameters > limits.max_training_parameters:
        most = limits.max_training_parameters
        yield 0, f"the networks would have {estimate.parameters} parameters; this server allows {most}"
    if estimate.bytes > limits.max_training_bytes:
        yield 1, f"the job would take about {estimate.bytes} bytes of memory; this server allows {limits.max_training_bytes}"
    if estimate.operations > limits.max_training_tflop * TERA:
        tflop = f"{estimate.operations / TERA:.4g}"
        yield 2, f"the job would take about {tflop}·10^12 floating-point operations; this server allows {limits.max_training_tflop}"


def _dearest(job: TrainJob, place: int) -> str:
    """The field whose usual value would lower a figure of the estimate most."""
    return min(USUAL, key=lambda field: estimates.of_training(job.model_copy(update={field: USUAL[field]}))[place])


def _fault(field: str, job: TrainJob, reason: str) -> Fault:
    name, _, option = field.partition(".")
    value = getattr(job, name)
    return Fault(field=field, value=shown(value.get(option) if option else value), reason=reason)


def _refuse(faults: tuple[Fault, ...]) -> None:
    if faults:
        raise Refusal("too-costly", summary(faults), *faults)

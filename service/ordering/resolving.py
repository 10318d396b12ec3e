"""Fills in what a request leaves open: version, sampler, kernel settings, seed."""

import re
import secrets
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from models import datasets, families
from models.calibration.settings import METHODS
from models.cards import ModelCard
from models.checkpoints import Store, UnknownModel
from models.families import FAMILIES
from models.kernels import KERNELS, Kernel
from service.ordering.pricing import calibration_work, training_work
from service.protocol.errors import Refusal
from service.protocol.schemas import CalibrateRequest, Fault, GenerateRequest, TrainRequest
from service.protocol.validation import faults_of, shown, summary
from service.settings import Settings
from workers.jobs import CalibrateJob, ClassData, GenerateJob, TrainJob

REFERENCE = re.compile(r"([a-z0-9][a-z0-9-]{0,62})(?:@([1-9][0-9]{0,8}))?")
SHOWN_CLASSES = 20  # a refusal names so many choices one by one
SEED_BITS = 63  # so many that two seeds drawn in a lifetime hardly meet, and as many as a signed word holds
Given = TypeVar("Given", bound=BaseModel)


def find(store: Store, reference: str) -> ModelCard:
    """The card of `name` or `name@version`. Raises UnknownModel."""
    match = REFERENCE.fullmatch(reference)
    if match is None:
        raise UnknownModel(reference, tuple(card.name for card in store.cards()))
    name, version = match.groups()
    return store.card(name, int(version) if version else None)


def versioned(store: Store, reference: str) -> ModelCard:
    """The card of `name@version`. Raises UnknownModel, or Refusal where no version is named."""
    card = find(store, reference)
    if "@" not in reference:
        choices = tuple(f"{card.name}@{version}" for version in store.versions(card.name))
        raise _refuse("reference", reference, "must name a version", choices)
    return card


def generate_job(request: GenerateRequest, store: Store, max_images: int, caller: str = "") -> GenerateJob:
    """The job of a request. Raises Refusal naming the field."""
    try:
        card = find(store, request.model)
    except UnknownModel as error:
        raise _refuse("model", request.model, "unknown model", error.choices) from None
    sampler = request.sampler or card.default_sampler
    if sampler not in card.samplers:
        raise _refuse("sampler", sampler, f"not a sampler of {card.name}", tuple(card.samplers))
    if request.num_images > max_images:
        raise _refuse("num_images", request.num_images, f"must be at most {max_images} on this server")
    seed = _seed(request.seed)
    return GenerateJob(
        model=card.name,
        version=card.version,
        digest=card.digest,
        sampler=sampler,
        mcmc=_kernel(request.mcmc, sampler, card),
        num_images=request.num_images,
        seed=seed,
        layout=request.layout,
        priority=request.priority,
        deadline_s=request.deadline_s,
        data=_classes(request, card, seed),
        caller=caller,
    )


def train_job(request: TrainRequest, limits: Settings) -> TrainJob:
    """The training job of a request. Raises Refusal naming the field."""
    if request.family not in families.names():
        raise _refuse("family", request.family, "unknown family", families.names())
    if not datasets.is_name(request.dataset):
        raise _refuse("dataset", request.dataset, "unknown dataset", datasets.choices())
    options = _validated(FAMILIES[request.family], request.options, "options").model_dump(mode="json")
    job = TrainJob(**request.model_dump(exclude={"seed", "options"}), options=options, seed=_seed(request.seed))
    return job.model_copy(update={"tflop": training_work(job, limits)})


def calibrate_job(reference: str, request: CalibrateRequest, store: Store, limits: Settings) -> CalibrateJob:
    """The calibration job of a request for `name` or `name@version`. Raises UnknownModel, or Refusal naming the field."""
    card = find(store, reference)
    dataset = request.dataset or card.training.dataset
    if dataset not in datasets.names():
        raise _refuse("dataset", dataset, "unknown dataset", datasets.names())
    if not card.needs_calibration:
        choices = tuple(other.name for other in store.cards() if other.needs_calibration)
        raise _refuse("name", card.name, f"its family, {card.family}, has no sampler that rests on a calibration", choices)
    if request.method not in METHODS:
        raise _refuse("method", request.method, "unknown method", tuple(METHODS))
    settings = _validated(METHODS[request.method], {"method": request.method, **request.options}, "options")
    return CalibrateJob(
        model=card.name,
        version=card.version,
        digest=card.digest,
        settings=settings,
        dataset=dataset,
        seed=_seed(request.seed),
        promote=request.promote,
        tflop=calibration_work(card, dataset, settings, limits),
    )


def _kernel(given: dict[str, Any] | None, sampler: str, card: ModelCard) -> Kernel | None:
    """The kernel with missing settings from the card's default if that is the same kernel, else from the kernel's own defaults."""
    default = card.samplers[sampler]
    if default is None:
        if given is not None:
            others = tuple(name for name, kernel in card.samplers.items() if kernel is not None)
            raise _refuse(
                "mcmc",
                given,
                f"sampler {sampler} runs no chain and takes no kernel settings; samplers with a kernel are the choices",
                others,
            )
        return None
    if not given:
        return default
    name = given.get("kernel", default.kernel)
    if not isinstance(name, str) or name not in KERNELS:
        raise _refuse("mcmc.kernel", name, "unknown kernel", tuple(KERNELS))
    filled = {**(default.model_dump() if name == default.kernel else {"kernel": name}), **given}
    return _validated(KERNELS[name], filled, "mcmc")


def _classes(request: GenerateRequest, card: ModelCard, seed: int) -> ClassData | None:
    """The classes of a request's images; of a model that has classes, drawn by the seed where the request names none."""
    if request.class_ is None:
        return ClassData.drawn(seed, request.num_images, card.classes) if card.classes else None
    if not card.classes:
        raise _refuse("class", request.class_, f"{card.name} takes no class")
    labels = (request.class_,) if isinstance(request.class_, int) else tuple(request.class_)
    unknown = [label for label in labels if label >= card.classes]
    if unknown:
        choices = tuple(str(label) for label in range(card.classes)) if card.classes <= SHOWN_CLASSES else (f"0 to {card.classes - 1}",)
        raise _refuse("class", unknown[0], f"not a class of {card.name}", choices)
    return ClassData(labels=labels)


def _validated(model: type[Given], given: dict[str, Any], field: str) -> Given:
    """Settings that stand at a field of the request. Raises Refusal naming what is wrong within it."""
    try:
        return model.model_validate(given, strict=True)
    except ValidationError as error:
        faults = faults_of(error.errors(include_url=False), model=model, within=field)
        raise Refusal("invalid-request", summary(faults), *faults) from None


def _seed(given: int | None) -> int:
    return secrets.randbits(SEED_BITS) if given is None else given


def _refuse(field: str, value: object, reason: str, choices: tuple[str, ...] = ()) -> Refusal:
    fault = Fault(field=field, value=shown(value), reason=reason, choices=choices)
    return Refusal("invalid-request", summary((fault,)), fault)

"""From a PNG made here back to the job that made it, and what differs when it comes out differently."""

import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

from PIL import Image
from pydantic import ValidationError

from models.checkpoints import Store, UnknownModel
from service.protocol import delivery
from service.protocol.errors import Refusal
from service.protocol.schemas import Fault
from service.protocol.validation import faults_of, shown, summary
from workers.jobs import GenerateJob, ImageData

COMPARED = ("contract", "software", "diagnostics", "ebbtide")  # text of a PNG, what explains most first


def text_of(png: bytes) -> dict[str, str]:
    """The text before a PNG's pixels, which are not decoded. Raises Refusal where there is none of ours."""
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
            text = {str(name): value for name, value in picture.info.items() if isinstance(value, str)}
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Refusal("no-request", f"this is no PNG that can be read: {error}") from None
    missing = [name for name in ("ebbtide", "image") if name not in text]
    if missing:
        raise Refusal("no-request", f"the PNG has no text {missing[0]!r}; pictures made by Ebbtide have it, unless a program removed it")
    return text


def job_of(text: Mapping[str, str], store: Store, max_images: int, caller: str) -> GenerateJob:
    """The job that made a picture. Raises Refusal naming what is missing: its checkpoint, or a setting that is not known here."""
    try:
        job = GenerateJob.model_validate_json(text["ebbtide"], extra="forbid")
    except ValidationError as error:
        faults = faults_of(error.errors(include_url=False), model=GenerateJob, within="ebbtide")
        raise Refusal("not-replayable", f"its request is not known here: {summary(faults)}", *faults) from None
    try:
        card = store.card(job.model, job.version)
    except UnknownModel as error:
        raise _missing("model", f"{job.model}@{job.version}", "the checkpoint is not here", error.choices) from None
    if card.digest != job.digest:
        raise _missing("digest", job.digest, f"{job.model}@{job.version} has other weights here, {card.digest}")
    if job.sampler not in card.samplers:
        raise _missing("sampler", job.sampler, f"not a sampler of {job.model}", tuple(card.samplers))
    if (job.mcmc is None) != (card.samplers[job.sampler] is None):
        raise _missing("mcmc", None if job.mcmc is None else job.mcmc.kernel, f"the sampler {job.sampler} of {job.model} needs otherwise")
    if job.num_images > max_images:
        raise _missing("num_images", job.num_images, f"must be at most {max_images} on this server")
    if isinstance(job.data, ImageData) and job.data.shape != card.image_shape:
        raise _missing("data", job.data.shape, f"images of {job.model} have the shape {card.image_shape}")
    return job.model_copy(update={"caller": caller} | dict.fromkeys(job.aside - {"caller"}, ""))


def file_of(text: Mapping[str, str], job: GenerateJob) -> str:
    """Which of the job's files a picture is. Raises Refusal where the job has no such file."""
    image = text["image"]
    if image == "grid" and job.layout == "grid" and job.num_images > 1:
        return delivery.GRID
    if image.isascii() and image.isdecimal() and len(image) < 5 and int(image) < job.num_images:
        return f"{int(image)}.png"
    raise _missing("image", image[:100], f"the request made no such file of {job.num_images} images")


def differences(given: Mapping[str, str], made: Mapping[str, str]) -> tuple[Fault, ...]:
    """What a picture and the one made again say of themselves that differs."""
    return tuple(fault for name in COMPARED for fault in _differing(name, _parsed(given.get(name)), _parsed(made.get(name))))


def _differing(name: str, given: Any, made: Any) -> Iterator[Fault]:
    if isinstance(given, dict) and isinstance(made, dict):
        for part in sorted({*given, *made}):
            if given.get(part) != made.get(part):
                yield Fault(field=f"{name}.{part}", value=shown(given.get(part)), reason=f"here it is {made.get(part)!r}"[:300])
    elif given != made:
        yield Fault(field=name, value=shown(given), reason=f"here it is {made!r}"[:300])


def _parsed(text: str | None) -> Any:
    try:
        return json.loads(text or "null")
    except (ValueError, RecursionError):
        return text


def _missing(field: str, value: Any, reason: str, choices: tuple[str, ...] = ()) -> Refusal:
    return Refusal("not-replayable", f"{field}: {reason}", Fault(field=field, value=shown(value), reason=reason, choices=choices))

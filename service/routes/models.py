"""The published models: their cards, samples and calibration."""

import hashlib
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import FileResponse

from models.cards import ModelCard
from models.checkpoints import Kept, Store
from service.admission.callers import caller_of
from service.admission.dependencies import Injected
from service.admission.ownership import require_ownership
from service.ordering.idempotency import enqueue_once, repeatable
from service.ordering.resolving import calibrate_job, find, versioned
from service.protocol import delivery
from service.protocol.bodies import documented, read
from service.protocol.errors import Refusal
from service.protocol.negotiation import BINARY, JSON, OCTETS, PICTURE, PNG, with_octets
from service.protocol.schemas import CalibrateRequest, JobReply, ModelList, ModelReply
from service.protocol.semantics import tagged
from workers.jobs import CalibrateJob

router = APIRouter(tags=["models"], prefix="/models")
Reference = Annotated[str, Path(max_length=100, description="name, or name@version")]


@router.get("", response_model=ModelList)
async def models(request: Request, dependencies: Injected) -> Response:
    """The default version of each model."""
    return _tagged(
        request,
        await dependencies.off_loop(
            lambda: ModelList(models=tuple(_reply(card, dependencies.store) for card in dependencies.store.cards()))
        ),
    )


@router.get("/{reference}", response_model=ModelReply)
async def model(reference: Reference, request: Request, dependencies: Injected) -> Response:
    """The card of a model: samplers, default settings, calibration, metrics and the training run."""
    return _tagged(request, await dependencies.off_loop(lambda: _reply(find(dependencies.store, reference), dependencies.store)))


@router.get("/{reference}/samples.png", response_class=FileResponse, responses=PICTURE)
async def samples(reference: Reference, request: Request, dependencies: Injected) -> FileResponse:
    """A picture of the model's samples."""
    path = await dependencies.off_loop(lambda: dependencies.store.folder(find(dependencies.store, reference)) / "samples.png")
    if not path.is_file():
        raise Refusal("no-image", f"{reference} was published without samples")
    return FileResponse(path, media_type=with_octets(request.headers.get("accept"), PNG))


@router.get("/{reference}/reliability.png", response_class=FileResponse, responses=PICTURE)
async def reliability(reference: Reference, request: Request, dependencies: Injected) -> FileResponse:
    """A plot of what the model's density ratio says against what is true, on test images."""
    path = await dependencies.off_loop(lambda: dependencies.store.folder(find(dependencies.store, reference)) / "reliability.png")
    if not path.is_file():
        raise Refusal("no-image", f"{reference} has no calibration that was measured")
    return FileResponse(path, media_type=with_octets(request.headers.get("accept"), PNG))


@router.get("/{reference}/card.json", response_class=FileResponse, responses={200: {"content": {JSON: {}}}})
async def card(reference: Reference, dependencies: Injected) -> FileResponse:
    """The card as its file has it."""
    path = await dependencies.off_loop(lambda: dependencies.store.folder(find(dependencies.store, reference)) / "card.json")
    return FileResponse(path, media_type=JSON)


@router.get("/{reference}/weights.safetensors", response_class=FileResponse, responses={200: {"content": {OCTETS: BINARY}}})
async def weights(reference: Reference, dependencies: Injected) -> FileResponse:
    """The weights, whose sha256 is the card's digest. Needs the scope `admin`."""
    path = await dependencies.off_loop(lambda: dependencies.store.weights_file(find(dependencies.store, reference)))
    if not path.is_file():
        raise Refusal("no-weights", f"the weights of {reference} are not here")
    return FileResponse(path, media_type=OCTETS)


@router.post(
    "/{reference}/calibrate",
    status_code=202,
    openapi_extra=documented(CalibrateRequest),
    response_class=Response,
    responses={202: {"description": "Accepted; `Location` is the job", "model": JobReply}},
)
async def calibrate(reference: Reference, request: Request, dependencies: Injected) -> Response:
    """Calibrates a model anew, for its owner or an admin.

    The job publishes a new version, or fails with the reason `no-gain` if samples get no better by it.
    """
    asked = await read(request, CalibrateRequest, dependencies.settings)
    job = await dependencies.off_loop(lambda: calibrate_job(reference, asked, dependencies.store, dependencies.settings))
    await dependencies.off_loop(lambda: require_ownership(dependencies.store, job.model))
    view = await enqueue_once(dependencies, job.model_copy(update={"caller": caller_of(request)}), repeatable(request, asked))
    assert isinstance(view.job, CalibrateJob)
    headers = {"Location": delivery.address(view.id), "X-Ebbtide-Job": view.id, "X-Ebbtide-Seed": str(view.job.seed)}
    return Response(delivery.reply(view).model_dump_json(), 202, headers, media_type=JSON)


@router.post("/{reference}/promote", response_model=ModelReply)
async def promote(reference: Reference, dependencies: Injected) -> Response:
    """Makes `name@version` the default, which requests that name no version get; an older version rolls back. For its owner or an admin."""

    def promoted() -> ModelReply:
        card = versioned(dependencies.store, reference)
        require_ownership(dependencies.store, card.name)
        dependencies.store.promote(card.name, card.version)
        return _reply(card, dependencies.store)

    return Response((await dependencies.off_loop(promoted)).model_dump_json(), media_type=JSON)


@router.delete("/{reference}", status_code=204)
async def delete(reference: Reference, dependencies: Injected) -> None:
    """Deletes `name@version`; needs the scope `admin`. Refused for the default version and for what was shipped."""

    def deleted() -> None:
        card = versioned(dependencies.store, reference)
        try:
            dependencies.store.delete(card.name, card.version)
        except Kept as error:
            raise Refusal("kept", str(error)) from None

    await dependencies.off_loop(deleted)


def _tagged(request: Request, reply: ModelList | ModelReply) -> Response:
    """Cards as JSON, under a tag of their content."""
    content = reply.model_dump_json().encode()
    return tagged(request, Response(content, media_type=JSON), hashlib.sha256(content).hexdigest()[:32], weak=True)


def _reply(card: ModelCard, store: Store) -> ModelReply:
    fields = {name: getattr(card, name) for name in ModelCard.model_fields}
    here = f"/models/{card.name}@{card.version}"
    plotted = (store.folder(card) / "reliability.png").is_file()
    return ModelReply(
        **fields,
        versions=tuple(store.versions(card.name)),
        default_version=store.default(card.name),
        samples=f"{here}/samples.png",
        reliability=f"{here}/reliability.png" if plotted else None,
    )

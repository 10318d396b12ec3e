"""The published models, their cards and samples."""

from typing import Annotated

from fastapi import APIRouter, Path
from fastapi.responses import FileResponse

from models.cards import ModelCard
from models.checkpoints import Store
from service.admission.dependencies import Injected
from service.admission.resolving import find
from service.protocol.errors import Refusal
from service.protocol.negotiation import PNG
from service.protocol.schemas import ModelList, ModelReply

router = APIRouter(tags=["models"], prefix="/models")
Reference = Annotated[str, Path(max_length=100, description="name, or name@version")]


@router.get("")
async def models(dependencies: Injected) -> ModelList:
    """The newest version of each model."""
    return await dependencies.off_loop(
        lambda: ModelList(models=tuple(_reply(card, dependencies.store) for card in dependencies.store.cards()))
    )


@router.get("/{reference}")
async def model(reference: Reference, dependencies: Injected) -> ModelReply:
    """The card of a model: samplers, default settings, calibration, metrics and the training run."""
    return await dependencies.off_loop(lambda: _reply(find(dependencies.store, reference), dependencies.store))


@router.get("/{reference}/samples.png", response_class=FileResponse, responses={200: {"content": {PNG: {}}}})
async def samples(reference: Reference, dependencies: Injected) -> FileResponse:
    """A picture of the model's samples."""
    path = await dependencies.off_loop(lambda: dependencies.store.folder(find(dependencies.store, reference)) / "samples.png")
    if not path.is_file():
        raise Refusal("no-image", f"{reference} was published without samples")
    return FileResponse(path, media_type=PNG)


def _reply(card: ModelCard, store: Store) -> ModelReply:
    fields = {name: getattr(card, name) for name in ModelCard.model_fields}
    return ModelReply(**fields, versions=tuple(store.versions(card.name)), samples=f"/models/{card.name}@{card.version}/samples.png")

"""The checkpoints that can be asked for, and what they have been measured to be."""

from typing import Annotated

from fastapi import APIRouter, Path
from fastapi.responses import FileResponse

from models.cards import ModelCard
from models.checkpoints import Store
from service.admission.dependencies import ThisApp
from service.admission.resolving import find
from service.protocol.errors import Refusal
from service.protocol.negotiation import PNG
from service.protocol.schemas import ModelList, ModelReply

router = APIRouter(tags=["models"], prefix="/models")
Reference = Annotated[str, Path(max_length=100, description="name, or name@version")]


@router.get("")
async def models(parts: ThisApp) -> ModelList:
    """The newest version of each model."""
    return await parts.off_loop(lambda: ModelList(models=tuple(_reply(card, parts.store) for card in parts.store.cards())))


@router.get("/{reference}")
async def model(reference: Reference, parts: ThisApp) -> ModelReply:
    """The card of a model: samplers, default settings, calibration, metrics and where the weights came from."""
    return await parts.off_loop(lambda: _reply(find(parts.store, reference), parts.store))


@router.get("/{reference}/samples.png", response_class=FileResponse, responses={200: {"content": {PNG: {}}}})
async def samples(reference: Reference, parts: ThisApp) -> FileResponse:
    """A picture of what the model draws."""
    path = await parts.off_loop(lambda: parts.store.folder(find(parts.store, reference)) / "samples.png")
    if not path.is_file():
        raise Refusal("no-image", f"{reference} was published without samples")
    return FileResponse(path, media_type=PNG)


def _reply(card: ModelCard, store: Store) -> ModelReply:
    fields = {name: getattr(card, name) for name in ModelCard.model_fields}
    return ModelReply(**fields, versions=tuple(store.versions(card.name)), samples=f"/models/{card.name}@{card.version}/samples.png")

"""Probes, metrics and the playground page."""

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.admission.dependencies import Injected
from service.protocol.errors import RETRY_SOON, Refusal, document
from service.protocol.pages import PAGE, PLAYGROUND
from service.protocol.schemas import Health, Version
from workers.version import version

router = APIRouter(tags=["health"])


@router.get("/livez")
async def livez() -> Health:
    """The process answers."""
    return Health(status="alive")


@router.get("/version")
async def tell_version() -> Version:
    """What is running."""
    return Version(version=version())


@router.get("/readyz", response_model=Health)
async def readyz(dependencies: Injected) -> Health | Response:
    """Redis answers and has room, images have room, and a generation worker is alive; 503 otherwise."""
    state = await dependencies.queue_state()
    if state is None:
        return document(Refusal("redis-away", "Redis does not answer", headers=RETRY_SOON))  # not counted as refused: it is a probe
    try:
        await dependencies.require_room()
    except Refusal as refusal:
        return document(refusal)
    if not any(worker.kind == "generate" for worker in state.workers):
        return document(Refusal("no-worker", "no generation worker is alive", headers=RETRY_SOON))
    return Health(status="ready")


@router.get("/metrics", response_class=Response, include_in_schema=False)
async def metrics(dependencies: Injected) -> Response:
    """Metrics of the API and the queues, for Prometheus."""
    await dependencies.measure()
    return Response(generate_latest(dependencies.metrics.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/", include_in_schema=False)
async def playground() -> FileResponse:
    """The playground: a page that samples images."""
    return FileResponse(PLAYGROUND / "index.html", headers={"Cache-Control": "no-cache", "Content-Security-Policy": PAGE})

"""Whether the API lives, whether it can serve, what it measures, and the page people see first."""

from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.admission.dependencies import ThisApp
from service.protocol.errors import RETRY_SOON, Refusal, document
from service.protocol.schemas import Health

router = APIRouter(tags=["health"])
PLAYGROUND = Path(__file__).parent.parent / "playground"


@router.get("/livez")
async def livez() -> Health:
    """The process answers."""
    return Health(status="alive")


@router.get("/readyz", response_model=Health)
async def readyz(parts: ThisApp) -> Health | Response:
    """Redis answers and a generation worker was seen lately; 503 otherwise."""
    state = await parts.queue_state()
    if state is None:
        return document(Refusal("redis-away", "Redis does not answer", headers=RETRY_SOON))  # a probe is no request refused
    if not any(worker.kind == "generate" for worker in state.workers):
        return document(Refusal("no-worker", "no generation worker is alive", headers=RETRY_SOON))
    return Health(status="ready")


@router.get("/metrics", response_class=Response, include_in_schema=False)
async def metrics(parts: ThisApp) -> Response:
    """Everything measured here, for Prometheus."""
    parts.metrics.queues.state = await parts.queue_state()
    return Response(generate_latest(parts.metrics.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/", include_in_schema=False)
async def playground() -> FileResponse:
    """A page to draw images from."""
    return FileResponse(PLAYGROUND / "index.html", headers={"Cache-Control": "no-cache"})

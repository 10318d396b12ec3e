"""The API: `create_app` builds it from its settings and, in tests, from parts made elsewhere."""

import asyncio
import gc
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType

from fastapi import FastAPI

from models.checkpoints import Store
from service.admission.dependencies import Parts
from service.protocol import errors
from service.protocol.metrics import ApiMetrics, MetricsMiddleware
from service.protocol.openapi import describing
from service.routes import generate, health, jobs, models, train
from service.settings import Settings
from workers.queue.artifacts import Artifacts
from workers.queue.broker import Broker
from workers.version import version

ROUTES = (generate.router, jobs.router, train.router, models.router, health.router)
DESCRIPTION = "Images from GANs and energy-based models; the Markov chains of all requests run in one batch."


def create_app(
    settings: Settings | None = None, broker: Broker | None = None, artifacts: Artifacts | None = None, store: Store | None = None
) -> FastAPI:
    """An app that shares nothing with any other; what is not given is made from the settings, read from EBBTIDE_*."""
    settings = settings or Settings()
    metrics = ApiMetrics()
    broker = broker or Broker.connect(settings)
    parts = Parts(
        settings,
        broker=broker,
        artifacts=artifacts or Artifacts.open(settings.artifacts, broker.redis),
        store=store or Store(settings.checkpoints),
        metrics=metrics,
    )
    app = FastAPI(title="Ebbtide", version=version(), description=DESCRIPTION, lifespan=_lifespan, redirect_slashes=False)
    app.state.parts = parts
    errors.install(app, metrics)
    app.add_middleware(MetricsMiddleware, metrics=metrics)  # outermost: it sees every answer
    for router in ROUTES:
        app.include_router(router)
    app.openapi = describing(app)  # type: ignore[method-assign]
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    parts: Parts = app.state.parts
    async with parts:
        gc.collect()
        gc.freeze()  # what has been loaded stays: no need to walk it again and again
        with _set_by_signals(parts.closing):
            yield


@contextmanager
def _set_by_signals(closing: asyncio.Event) -> Iterator[None]:
    """Sets `closing` as soon as the server is told to stop: it waits for open event streams, which would wait for their jobs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, servers = asyncio.get_running_loop(), {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def tell(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(closing.set)
        server = servers[signal.Signals(number)]
        if callable(server):
            server(number, frame)

    for number in servers:
        signal.signal(number, tell)
    try:
        yield
    finally:
        for number, server in servers.items():
            signal.signal(number, server)

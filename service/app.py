"""The API: `create_app` builds it from its settings, and in tests from a given broker, artifacts and store."""

import asyncio
import gc
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from types import FrameType
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.telemetry import TelemetryConfig

from models.checkpoints import Store
from service.admission.access import AccessControl
from service.admission.dependencies import Dependencies
from service.protocol import errors, pages
from service.protocol.errors import ErrorHandlers
from service.protocol.metrics import ApiMetrics, MetricsMiddleware
from service.protocol.openapi import describing
from service.protocol.pages import HostCheck, SecurityHeaders
from service.protocol.semantics import CompressedReads, HeadAsGet, HeaderBounds
from service.settings import Settings
from workers.bucket import open_store
from workers.queue.artifacts import Artifacts
from workers.queue.broker import Broker
from workers.tracing import Tracing
from workers.version import version

ROUTES = ("generate", "replay", "jobs", "train", "models", "health")  # files of service/routes, searched for a request's path in this order
ROUTERS: tuple[APIRouter, ...] = tuple(import_module(f"service.routes.{name}").router for name in ROUTES)
DESCRIPTION = "Samples images from GANs and energy-based models; the Markov chains of all requests run in one batch."


def create_app(
    settings: Settings | None = None,
    broker: Broker | None = None,
    *,
    artifacts: Artifacts | None = None,
    store: Store | None = None,
    metrics: ApiMetrics | None = None,
    tracing: Tracing | None = None,
) -> FastAPI:
    """An app that shares nothing with other apps; settings come from EBBTIDE_* variables unless given, and the rest from the settings."""
    settings = settings or Settings()
    metrics, broker = metrics or ApiMetrics(), broker or Broker.connect(settings)
    tracing = tracing or Tracing.open("ebbtide-api")
    about: dict[str, Any] = {"title": "Ebbtide", "version": version(), "description": DESCRIPTION}
    app = FastAPI(**about, lifespan=_lifespan, docs_url=None, redoc_url=None, telemetry=_telemetry(tracing))
    app.router.redirect_slashes = False
    app.state.dependencies = Dependencies(
        settings,
        broker=broker,
        artifacts=artifacts or Artifacts.open(settings.artifacts, broker.redis),
        store=store or open_store(settings),
        metrics=metrics,
        tracing=tracing,
    )
    handlers = errors.install(app, metrics)
    pages.install(app)
    _add_middleware(app, settings, metrics, handlers)
    for router in ROUTERS:
        app.router.routes.extend(router.routes)  # include_router would match each path twice: 4 µs a request
    app.openapi = describing(app)  # type: ignore[method-assign]
    return app


def _telemetry(tracing: Tracing | None) -> TelemetryConfig:
    """FastAPI's own telemetry: spans of requests where there is tracing; figures and logs are ours."""
    ours: TelemetryConfig = {"metrics": False, "logs": False, "operation_spans": False, "auto_configure": False}
    return {**ours, "tracer_provider": tracing.provider} if tracing else {**ours, "tracing": False}


def _add_middleware(app: FastAPI, settings: Settings, metrics: ApiMetrics, handlers: ErrorHandlers) -> None:
    """From the routes outwards."""
    app.add_middleware(HeadAsGet)
    app.add_middleware(CompressedReads)
    app.add_middleware(AccessControl, owner=app, handlers=handlers)
    app.add_middleware(HostCheck, settings=settings, refuse=handlers.refuse)
    app.add_middleware(HeaderBounds, settings=settings, refuse=handlers.refuse)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("Authorization", "Idempotency-Key", "Prefer", "Last-Event-ID", "X-Ebbtide-Caller"),
            expose_headers=("Location", "ETag", "Retry-After", "X-Ebbtide-Job", "X-Ebbtide-Seed"),
        )
    app.add_middleware(SecurityHeaders)
    app.add_middleware(MetricsMiddleware, metrics=metrics)  # outermost: it sees every answer


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    dependencies: Dependencies = app.state.dependencies
    async with dependencies:
        gc.collect()
        gc.freeze()  # the garbage collector need not walk loaded modules again
        with _set_by_signals(dependencies.closing):
            yield


@contextmanager
def _set_by_signals(closing: asyncio.Event) -> Iterator[None]:
    """Sets `closing` when SIGINT or SIGTERM arrives: uvicorn waits for open event streams, and they end on `closing`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, uvicorn_handlers = asyncio.get_running_loop(), {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def close(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(closing.set)
        handler = uvicorn_handlers[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number in uvicorn_handlers:
        signal.signal(number, close)
    try:
        yield
    finally:
        for number, handler in uvicorn_handlers.items():
            signal.signal(number, handler)

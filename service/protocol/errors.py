"""Every error answer is an `application/problem+json` document (RFC 9457) that names the field, its value and the choices.

Errors:

    ServiceError
    └── Refusal     becomes an answer with the status of its slug
"""

import logging
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.checkpoints import StoreUnavailable, UnknownModel
from service.protocol.metrics import ApiMetrics
from service.protocol.schemas import Fault, ProblemDetails
from service.protocol.validation import faults_of, summary
from workers.queue.artifacts import ArtifactError
from workers.queue.broker import BrokerFull, BrokerUnavailable, UnknownJob

log = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"
REDIS_FULL = "Redis has no room, in memory or on its disk; nothing is accepted until results expire or it gets more"
IMAGES_FULL = "the disk that images are stored on is full; nothing is accepted until there is room"
RETRY_SOON = {"Retry-After": "2"}


class Kind(NamedTuple):
    """Status and title of a problem."""

    status: int
    title: str


KINDS = {
    "malformed-json": Kind(400, "The body is not JSON"),
    "invalid-request": Kind(422, "The request is not valid"),
    "too-large": Kind(413, "The body is too large"),
    "malformed-request": Kind(400, "The request is not HTTP"),
    "incomplete-body": Kind(400, "The body ended early"),
    "too-slow": Kind(408, "The request took too long"),
    "headers-too-large": Kind(431, "The headers are too large"),
    "encoded-body": Kind(415, "The body is encoded"),
    "too-many-connections": Kind(503, "Too many connections"),
    "unauthorized": Kind(401, "Who asks is not known"),
    "forbidden": Kind(403, "The key may not do this"),
    "rate-limited": Kind(429, "Too many requests"),
    "unknown-host": Kind(421, "Another host is meant"),
    "foreign-origin": Kind(403, "Another web site sent this request"),
    "key-reused": Kind(422, "The key stands for another request"),
    "no-request": Kind(422, "The picture does not say how it was made"),
    "not-replayable": Kind(422, "The picture cannot be made again here"),
    "replay-differs": Kind(409, "The picture came out differently"),
    "not-acceptable": Kind(406, "No accepted media type is available"),
    "unknown-model": Kind(404, "No such model"),
    "no-weights": Kind(404, "No such weights"),
    "kept": Kind(409, "The version is kept"),
    "unknown-job": Kind(404, "No such job"),
    "not-over": Kind(409, "The job is not over"),
    "no-image": Kind(404, "No such image"),
    "image-gone": Kind(410, "The image is no longer kept"),
    "not-found": Kind(404, "Not found"),
    "method-not-allowed": Kind(405, "Method not allowed"),
    "too-costly": Kind(422, "The job would take more than this server allows"),
    "too-busy": Kind(429, "The backlog is full"),
    "results-full": Kind(429, "Too many results are kept"),
    "no-worker": Kind(503, "No worker is alive"),
    "redis-away": Kind(503, "Redis does not answer"),
    "redis-full": Kind(503, "Redis has no room"),
    "images-full": Kind(503, "The image store has no room"),
    "checkpoints-away": Kind(503, "The store of checkpoints does not answer"),
    "images-away": Kind(503, "The image store does not answer"),
    "diverged": Kind(422, "The chains diverged"),
    "expired": Kind(504, "The job's deadline passed"),
    "canceled": Kind(409, "The job was canceled"),
    "abandoned": Kind(500, "The job lost its worker too often"),
    "unavailable": Kind(503, "What the job needs is not available"),
    "no-gain": Kind(422, "The calibration does not help"),
    "internal": Kind(500, "Internal error"),
}


class ServiceError(Exception):
    """Root of the errors of this package."""


class Refusal(ServiceError):
    """An error answer; `slug` is a key of KINDS."""

    def __init__(self, slug: str, detail: str, *faults: Fault, job: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.slug = slug
        self.detail = detail
        self.job = job
        self.faults = faults
        self.headers = dict(headers or {})


def document(refusal: Refusal) -> Response:
    """The problem document of a refusal."""
    kind = KINDS[refusal.slug]
    problem = ProblemDetails(
        type=f"urn:ebbtide:{refusal.slug}",
        title=kind.title,
        status=kind.status,
        detail=refusal.detail,
        job=refusal.job,
        errors=refusal.faults,
    )
    return Response(problem.model_dump_json(exclude_none=True), kind.status, refusal.headers, MEDIA_TYPE)


class ErrorHandlers:
    """One handler for each error; each counts its refusals by slug."""

    def __init__(self, metrics: ApiMetrics) -> None:
        self._metrics = metrics

    def refuse(self, refusal: Refusal) -> Response:
        self._metrics.rejected.labels(refusal.slug).inc()
        return document(refusal)

    def unexpected(self, scope: Scope) -> Response:
        """The answer to the exception being handled, which no other handler knows; logs its trace."""
        log.exception("%s %s failed", scope["method"], scope["path"])
        return self.refuse(Refusal("internal", "unexpected error; the API's log has the trace"))

    async def refusal(self, _: Request, error: Exception) -> Response:
        assert isinstance(error, Refusal)
        return self.refuse(error)

    async def parameters(self, _: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        faults = faults_of([{**one, "loc": one["loc"][1:]} for one in error.errors()])  # without "path", "query", "header"
        return self.refuse(Refusal("invalid-request", summary(faults), *faults))

    async def routing(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        allow = allowed(request.app.routes, request.scope)
        if error.status_code == 405:
            if request.method == "OPTIONS":
                return Response(status_code=204, headers={"Allow": allow})
            return self.refuse(
                Refusal("method-not-allowed", f"{request.method} {request.url.path}: allowed are {allow}", headers={"Allow": allow})
            )
        slug = {404: "not-found"}.get(error.status_code)
        if slug is None:  # 204 has no body
            return Response(status_code=error.status_code, headers=dict(error.headers or {}))
        return self.refuse(Refusal(slug, f"{request.method} {request.url.path}: {error.detail.lower()}", headers=error.headers))

    async def unknown_job(self, _: Request, error: Exception) -> Response:
        return self.refuse(Refusal("unknown-job", str(error)))

    async def unknown_model(self, _: Request, error: Exception) -> Response:
        assert isinstance(error, UnknownModel)
        fault = Fault(field="name", value=error.name, reason="unknown", choices=error.choices)
        return self.refuse(Refusal("unknown-model", str(error), fault))

    async def checkpoints_away(self, _: Request, error: Exception) -> Response:
        log.warning("%s", error)
        return self.refuse(
            Refusal("checkpoints-away", "the bucket of checkpoints does not answer; try again in a moment", headers=RETRY_SOON)
        )

    async def redis_away(self, _: Request, error: Exception) -> Response:
        log.warning("Redis does not answer: %s", error)
        return self.refuse(Refusal("redis-away", "Redis does not answer; try again in a moment", headers=RETRY_SOON))

    async def redis_full(self, _: Request, error: Exception) -> Response:
        log.warning("%s", error)
        return self.refuse(Refusal("redis-full", REDIS_FULL, headers=RETRY_SOON))

    async def images_away(self, _: Request, error: Exception) -> Response:
        log.warning("the image store failed: %s", error)
        return self.refuse(Refusal("images-away", "the image store does not answer; try again in a moment", headers=RETRY_SOON))


def allowed(routes: Iterable[BaseRoute], scope: Scope) -> str:
    """The methods that some route of the path of a request has, as `Allow` lists them."""
    found = {"OPTIONS"}
    for route in routes:
        if isinstance(route, Route) and route.matches(scope)[0] is not Match.NONE:
            found |= route.methods or set()
    return ", ".join(sorted(found | ({"HEAD"} if "GET" in found else set())))


class CatchUnexpected:
    """Answers unexpected errors with 500. Starlette would raise them again, at which uvicorn closes the connection."""

    def __init__(self, app: ASGIApp, handlers: ErrorHandlers) -> None:
        self._app = app
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            if started or scope["type"] != "http":
                raise
            await self._handlers.unexpected(scope)(scope, receive, send)


def install(app: FastAPI, metrics: ApiMetrics) -> ErrorHandlers:
    """Makes an app answer every error with a problem document."""
    handlers = ErrorHandlers(metrics)
    app.add_exception_handler(Refusal, handlers.refusal)
    app.add_exception_handler(RequestValidationError, handlers.parameters)
    app.add_exception_handler(HTTPException, handlers.routing)
    app.add_exception_handler(UnknownJob, handlers.unknown_job)
    app.add_exception_handler(StoreUnavailable, handlers.checkpoints_away)
    app.add_exception_handler(UnknownModel, handlers.unknown_model)
    app.add_exception_handler(BrokerUnavailable, handlers.redis_away)
    app.add_exception_handler(BrokerFull, handlers.redis_full)
    app.add_exception_handler(ArtifactError, handlers.images_away)
    app.add_middleware(CatchUnexpected, handlers=handlers)
    return handlers

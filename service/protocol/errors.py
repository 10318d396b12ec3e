"""Every refusal is one `application/problem+json` document (RFC 9457) that names the field, its value and the choices.

Errors:

    ServiceError
    └── Refusal     an answer with a status, raised anywhere below a route
"""

import logging
from collections.abc import Mapping
from typing import NamedTuple

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.checkpoints import UnknownModel
from service.protocol.metrics import ApiMetrics
from service.protocol.schemas import Fault, ProblemDetails
from service.protocol.validation import faults_of, summary
from workers.queue.artifacts import ArtifactError
from workers.queue.broker import BrokerUnavailable, UnknownJob

log = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"
RETRY_SOON = {"Retry-After": "2"}


class Kind(NamedTuple):
    """What a slug of a problem's `type` stands for."""

    status: int
    title: str


KINDS = {
    "malformed-json": Kind(400, "The body is not JSON"),
    "invalid-request": Kind(422, "The request is not valid"),
    "too-large": Kind(413, "The body is too large"),
    "foreign-origin": Kind(403, "Another web site sent this request"),
    "not-acceptable": Kind(406, "None of the accepted media types can be made"),
    "unknown-model": Kind(404, "No such model"),
    "unknown-job": Kind(404, "No such job"),
    "no-image": Kind(404, "No such image"),
    "image-gone": Kind(410, "The image is no longer kept"),
    "not-found": Kind(404, "No such page"),
    "method-not-allowed": Kind(405, "The page does not know this method"),
    "too-busy": Kind(429, "Too much is waiting already"),
    "no-worker": Kind(503, "No worker is there to run the job"),
    "redis-away": Kind(503, "The job store cannot be reached"),
    "images-away": Kind(503, "The store of images cannot be reached"),
    "diverged": Kind(422, "The chains diverged"),
    "expired": Kind(504, "The job's deadline passed"),
    "canceled": Kind(409, "The job was canceled"),
    "abandoned": Kind(500, "The job lost its worker too often"),
    "unavailable": Kind(503, "The checkpoint cannot be used"),
    "internal": Kind(500, "Something went wrong here"),
}


class ServiceError(Exception):
    """Root of the errors of this package."""


class Refusal(ServiceError):
    """An answer that is not what was asked for; `slug` is a key of KINDS."""

    def __init__(self, slug: str, detail: str, *faults: Fault, job: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.slug = slug
        self.detail = detail
        self.job = job
        self.faults = faults
        self.headers = dict(headers or {})


def document(refusal: Refusal) -> Response:
    """The problem document that stands for a refusal."""
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


class Answers:
    """The handler of each error, counting what it refuses."""

    def __init__(self, metrics: ApiMetrics) -> None:
        self._metrics = metrics

    def refuse(self, refusal: Refusal) -> Response:
        self._metrics.rejected.labels(refusal.slug).inc()
        return document(refusal)

    def unforeseen(self, scope: Scope) -> Response:
        """For an error that is being handled and that nobody knows."""
        log.exception("%s %s failed", scope["method"], scope["path"])
        return self.refuse(Refusal("internal", "an unexpected error; the log of the API has its trace"))

    async def refusal(self, _: Request, error: Exception) -> Response:
        assert isinstance(error, Refusal)
        return self.refuse(error)

    async def parameters(self, _: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        faults = faults_of([{**one, "loc": one["loc"][1:]} for one in error.errors()])  # without "path", "query", "header"
        return self.refuse(Refusal("invalid-request", summary(faults), *faults))

    async def routing(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        slug = {404: "not-found", 405: "method-not-allowed"}.get(error.status_code)
        if slug is None:  # 204: nothing to say
            return Response(status_code=error.status_code, headers=dict(error.headers or {}))
        return self.refuse(Refusal(slug, f"{request.method} {request.url.path}: {error.detail.lower()}", headers=error.headers))

    async def unknown_job(self, _: Request, error: Exception) -> Response:
        return self.refuse(Refusal("unknown-job", str(error)))

    async def unknown_model(self, _: Request, error: Exception) -> Response:
        assert isinstance(error, UnknownModel)
        fault = Fault(field="name", value=error.name, reason="unknown", choices=error.choices)
        return self.refuse(Refusal("unknown-model", str(error), fault))

    async def redis_away(self, _: Request, error: Exception) -> Response:
        log.warning("Redis is away: %s", error)
        return self.refuse(Refusal("redis-away", "Redis does not answer; try again in a moment", headers=RETRY_SOON))

    async def images_away(self, _: Request, error: Exception) -> Response:
        log.warning("the store of images failed: %s", error)
        return self.refuse(Refusal("images-away", "the store of images does not answer; try again in a moment", headers=RETRY_SOON))


class LastResort:
    """Answers errors that nobody foresaw. Starlette would raise them again, and uvicorn hang up on a good connection."""

    def __init__(self, app: ASGIApp, answers: Answers) -> None:
        self._app = app
        self._answers = answers

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
            await self._answers.unforeseen(scope)(scope, receive, send)


def install(app: FastAPI, metrics: ApiMetrics) -> None:
    """Makes an app answer every error with a problem document."""
    answers = Answers(metrics)
    app.add_exception_handler(Refusal, answers.refusal)
    app.add_exception_handler(RequestValidationError, answers.parameters)
    app.add_exception_handler(HTTPException, answers.routing)
    app.add_exception_handler(UnknownJob, answers.unknown_job)
    app.add_exception_handler(UnknownModel, answers.unknown_model)
    app.add_exception_handler(BrokerUnavailable, answers.redis_away)
    app.add_exception_handler(ArtifactError, answers.images_away)
    app.add_middleware(LastResort, answers=answers)

"""The OpenAPI document: FastAPI's, plus the bodies that routes read themselves, headers, and the problems that every route may answer."""

from collections.abc import Callable, Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from service.protocol.errors import MEDIA_TYPE
from service.protocol.schemas import CalibrateRequest, GenerateRequest, ProblemDetails, TrainRequest

BODIES = (CalibrateRequest, GenerateRequest, TrainRequest, ProblemDetails)
PROBLEM = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}


def _header(description: str, of: str = "string", **more: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": of, **more}}


HEADERS = {
    "Retry-After": _header("Seconds after which it may go better", "integer"),
    "RateLimit": _header('What is left of the key\'s rate: `"key";r=requests;t=seconds`; with a key that has a rate'),
    "RateLimit-Policy": _header('The key\'s rate: `"key";q=requests;w=seconds`; with a key that has a rate'),
    "Location": _header("Path of the job", format="uri-reference"),
    "Content-Location": _header("Path of what the body holds", format="uri-reference"),
    "ETag": _header("Of the content; `If-None-Match` with it is answered 304"),
    "X-Ebbtide-Job": _header("Id of the job"),
    "X-Ebbtide-Seed": _header("The job's seed as text, since it may need 63 bits", pattern="^[0-9]+$"),
    "Preference-Applied": _header("The part of `Prefer` that was followed"),
}
ALL = ("RateLimit", "RateLimit-Policy")
OF_JOBS = ("X-Ebbtide-Job", "X-Ebbtide-Seed")
# Headers by route, status and what they are; those of ALL are added everywhere.
ANSWERS = {
    ("/generate", "200"): (*OF_JOBS, "Content-Location", "Preference-Applied"),
    ("/generate", "202"): (*OF_JOBS, "Location", "Retry-After", "Preference-Applied"),
    ("/replay", "200"): (*OF_JOBS, "Content-Location", "Preference-Applied"),
    ("/replay", "202"): (*OF_JOBS, "Location", "Retry-After", "Preference-Applied"),
    ("/train", "202"): (*OF_JOBS, "Location"),
    ("/models/{reference}/calibrate", "202"): (*OF_JOBS, "Location"),
    ("/models", "200"): ("ETag",),
    ("/models/{reference}", "200"): ("ETag",),
    ("/models/{reference}/samples.png", "200"): ("ETag",),
    ("/models/{reference}/reliability.png", "200"): ("ETag",),
    ("/jobs/{job_id}/images/grid", "200"): ("ETag",),
    ("/jobs/{job_id}/images/{index}", "200"): ("ETag",),
    ("/jobs/{job_id}/artifacts/{name}", "200"): ("ETag",),
}
REFUSALS = {
    "401": "No API key, or one that is not known",
    "403": "The key may not do this",
    "429": "Beyond the key's rate, or the backlog or the results kept are full",
    "503": "Redis, a worker or the disk is away or full",
}
OPEN = ("/livez", "/readyz", "/version")
PREFER = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "description": "`respond-async`: 202 at once. `wait=N`: 202 after N seconds unless the job has ended. Without it the answer waits.",
    "schema": {"type": "string"},
    "example": "respond-async",
}
CALLER = {
    "name": "X-Ebbtide-Caller",
    "in": "header",
    "required": False,
    "description": "Whose turn the job takes, where there are no API keys; else jobs take turns by key. "
    "At most 64 letters, digits and ._@:-, the first a letter or digit; another value counts as none",
    "schema": {"type": "string"},
}
IDEMPOTENCY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same request with the same key gets the same job, as long as that is kept; another request is refused with 422",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
}
IMAGES = {
    "name": "images",
    "in": "query",
    "required": False,
    "description": "How an answer in JSON has the images: `links`, or `base64` for their PNGs too",
    "schema": {"type": "string", "enum": ["links", "base64"], "default": "links"},
}
PARAMETERS = {
    "/generate": [IMAGES, PREFER, IDEMPOTENCY, CALLER],
    "/replay": [PREFER, CALLER],
    "/train": [IDEMPOTENCY, CALLER],
    "/models/{reference}/calibrate": [IDEMPOTENCY, CALLER],
}


def describing(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """A replacement for `app.openapi`; the document is made once."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    return document


def _document(app: FastAPI) -> dict[str, Any]:
    found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    _, definitions = models_json_schema([(body, "validation") for body in BODIES], ref_template="#/components/schemas/{model}")
    components = found.setdefault("components", {}).setdefault("schemas", {})
    for name, schema in definitions["$defs"].items():
        components.setdefault(name, schema)
    for unused in ("HTTPValidationError", "ValidationError"):
        components.pop(unused, None)
    found["components"]["headers"] = HEADERS
    found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "description": "API key"}}
    found["security"] = [{"key": []}, {}]
    for path, method, operation in _operations(found):
        _complete(path, method, operation)
    return found


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    """Adds headers and refusals to one operation."""
    responses = operation["responses"]
    responses.pop("422", None)
    if path in OPEN:
        operation["security"] = []
    else:
        for status, description in REFUSALS.items():
            responses.setdefault(status, {"description": description, "content": PROBLEM})
    responses["default"] = {"description": "A problem that names the field, its value and the choices", "content": PROBLEM}
    if method != "get":
        operation.setdefault("parameters", []).extend(PARAMETERS.get(path, []))
    for status, response in responses.items():
        names = ("Retry-After",) if status in ("429", "503") else ANSWERS.get((path, status), ())
        if path not in OPEN:
            names += ALL
        if names:
            response["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in names}

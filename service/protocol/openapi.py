"""The OpenAPI document: FastAPI's, plus the bodies that routes read themselves and the problem document that every route may answer."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from service.protocol.errors import MEDIA_TYPE
from service.protocol.schemas import GenerateRequest, ProblemDetails, TrainRequest

BODIES = (GenerateRequest, TrainRequest, ProblemDetails)
REFUSAL = {
    "description": "A problem that names the field, its value and the choices",
    "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}},
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
    found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "description": "API key"}}
    found["security"] = [{"key": []}, {}]
    for path in found["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = REFUSAL
    return found

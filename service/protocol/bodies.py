"""Reads a JSON body up to a size limit and validates it.

FastAPI's own body parameters would refuse the media type that `curl -d` sends.
"""

from typing import Any, TypeVar
from urllib.parse import urlsplit

from fastapi import Request
from pydantic import BaseModel, ValidationError

from service.protocol.errors import Refusal
from service.protocol.validation import faults_of, summary

Body = TypeVar("Body", bound=BaseModel)


async def read(request: Request, model: type[Body], limit_bytes: int) -> Body:
    """The request's body as `model`. Raises Refusal naming each invalid field."""
    _refuse_other_origins(request)
    content = await _content(request, limit_bytes)
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise _refusal(error, model) from None


def documented(model: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI description of a route whose body is `model`."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


async def _content(request: Request, limit_bytes: int) -> bytes:
    """FastAPI's `max_body_size` is not used: it answers a declared length above the limit in plain text, not problem+json."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > limit_bytes:
            raise Refusal("too-large", f"the body is longer than {limit_bytes} bytes")
    return bytes(content)


def _refuse_other_origins(request: Request) -> None:
    """Browsers send `text/plain` bodies to other origins without a preflight, so requests from pages of other origins are refused."""
    origin = request.headers.get("origin")
    if not origin:
        return
    own = (request.headers.get("host"), request.headers.get("x-forwarded-host"))  # the second: a proxy's, as the browser sees it
    if urlsplit(origin).netloc not in own:
        raise Refusal("foreign-origin", f"requests from pages of {origin[:200]} are not accepted")


def _refusal(error: ValidationError, model: type[BaseModel]) -> Refusal:
    errors = error.errors(include_url=False)
    if errors[0]["type"] == "json_invalid":
        return Refusal("malformed-json", errors[0]["msg"])
    faults = faults_of(errors, model=model)
    return Refusal("invalid-request", summary(faults), *faults)

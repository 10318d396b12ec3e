"""Reads a JSON body up to a size limit and validates it.

FastAPI's own body parameters would refuse the media type that `curl -d` sends.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from service.protocol.errors import Refusal
from service.protocol.validation import faults_of, summary
from service.settings import Settings

FRACTIONS = re.compile(rb"[0-9]\.0+(?![0-9eE])|[0-9][eE]")
EXACT = 2**53  # below it each integer is a float of its own
Body = TypeVar("Body", bound=BaseModel)


async def read(request: Request, model: type[Body], settings: Settings) -> Body:
    """The request's body as `model`. Raises Refusal naming each invalid field."""
    content = await read_bytes(request, settings, settings.max_body_bytes)
    try:
        return model.model_validate_json(with_integers(content))
    except ValidationError as error:
        raise _refusal(error, model) from None


async def read_bytes(request: Request, settings: Settings, limit_bytes: int) -> bytes:
    """The request's body as it is. Raises Refusal where it is too long, encoded or from another web site."""
    _refuse_other_origins(request, settings.cors_origins)
    _refuse_encodings(request)
    return await _content(request, limit_bytes)


def with_integers(content: bytes) -> bytes:
    """The same JSON with 4 for 4.0 and 100 for 1e2, which are integers to JSON Schema."""
    if not FRACTIONS.search(content):
        return content
    try:
        return json.dumps(json.loads(content, parse_float=_number)).encode()
    except (ValueError, RecursionError):  # validation says what is wrong
        return content


def _number(text: str) -> int | float:
    digits, _, zeros = text.partition(".")
    if zeros and not zeros.strip("0"):
        return int(digits)
    number = float(text)
    return int(number) if number.is_integer() and abs(number) < EXACT else number


def documented(model: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI description of a route whose body is `model`."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _refuse_other_origins(request: Request, allowed: Sequence[str]) -> None:
    """Browsers send `text/plain` bodies to other origins without a preflight, so pages of other origins are refused unless allowed."""
    origin = request.headers.get("origin")
    if not origin or origin in allowed or "*" in allowed:
        return
    own = (request.headers.get("host"), request.headers.get("x-forwarded-host"))  # the second: a proxy's, as the browser sees it
    if origin.partition("://")[2] not in own:
        raise Refusal("foreign-origin", f"requests from pages of {origin[:200]} are not accepted")


def _refuse_encodings(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        detail = f"a body in the content encoding {encoding[:50]!r} is not read; send it as it is"
        raise Refusal("encoded-body", detail, headers={"Accept-Encoding": "identity"})


async def _content(request: Request, limit_bytes: int) -> bytes:
    """FastAPI's `max_body_size` is not used: it answers a declared length above the limit in plain text, not problem+json."""
    content = bytearray()
    try:
        async for chunk in request.stream():
            content += chunk
            if len(content) > limit_bytes:
                raise Refusal("too-large", f"the body is longer than {limit_bytes} bytes")
    except ClientDisconnect:
        raise Refusal("incomplete-body", "the client left in the middle of its request") from None
    return bytes(content)


def _refusal(error: ValidationError, model: type[BaseModel]) -> Refusal:
    errors = error.errors(include_url=False)
    if errors[0]["type"] == "json_invalid":
        return Refusal("malformed-json", errors[0]["msg"])
    faults = faults_of(errors, model=model)
    return Refusal("invalid-request", summary(faults), *faults)

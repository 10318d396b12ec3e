"""What HTTP promises of every route: bounded headers, HEAD wherever there is GET, compression, entity tags."""

from collections.abc import Callable

from fastapi import Request, Response
from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from service.protocol.errors import Refusal
from service.protocol.negotiation import OCTETS
from service.settings import Settings

WORTH_BYTES = 1500  # a shorter answer fits into one packet


class HeaderBounds:
    """Answers 431 to more or longer headers than the settings allow."""

    def __init__(self, app: ASGIApp, settings: Settings, refuse: Callable[[Refusal], Response]) -> None:
        self._app, self._settings, self._refuse = app, settings, refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (reason := self._reason(scope["headers"])):
            await self._refuse(Refusal("headers-too-large", reason, headers={"Connection": "close"}))(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _reason(self, headers: list[tuple[bytes, bytes]]) -> str | None:
        limits = self._settings
        if len(headers) > limits.max_headers:
            return f"the request has {len(headers)} headers, and at most {limits.max_headers} are read"
        if sum(len(name) + len(value) + 4 for name, value in headers) > limits.max_header_bytes:
            return f"the request's headers are longer than {limits.max_header_bytes} bytes"
        return None


class HeadAsGet:
    """Routes see a GET; the server leaves out the body, because it still sees the HEAD."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)


class CompressedReads(GZipMiddleware):
    """Compresses what is read and shrinks by it: JSON, metrics, scripts. Pictures, ZIPs and event streams stay as they are."""

    def __init__(self, app: ASGIApp) -> None:
        kept = (*DEFAULT_EXCLUDED_CONTENT_TYPES, OCTETS)
        super().__init__(app, minimum_size=WORTH_BYTES, compresslevel=5, exclude_content_types=kept)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD"):
            await super().__call__(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def tagged(request: Request, response: Response, tag: str, *, weak: bool = False) -> Response:
    """The response with its entity tag; 304 without a body where the client has it already (RFC 9110 §13.1.2).

    The tag is weak where the body may be compressed, so that its bytes differ.
    """
    etag = f'"{tag}"'
    known = {one.strip().removeprefix("W/") for line in request.headers.getlist("if-none-match") for one in line.split(",")}
    response.headers["ETag"] = f"W/{etag}" if weak else etag
    if not known & {etag, "*"}:
        return response
    kept = {name: value for name, value in response.headers.items() if name in ("etag", "cache-control", "vary", "content-location")}
    return Response(status_code=304, headers=kept)

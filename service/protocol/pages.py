"""What protects browsers: the `Host` they may call, security headers on every answer, and pages without foreign scripts."""

import base64
import hashlib
import ipaddress
import re
import socket
from collections.abc import Callable, Iterable
from pathlib import Path

import fastapi_offline
from fastapi import FastAPI, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.protocol.errors import Refusal
from service.settings import Settings

PLAYGROUND = Path(__file__).parent.parent / "playground"
VIEWER = Path(fastapi_offline.__file__).parent / "static"  # Swagger UI, so that /docs needs no other host
LOOPBACK = "localhost"
PLAIN = "default-src 'none'; frame-ancestors 'none'"  # of answers that are no page
PAGE = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; " + (
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": PLAIN,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
RAW = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]


def install(app: FastAPI) -> None:
    """Serves the playground's files, and /docs with scripts of this server; the app must have no /docs of its own."""
    title = f"{app.title} API"
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title=title,
        swagger_js_url="/docs/assets/swagger-ui-bundle.js",
        swagger_css_url="/docs/assets/swagger-ui.css",
        swagger_favicon_url="/docs/assets/favicon.png",
    ).body
    scripts = re.findall(rb"<script>(.*?)</script>", bytes(page), re.S)
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'" for script in scripts)
    policy = PAGE.replace("script-src 'self'", f"script-src 'self' {hashes}")
    policy = policy.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")  # Swagger UI styles its elements one by one

    async def docs() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    app.add_api_route("/docs", docs, methods=["GET"], include_in_schema=False)
    app.mount("/docs/assets", StaticFiles(directory=VIEWER))
    app.mount("/playground", StaticFiles(directory=PLAYGROUND))


class SecurityHeaders:
    """Adds to every answer what it does not say itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = message["headers"] = list(message["headers"])
                known = {name.lower() for name, _ in given}
                given += [header for header in RAW if header[0] not in known]
            await send(message)

        await self._app(scope, receive, with_headers)


class HostCheck:
    """Refuses names that are not this server's: a foreign page could have its own name point here (DNS rebinding).

    Addresses are always accepted, because no page can have one that is not its server's.
    """

    def __init__(self, app: ASGIApp, settings: Settings, refuse: Callable[[Refusal], Response]) -> None:
        self._app, self._refuse = app, refuse
        self._names = {name.lower() for name in (LOOPBACK, socket.gethostname(), *settings.allowed_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (name := self._foreign(scope["headers"])):
            detail = f"the host {name[:100]!r} is not served here; EBBTIDE_ALLOWED_HOSTS names those that are"
            await self._refuse(Refusal("unknown-host", detail))(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _foreign(self, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        for key, value in headers:
            if key == b"host":
                host = value.decode("latin-1").strip().lower()
                name = host.rpartition(":")[0] if re.search(r":[0-9]*$", host) else host
                if "*" not in self._names and name not in self._names and not _is_address(name):
                    return host or "(empty)"
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True

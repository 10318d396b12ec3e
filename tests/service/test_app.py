"""Nothing goes past the app's middleware, and every file of service/routes is served."""

import asyncio
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service import routes
from service.app import ROUTES, create_app
from service.settings import Settings

SERVED = [(method, route.path) for route in iter_route_contexts(create_app(Settings()).routes) for method in sorted(route.methods or ())]


class Doorkeeper:
    """Answers every request itself, as authentication will."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await Response(status_code=401)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def status(app: FastAPI, method: str, path: str) -> int:
    async def ask() -> int:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            return (await client.request(method, path)).status_code

    return asyncio.run(ask())


@pytest.mark.parametrize(("method", "path"), SERVED)
def test_every_route_passes_a_middleware_that_is_added(settings, store, method: str, path: str) -> None:
    app = create_app(settings, store=store)
    app.add_middleware(Doorkeeper)
    assert status(app, method, path) == 401


def test_the_routes_include_each_endpoint() -> None:
    assert {("POST", "/generate"), ("POST", "/train"), ("GET", "/jobs/{job_id}/events"), ("GET", "/metrics")} <= set(SERVED)


def test_every_file_of_the_folder_is_served() -> None:
    files = {path.stem for path in Path(routes.__path__[0]).glob("*.py")} - {"__init__"}
    assert set(ROUTES) == files

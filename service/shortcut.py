"""The way to the endpoint that answers most requests, past FastAPI's routers: finding it there takes longer than what it does."""

from collections.abc import Awaitable, Callable

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send


class Shortcut:
    """Calls the endpoint of one POST route, which reads its request by itself; the app's handlers answer its errors, as on the long way."""

    def __init__(self, app: ASGIApp, route: APIRoute) -> None:
        self._app = app
        self._route = route
        self._endpoint: Callable[[Request], Awaitable[Response]] = route.endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != self._route.path or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        scope["route"] = self._route  # for those who count
        request = Request(scope, receive, send)
        try:
            response = await self._endpoint(request)
        except Exception as error:
            response = await _answered(request, error)
        await response(scope, receive, send)


async def _answered(request: Request, error: Exception) -> Response:
    """What the app's handler of such errors says; raises the error where there is none."""
    handlers = request.app.exception_handlers
    handler = next((handlers[kind] for kind in type(error).__mro__ if kind in handlers), None)
    if handler is None:
        raise error
    answer: Response = await handler(request, error)
    return answer

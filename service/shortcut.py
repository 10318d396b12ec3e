"""The way to the endpoint that answers most requests, past FastAPI: finding it there takes longer than what it does."""

import time
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from service.protocol.errors import Answers
from service.protocol.metrics import HANG_UP, ApiMetrics


class Shortcut:
    """Calls the endpoint of one POST route, which reads its request by itself; its errors and figures are those of the long way."""

    def __init__(self, app: FastAPI, route: APIRoute, answers: Answers, metrics: ApiMetrics) -> None:
        self._app, self._route, self._answers, self._metrics = app, route, answers, metrics

    def leads_to(self, scope: Scope) -> bool:
        """Whether this is the way for a request."""
        return bool(scope["type"] == "http" and scope["path"] == self._route.path and scope["method"] == "POST")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun, status = time.perf_counter(), HANG_UP
        scope["app"], scope["route"] = self._app, self._route
        self._metrics.in_progress.inc()
        try:
            response = await self._answer(Request(scope, receive, send))
            await response(scope, receive, send)
            status = response.status_code
        finally:
            self._metrics.in_progress.dec()
            self._metrics.answered(scope, status, time.perf_counter() - begun)

    async def _answer(self, request: Request) -> Response:
        """The endpoint's, or what the app's handler of its error says."""
        try:
            answer: Response = await self._route.endpoint(request)
        except Exception as error:
            handlers: Any = self._app.exception_handlers
            handler = next((handlers[kind] for kind in type(error).__mro__ if kind in handlers), None)
            answer = await handler(request, error) if handler else self._answers.unforeseen(request.scope)
        return answer


class AppWithShortcut(FastAPI):
    """FastAPI for everything but what the shortcut leads to."""

    shortcut: Shortcut | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.shortcut and self.shortcut.leads_to(scope):
            await self.shortcut(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

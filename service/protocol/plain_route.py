"""A FastAPI route without parameters to resolve: its endpoint takes the request and returns the response."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute


class PlainRoute(APIRoute):
    """Use as `APIRouter(route_class=PlainRoute)` where a request costs less than FastAPI's search for parameters that are not there.

    Documentation, middleware, exception handlers and metrics are those of every other route.
    """

    def get_route_handler(self) -> Callable[[Request], Any]:
        endpoint: Callable[[Request], Awaitable[Response]] = self.endpoint
        return endpoint

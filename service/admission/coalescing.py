"""Calls made while one is under way travel together in the next: many requests, one round trip to Redis."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")
LARGEST = 16  # calls that travel together: while some are on their way others are made, and whoever answers can begin


class Coalescer(Generic[T, R]):
    """Makes one call for many awaiting ones; a failure of the call is the failure of each."""

    def __init__(self, call: Callable[[Sequence[T]], Awaitable[Sequence[R]]]) -> None:
        self._call = call
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._travelling: asyncio.Task[None] | None = None

    async def __call__(self, argument: T) -> R:
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((argument, future))
        if self._travelling is None:
            self._travelling = asyncio.create_task(self._travel())
        return await future

    async def _travel(self) -> None:
        while self._waiting:
            taken, self._waiting = self._waiting[:LARGEST], self._waiting[LARGEST:]
            try:
                results = await self._call([argument for argument, _ in taken])
            except Exception as error:  # told to each caller, who may be gone
                for _, future in taken:
                    if not future.done():
                        future.set_exception(error)
            else:
                for (_, future), result in zip(taken, results, strict=True):
                    if not future.done():
                        future.set_result(result)
        self._travelling = None

"""Calls made while one is running are sent together in the next: many requests share one round trip to Redis."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")
LARGEST = 16  # calls sent together; with more, the worker would idle until the whole batch has arrived


class Coalescer(Generic[T, R]):
    """Turns many awaited calls into few; an error of the shared call is raised to each of its callers."""

    def __init__(self, call: Callable[[Sequence[T]], Awaitable[Sequence[R]]]) -> None:
        self._call = call
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._sending: asyncio.Task[None] | None = None

    async def __call__(self, argument: T) -> R:
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((argument, future))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        return await future

    async def _send(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:LARGEST], self._waiting[LARGEST:]
            try:
                results = await self._call([argument for argument, _ in batch])
            except Exception as error:
                for _, future in batch:
                    if not future.done():  # a client that hung up has canceled its future
                        future.set_exception(error)
            else:
                for (_, future), result in zip(batch, results, strict=True):
                    if not future.done():
                        future.set_result(result)
        self._sending = None

"""Refuses requests that would wait for an answer while no generation worker is alive."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

from service.protocol.errors import RETRY_SOON, Refusal


class WorkerCheck:
    """Reads from Redis whether a worker is alive; a yes holds for `fresh_s` seconds, and concurrent requests share one read."""

    def __init__(self, any_alive: Callable[[], Awaitable[bool]], fresh_s: float) -> None:
        self._any_alive, self._fresh_s = any_alive, fresh_s
        self._seen_at = -math.inf
        self._reading = asyncio.Lock()

    async def require(self) -> None:
        """Raises Refusal where no generation worker is alive."""
        if self._is_fresh():
            return
        async with self._reading:
            if self._is_fresh():
                return
            if not await self._any_alive():
                detail = "no generation worker is alive; with Prefer: respond-async the job waits in the queue for one"
                raise Refusal("no-worker", detail, headers=RETRY_SOON)
            self._seen_at = time.monotonic()

    def _is_fresh(self) -> bool:
        return time.monotonic() - self._seen_at < self._fresh_s

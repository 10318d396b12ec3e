"""What the house takes on, and for whom: a backlog bounded in chain-steps; beyond it callers are told when to come back."""

import asyncio
import math
import re
import time
from collections.abc import Awaitable, Callable

from fastapi import Request

from service.errors import Refusal
from service.metrics import QueueState
from workers.jobs import GenerateJob
from workers.queues import chain_steps

CALLER = "X-Ebbtide-Caller"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,63}")
FRESH_S, STALE_S = 0.1, 2.0  # older than the first: look again meanwhile; older than the second: wait for the look
UNKNOWN_S, LONGEST_S = 30, 3600  # Retry-After where no pace has been measured, and at most


def caller_of(request: Request) -> str:
    """For whom a request counts: the name in `X-Ebbtide-Caller`, if it is one, else the address it came from.

    It orders turns and proves nothing: who must not choose it has to be kept from the header by a proxy.
    """
    named = request.headers.get(CALLER, "")
    if _NAME.fullmatch(named):
        return named
    return request.client.host if request.client else ""


class Backlog:
    """Refuses jobs that would wait too long: a bound on all chain-steps that wait.

    It is held against a look at Redis at most a moment old and what this process has let in since, so that no request waits for the look.
    """

    def __init__(self, look: Callable[[], Awaitable[QueueState | None]], most: int) -> None:
        self._look = look
        self._most = most
        self._waiting, self._pace, self._seen_at = 0, 0.0, -math.inf
        self._let_in = 0  # chain-steps since that look
        self._looking: asyncio.Task[None] | None = None

    async def admit(self, job: GenerateJob) -> None:
        """Raises Refusal where the job would make the backlog too long; one that meets no backlog is never too large."""
        age_s = time.monotonic() - self._seen_at
        if age_s > FRESH_S and self._looking is None:
            self._looking = asyncio.create_task(self._look_again())
        if age_s > STALE_S and self._looking is not None:
            await asyncio.shield(self._looking)
        waiting, steps = self._waiting + self._let_in, chain_steps(job)
        if waiting and waiting + steps > self._most:
            raise self._refusal(waiting, steps)
        self._let_in += steps

    async def _look_again(self) -> None:
        before = self._let_in
        try:
            if (state := await self._look()) is not None:
                self._waiting = sum(queue.backlog_chain_steps for queue in state.queues)
                self._pace = pace(state)
                self._let_in -= before
            self._seen_at = time.monotonic()
        finally:
            self._looking = None

    def _refusal(self, waiting: int, steps: int) -> Refusal:
        excess = waiting + steps - self._most
        wait_s = min(LONGEST_S, max(1, math.ceil(excess / self._pace))) if self._pace > 0 else UNKNOWN_S
        detail = f"{waiting} chain-steps wait and this job asks for {steps} more, where {self._most} may wait; try again in {wait_s} s"
        return Refusal("too-busy", detail, headers={"Retry-After": str(wait_s)})


def pace(state: QueueState) -> float:
    """Chain-steps a second that all workers together made lately."""
    return sum(worker.chain_steps_per_s or 0.0 for worker in state.workers)

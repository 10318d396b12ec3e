"""What the house takes on, and for whom: a backlog bounded in chain-steps; beyond it callers are told when to come back."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

from service.protocol.errors import Refusal
from service.protocol.metrics import QueueState
from workers.jobs import AnyJob

FRESH_S, STALE_S = 0.1, 2.0  # what is known for longer than the first is looked up meanwhile; for longer than the second, waited for
UNKNOWN_S, LONGEST_S = 30, 3600  # Retry-After where no pace has been measured, and at most


class Backlog:
    """Refuses jobs that would wait too long: a bound on all chain-steps that wait.

    How many do, every submission is told, and a look at Redis tells where nobody submitted lately or somebody would be refused. What is
    on its way to Redis counts as well.
    """

    def __init__(self, look: Callable[[], Awaitable[QueueState | None]], most: int) -> None:
        self._look = look
        self._most = most
        self._waiting, self._pace = 0, 0.0
        self._known_at = self._looked_at = -math.inf
        self._on_their_way = 0  # chain-steps
        self._looking: asyncio.Task[None] | None = None

    async def admit(self, job: AnyJob, submission: Callable[[], Awaitable[int]]) -> None:
        """Makes a submission, which tells the chain-steps that wait after it.

        Raises Refusal where the job would make the backlog too long; one that meets no backlog is never too large.
        """
        steps = job.cost
        if steps:
            await self._require_room(steps)
        self._on_their_way += steps
        try:
            waiting = await submission()
        finally:
            self._on_their_way -= steps
        self._waiting, self._known_at = waiting, time.monotonic()

    async def _require_room(self, steps: int) -> None:
        age_s = time.monotonic() - self._known_at
        if age_s > STALE_S:
            await self._look_again()
        elif age_s > FRESH_S:
            self._begin_to_look()  # for those who come next
        if self._is_too_long(steps) and time.monotonic() - self._looked_at > FRESH_S:
            await self._look_again()
        if self._is_too_long(steps):
            raise self._refusal(self._waiting + self._on_their_way, steps)

    def _is_too_long(self, steps: int) -> bool:
        waiting = self._waiting + self._on_their_way
        return waiting > 0 and waiting + steps > self._most

    def _begin_to_look(self) -> asyncio.Task[None]:
        """One look serves all who want it."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._read())
        return self._looking

    async def _look_again(self) -> None:
        await asyncio.shield(self._begin_to_look())

    async def _read(self) -> None:
        try:
            if (state := await self._look()) is not None:
                self._waiting = sum(queue.backlog_chain_steps for queue in state.queues)
                self._pace = pace(state)
            self._known_at = self._looked_at = time.monotonic()
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

"""Bounds on the backlog, in chain-steps and of training: a job beyond a bound is refused with 429 and Retry-After."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

from service.protocol.errors import Refusal
from service.protocol.metrics import QueueState
from workers.jobs import AnyJob
from workers.queue.broker import BrokerUnavailable
from workers.queue.routing import FORKED_QUEUES

FRESH_S = 0.1  # an older figure is read again in the background
STALE_S = 2.0  # an older figure is read again before the job is admitted
TRAINING_RETRY_S = 60
UNKNOWN_S, LONGEST_S = 30, 3600  # Retry-After where no pace has been measured, and at most


class Backlog:
    """Refuses jobs that would make more chain-steps wait than `most`.

    Each submission returns the current backlog; Redis is read only when that figure is stale or a refusal is near. Submissions that have
    not returned yet count as well.
    """

    def __init__(self, read: Callable[[], Awaitable[QueueState | None]], most: int) -> None:
        self._read_state = read
        self._most = most
        self._waiting, self._pace = 0, 0.0
        self._known_at = self._read_at = -math.inf
        self._in_flight = 0  # chain-steps of submissions that have not returned
        self._reading: asyncio.Task[None] | None = None

    async def admit(self, job: AnyJob, submission: Callable[[], Awaitable[int]]) -> None:
        """Awaits a submission, which returns the chain-steps that wait after it.

        Raises Refusal where the backlog would grow too long. An empty backlog admits a job of any size.
        """
        steps = job.cost
        if steps:
            await self._require_room(steps)
        self._in_flight += steps
        try:
            waiting = await submission()
        finally:
            self._in_flight -= steps
        self._waiting, self._known_at = waiting, time.monotonic()

    async def _require_room(self, steps: int) -> None:
        age_s = time.monotonic() - self._known_at
        if age_s > STALE_S:
            await self._refresh()
        elif age_s > FRESH_S:
            self._start_reading()  # for the requests that follow
        if self._is_too_long(steps) and time.monotonic() - self._read_at > FRESH_S:
            await self._refresh()
        if self._is_too_long(steps):
            raise self._refusal(self._waiting + self._in_flight, steps)

    def _is_too_long(self, steps: int) -> bool:
        waiting = self._waiting + self._in_flight
        return waiting > 0 and waiting + steps > self._most

    def _start_reading(self) -> asyncio.Task[None]:
        """Starts a read of Redis, or returns the one that is under way."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        return self._reading

    async def _refresh(self) -> None:
        await asyncio.shield(self._start_reading())

    async def _read(self) -> None:
        try:
            if (state := await self._read_state()) is not None:
                self._waiting = sum(queue.backlog_chain_steps for queue in state.queues)
                self._pace = pace(state)
            self._known_at = self._read_at = time.monotonic()
        finally:
            self._reading = None

    def _refusal(self, waiting: int, steps: int) -> Refusal:
        excess = waiting + steps - self._most
        wait_s = min(LONGEST_S, max(1, math.ceil(excess / self._pace))) if self._pace > 0 else UNKNOWN_S
        detail = f"the backlog is {waiting} chain-steps, this job adds {steps}, the limit is {self._most}; try again in {wait_s} s"
        return Refusal("too-busy", detail, headers={"Retry-After": str(wait_s)})


class TrainingBacklog:
    """Refuses training and calibration jobs where too many wait, or where those that wait ask for too much.

    Such jobs are few: each reads Redis first, one after another. An empty backlog admits a job of any size.
    """

    def __init__(self, read: Callable[[], Awaitable[QueueState | None]], *, most_jobs: int, most_tflop: int) -> None:
        self._read_state, self._most_jobs, self._most_tflop = read, most_jobs, most_tflop
        self._turn = asyncio.Lock()

    async def admit(self, job: AnyJob, submission: Callable[[], Awaitable[int]]) -> None:
        """Awaits a submission. Raises Refusal."""
        async with self._turn:
            if (state := await self._read_state()) is None:
                raise BrokerUnavailable("Redis does not answer")
            queues = [queue for queue in state.queues if queue.name in FORKED_QUEUES]
            waiting, tflop = sum(queue.depth for queue in queues), sum(queue.backlog_tflop for queue in queues)
            if waiting >= self._most_jobs:
                raise _training_refusal(f"{waiting} training and calibration jobs wait, as many as may")
            if waiting and tflop + job.work > self._most_tflop:
                asked = f"the training and calibration jobs that wait ask for {tflop:.4g}·10^12 operations, this job adds {job.work:.4g}"
                raise _training_refusal(f"{asked}, the limit is {self._most_tflop}")
            await submission()


def _training_refusal(detail: str) -> Refusal:
    return Refusal("too-busy", f"{detail}; try again in {TRAINING_RETRY_S} s", headers={"Retry-After": str(TRAINING_RETRY_S)})


def pace(state: QueueState) -> float:
    """Chain-steps a second that all workers together made lately."""
    return sum(worker.chain_steps_per_s or 0.0 for worker in state.workers)

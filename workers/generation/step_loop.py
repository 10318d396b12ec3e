"""The loop around an engine, in a process where nothing else runs: orders come over a wire, and the news of its turns goes back.

In a thread beside others the steps would wait for Python's lock whenever these do anything.
"""

import select
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from workers.capacity import Flow, Room
from workers.generation.pipe import Wire
from workers.jobs import GenerateJob, Problem, Progress
from workers.messages import Failed, Finished, Measurement, Observer, Orders, Sent, State, Turn

PROGRESS_EVERY_S = 0.5  # and so often a sign of life, where there is nothing else to tell


class Steps(Protocol):
    """What is needed of an engine; called from one thread."""

    @property
    def device(self) -> str: ...
    @property
    def capacity(self) -> int: ...
    @property
    def free(self) -> int: ...
    @property
    def waiting(self) -> frozenset[Flow]: ...
    @property
    def quick(self) -> int: ...
    @property
    def busy(self) -> bool: ...
    def admit(self, job_id: str, job: GenerateJob, expires_at: float | None) -> None: ...
    def end_early(self, job_id: str, problem: Problem) -> None: ...
    def tick(self) -> Sequence[Finished | Failed]: ...
    def progress(self) -> dict[str, Progress]: ...


class StepLoop:
    """Runs the engine that `make` makes until nobody is at the other end of the wire."""

    def __init__(self, make: Callable[[Observer], Steps], wire: Wire) -> None:
        self._measurements: list[Measurement] = []
        self._engine, self._wire = make(self._measurements.append), wire
        self._poll = select.poll()
        self._admitted = Sent()
        self._told: State | None = None
        self._told_at = 0.0

    def run(self) -> None:
        self._tell(())
        while (orders := self._orders()) is not None:
            for order in orders:
                self._obey(order)
            self._tell(self._engine.tick() if self._engine.busy else ())

    def _orders(self) -> list[Orders] | None:
        """What has come; while there is nothing to tick it waits for that a little. None when nothing will come any more."""
        if not self._engine.busy:
            self._poll.register(self._wire, self._wire.events)
            self._poll.poll(1000 * PROGRESS_EVERY_S)
        self._wire.flush()
        try:
            return [Orders.model_validate_json(message.text) for message in self._wire.receive()]
        except EOFError:
            return None

    def _obey(self, orders: Orders) -> None:
        for job in orders.admit:
            self._engine.admit(job.label, job.job, job.expires_at)
            self._admitted = self._admitted.with_(job)
        for unwanted in orders.end_early:
            self._engine.end_early(unwanted.label, unwanted.problem)

    def _tell(self, outcomes: Sequence[Finished | Failed]) -> None:
        engine = self._engine
        state = State(engine.device, engine.capacity, self._admitted, Room(engine.free, engine.waiting, engine.quick))
        overdue = time.monotonic() - self._told_at > PROGRESS_EVERY_S
        if not (outcomes or overdue or state != self._told):
            return
        progress = engine.progress() if overdue else None
        turn = Turn(state=state, outcomes=tuple(outcomes), measurements=tuple(self._measurements), progress=progress)
        self._wire.send(turn.model_dump_json().encode(), *(one.pixels for one in outcomes if isinstance(one, Finished)))
        self._measurements.clear()
        self._told = state
        if overdue:
            self._told_at = time.monotonic()

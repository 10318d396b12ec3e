"""The loop of the engine's process: it receives orders over a pipe, ticks the engine and sends back what each tick ended.

The engine has a process of its own because beside other threads its ticks would wait for Python's global lock.
"""

import select
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from workers.capacity import Flow, Room
from workers.generation.pipe import Pipe
from workers.jobs import GenerateJob, Problem, Progress
from workers.messages import Failed, Finished, Measurement, Observer, Orders, Sent, State, Turn

PROGRESS_EVERY_S = 0.5  # between two progress reports, which are signs of life too


class Steps(Protocol):
    """An engine as the loop uses it; called from one thread."""

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
    """Runs the engine that `make` returns until the other end of the pipe is closed.

    `share` sets and returns the threads to compute with; it is called between two ticks.
    """

    def __init__(self, make: Callable[[Observer], Steps], share: Callable[[], int], pipe: Pipe) -> None:
        self._measurements: list[Measurement] = []
        self._engine, self._share, self._pipe = make(self._measurements.append), share, pipe
        self._poll = select.poll()
        self._admitted = Sent()
        self._sent: State | None = None
        self._progress_at = 0.0

    def run(self) -> None:
        self._report(())
        while (orders := self._orders()) is not None:
            for order in orders:
                self._obey(order)
            self._report(self._engine.tick() if self._engine.busy else ())

    def _orders(self) -> list[Orders] | None:
        """The orders that have arrived; an idle engine waits for them for half a second. None once the other end is closed."""
        if not self._engine.busy:
            self._poll.register(self._pipe, self._pipe.events)
            self._poll.poll(1000 * PROGRESS_EVERY_S)
        self._pipe.flush()
        try:
            return [Orders.model_validate_json(message.text) for message in self._pipe.receive()]
        except EOFError:
            return None

    def _obey(self, orders: Orders) -> None:
        for job in orders.admit:
            self._engine.admit(job.label, job.job, job.expires_at)
            self._admitted = self._admitted.with_(job)
        for unwanted in orders.end_early:
            self._engine.end_early(unwanted.label, unwanted.problem)

    def _report(self, outcomes: Sequence[Finished | Failed]) -> None:
        engine = self._engine
        state = State(engine.device, engine.capacity, self._admitted, Room(engine.free, engine.waiting, engine.quick), self._share())
        overdue = time.monotonic() - self._progress_at > PROGRESS_EVERY_S
        if not (outcomes or overdue or state != self._sent):
            return
        progress = engine.progress() if overdue else None
        turn = Turn(state=state, outcomes=tuple(outcomes), measurements=tuple(self._measurements), progress=progress)
        self._pipe.send(turn.model_dump_json().encode(), *(one.pixels for one in outcomes if isinstance(one, Finished)))
        self._measurements.clear()
        self._sent = state
        if overdue:
            self._progress_at = time.monotonic()

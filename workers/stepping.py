"""The main thread's loop around an engine: admit, cancel, tick. Other threads leave messages; what comes out is delivered."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from workers.jobs import GenerateJob, Problem, Progress
from workers.queues import points
from workers.scheduler import Flow

if TYPE_CHECKING:
    from workers.outcomes import Failed, Finished

T = TypeVar("T")
PROGRESS_EVERY_S = 0.5


class Steps(Protocol):
    """What is needed of an engine; called from one thread."""

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
    def cancel(self, job_id: str, problem: Problem) -> None: ...
    def tick(self) -> "Sequence[Finished | Failed]": ...
    def progress(self) -> dict[str, Progress]: ...


@dataclass(frozen=True)
class Admit:
    """A job to run, under the label it will come out with."""

    label: str
    job: GenerateJob
    expires_at: float | None


@dataclass(frozen=True)
class Cancel:
    """A job to end early."""

    label: str
    problem: Problem


@dataclass(frozen=True)
class Leave:
    """Nothing is left to do, or another thread died of `error`."""

    error: BaseException | None = None


class Room(NamedTuple):
    """What an engine can take."""

    free: int  # chains that would start at once
    waiting: frozenset[Flow]  # those who have chains inside that wait to start
    quick: int = 0  # a job whose chains need no more ticks than this is welcome even if nothing is free


class _Sent(NamedTuple):
    """Jobs so far, and the points their chains may ask for in a tick."""

    jobs: int
    points: int

    def with_(self, job: Admit) -> "_Sent":
        return _Sent(self.jobs + 1, self.points + points(job.job))


class StepLoop:
    """Runs an engine until told to leave; in its thread `deliver` is called with what came out, `changed` when the room is another."""

    def __init__(self, engine: Steps, deliver: "Callable[[Sequence[Finished | Failed]], None]", changed: Callable[[], None]) -> None:
        self.progress: dict[str, Progress] = {}
        self.turned_at = time.monotonic()
        self._engine, self._deliver, self._changed = engine, deliver, changed
        self._inbox: SimpleQueue[Admit | Cancel | Leave] = SimpleQueue()
        self._sent = _Sent(0, 0)
        self._state = (self._sent, self._room())  # what was admitted, room after that: replaced as a whole, so never torn

    # For other threads

    @property
    def room(self) -> Room | None:
        """What could be admitted; None while jobs sent before still wait to be."""
        admitted, room = self._state
        return room if admitted == self._sent else None

    @property
    def room_to_come(self) -> Room | None:
        """What could be admitted once those are; None where nothing would be free."""
        admitted, room = self._state
        free = room.free - (self._sent.points - admitted.points)
        return room._replace(free=free) if free > 0 else None

    @property
    def capacity(self) -> int:
        """Chains that may run at once, as things are."""
        return self._engine.capacity

    def admit(self, jobs: Iterable[Admit]) -> None:
        for job in jobs:
            self._sent = self._sent.with_(job)
            self._inbox.put(job)

    def send(self, message: Cancel | Leave) -> None:
        self._inbox.put(message)

    # For the main thread

    def run(self) -> None:
        """Sleeps in the inbox while there is nothing to tick; raises the error another thread died of."""
        admitted, told_at = _Sent(0, 0), 0.0
        while True:
            self.turned_at = time.monotonic()
            for message in self._messages():
                if isinstance(message, Leave):
                    if message.error:
                        raise message.error
                    return
                admitted = self._obey(message, admitted)
            outcomes = self._engine.tick() if self._engine.busy else ()
            state = (admitted, self._room())
            if state != self._state:
                self._state = state
                self._changed()
            if outcomes:
                self._deliver(outcomes)
            if time.monotonic() - told_at > PROGRESS_EVERY_S:
                self.progress, told_at = self._engine.progress(), time.monotonic()

    def _room(self) -> Room:
        return Room(self._engine.free, self._engine.waiting, self._engine.quick)

    def _obey(self, message: Admit | Cancel, admitted: "_Sent") -> "_Sent":
        """Returns what is admitted now."""
        if isinstance(message, Admit):
            self._engine.admit(message.label, message.job, message.expires_at)
            return admitted.with_(message)
        self._engine.cancel(message.label, message.problem)
        return admitted

    def _messages(self) -> list[Admit | Cancel | Leave]:
        if self._engine.busy:
            return drained(self._inbox)
        try:
            return [self._inbox.get(timeout=1.0), *drained(self._inbox)]
        except Empty:
            return []


def drained(queue: "SimpleQueue[T]") -> list[T]:
    """What is in a queue by now."""
    found = []
    while not queue.empty():
        found.append(queue.get())
    return found

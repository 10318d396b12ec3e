"""The worker's side of an engine that steps in a process of its own."""

import multiprocessing
import select
import signal
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import reduce
from math import prod
from types import TracebackType
from typing import Protocol, Self

from workers.capacity import Room
from workers.generation.pipe import Message, Wire
from workers.generation.step_loop import PROGRESS_EVERY_S, StepLoop, Steps
from workers.jobs import Problem, Progress
from workers.messages import Admit, EndEarly, Finished, Observer, Orders, Sent, State, Turn

FORK = multiprocessing.get_context("fork")
LEAVE_LIMIT_S = 10.0  # longer than an engine takes for anything that it does between two looks at its orders


class EngineDied(Exception):
    """The engine's process is gone; what it said last is on its standard error."""


class Runs(Protocol):
    """What is needed of the process, or of a thread in its place."""

    @property
    def pid(self) -> int | None: ...
    @property
    def exitcode(self) -> int | None: ...
    def join(self, timeout: float | None = None) -> None: ...
    def kill(self) -> None: ...


class HasFileno(Protocol):
    """What can be polled, or not at the moment where the number is negative."""

    def fileno(self) -> int: ...


class EngineProcess:
    """Sends orders, and waits for what comes back; one thread does so, and any may wake it."""

    def __init__(self, wire: Wire, process: Runs) -> None:
        self.progress: dict[str, Progress] = {}
        self.told_at = self.progress_at = time.monotonic()
        self._wire, self._process = wire, process
        self._sent = Sent()
        self._state: State | None = None  # replaced as a whole, so never torn
        self._woken = False
        self._bell, self._ringer = socket.socketpair()
        self._poll = select.poll()
        self._poll.register(self._bell, select.POLLIN)

    @classmethod
    def start(cls, make: Callable[[Observer], Steps]) -> Self:
        """Forks, so no other thread may run yet. `make` is called in the new process with the engine's observer."""
        ours, theirs = Wire.pair()
        process = FORK.Process(target=_step, args=(make, theirs, ours), name="engine")
        process.start()
        theirs.close()
        return cls(ours, process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """That of its process."""
        assert self._process.pid is not None, "not started"
        return self._process.pid

    @property
    def device(self) -> str:
        """What it computes on, as torch calls it."""
        return self._known.device

    @property
    def capacity(self) -> int:
        """Chains that may run at once, as things are."""
        return self._known.capacity

    @property
    def room(self) -> Room | None:
        """What could be admitted; None while jobs sent before still wait to be."""
        state = self._known
        return state.room if state.admitted == self._sent else None

    @property
    def room_to_come(self) -> Room | None:
        """What could be admitted once those are; None where nothing would be free."""
        state = self._known
        free = state.room.free - (self._sent.points - state.admitted.points)
        return state.room._replace(free=free) if free > 0 else None

    def admit(self, jobs: Iterable[Admit]) -> None:
        """Sends jobs to it."""
        if admit := tuple(jobs):
            self._sent = reduce(Sent.with_, admit, self._sent)
            self._send(Orders(admit=admit))

    def order_end(self, label: str, problem: Problem) -> None:
        """Ends a job at its next tick."""
        self._send(Orders(end_early=(EndEarly(label=label, problem=problem),)))

    def wake(self) -> None:
        """Ends a wait, or the next one; for any thread. It takes no lock, so a signal handler may call it."""
        if not self._woken:
            self._woken = True
            with suppress(OSError):  # nobody waits any more
                self._ringer.send(b"!")

    def await_ready(self) -> None:
        """Returns when it can be asked; raises EngineDied."""
        while self._state is None:
            self.wait(PROGRESS_EVERY_S)
            self.receive()

    def wait(self, seconds: float, *others: HasFileno) -> None:
        """Returns when it or one of the others has something to tell, when woken, or when that time is over."""
        self._poll.register(self._wire, self._wire.events)
        watched = [other for other in others if other.fileno() >= 0]
        for other in watched:
            self._poll.register(other, select.POLLIN)
        ready = [number for number, _ in self._poll.poll(1000 * seconds)]
        for other in watched:
            self._poll.unregister(other)
        if self._bell.fileno() in ready:
            self._bell.recv(1 << 10)
        self._woken = False  # from now on: whoever rang before will find all he rang for looked at
        self._wire.flush()

    def receive(self) -> list[Turn]:
        """What it told since it was last asked; raises EngineDied."""
        try:
            turns = [_turn(message) for message in self._wire.receive()]
        except EOFError:
            self._process.join(LEAVE_LIMIT_S)
            raise EngineDied(f"the engine's process is gone, exit code {self._process.exitcode}") from None
        for turn in turns:
            self._state, self.told_at = turn.state, time.monotonic()
            if turn.progress is not None:
                self.progress, self.progress_at = turn.progress, self.told_at
        return turns

    def close(self) -> None:
        """Ends it; what still runs in it is lost."""
        if self._wire.open:
            for end in (self._wire, self._bell, self._ringer):
                end.close()
            self._process.join(LEAVE_LIMIT_S)
            self._process.kill()

    @property
    def _known(self) -> State:
        assert self._state is not None, "not asked to be ready"
        return self._state

    def _send(self, orders: Orders) -> None:
        self._wire.send(orders.model_dump_json().encode())


def _turn(message: Message) -> Turn:
    """With the pixels of its images where they belong."""
    turn, at, outcomes = Turn.model_validate_json(message.text), 0, []
    for outcome in turn.outcomes:
        if isinstance(outcome, Finished):
            end = at + prod(outcome.shape)
            outcome, at = outcome.model_copy(update={"pixels": message.content[at:end]}), end
        outcomes.append(outcome)
    return turn.model_copy(update={"outcomes": tuple(outcomes)})


def _step(make: Callable[[Observer], Steps], theirs: Wire, ours: Wire) -> None:
    """What the new process does. Signals are the worker's business: it says when to leave by closing its end of the wire."""
    ours.close()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    StepLoop(make, theirs).run()

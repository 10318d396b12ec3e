"""The worker's side of the engine's process: it sends orders over a pipe and receives what each tick ended."""

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
from workers.generation.pipe import Message, Pipe
from workers.generation.step_loop import PROGRESS_EVERY_S, StepLoop, Steps
from workers.jobs import Problem, Progress
from workers.messages import Admit, EndEarly, Finished, Observer, Orders, Sent, State, Turn

FORK = multiprocessing.get_context("fork")
LEAVE_LIMIT_S = 10.0  # longer than any tick, after which the engine sees that its pipe is closed


class EngineDied(Exception):
    """The engine's process has ended; its standard error says why."""


class Runs(Protocol):
    """The engine's process, or in tests a thread in its place."""

    @property
    def pid(self) -> int | None: ...
    @property
    def exitcode(self) -> int | None: ...
    def join(self, timeout: float | None = None) -> None: ...
    def kill(self) -> None: ...


class HasFileno(Protocol):
    """A source to poll; closed while its number is negative."""

    def fileno(self) -> int: ...


class EngineProcess:
    """Sends orders and waits for turns. One thread uses it; any thread may call `wake`."""

    def __init__(self, pipe: Pipe, process: Runs) -> None:
        self.progress: dict[str, Progress] = {}
        self.told_at = self.progress_at = time.monotonic()
        self._pipe, self._process = pipe, process
        self._sent = Sent()
        self._state: State | None = None  # replaced as a whole, so never torn
        self._woken = False
        self._bell, self._ringer = socket.socketpair()
        self._poll = select.poll()
        self._poll.register(self._bell, select.POLLIN)

    @classmethod
    def start(cls, make: Callable[[Observer], Steps], share: Callable[[], int]) -> Self:
        """Forks, so no other thread may run yet; `make` and `share` are those of a `StepLoop` in the new process."""
        worker_end, engine_end = Pipe.pair()
        process = FORK.Process(target=_step, args=(make, share, engine_end, worker_end), name="engine")
        process.start()
        engine_end.close()
        return cls(worker_end, process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process id of the engine's process."""
        assert self._process.pid is not None, "not started"
        return self._process.pid

    @property
    def device(self) -> str:
        """What the engine computes on, as torch calls it."""
        return self._known.device

    @property
    def threads(self) -> int:
        """Threads the engine computes with at the moment; 0 until it is ready."""
        return self._state.threads if self._state else 0

    @property
    def capacity(self) -> int:
        """Chains that may run at once; fewer than the setting while memory is short."""
        return self._known.capacity

    @property
    def room(self) -> Room | None:
        """Room for more jobs; None while the engine has not admitted all it was sent."""
        state = self._known
        return state.room if state.admitted == self._sent else None

    @property
    def room_to_come(self) -> Room | None:
        """Room for more jobs after all that were sent; None where there is none."""
        state = self._known
        free = state.room.free - (self._sent.points - state.admitted.points)
        return state.room._replace(free=free) if free > 0 else None

    def admit(self, jobs: Iterable[Admit]) -> None:
        """Sends jobs to the engine."""
        if admit := tuple(jobs):
            self._sent = reduce(Sent.with_, admit, self._sent)
            self._send(Orders(admit=admit))

    def order_end(self, label: str, problem: Problem) -> None:
        """Ends a job at its next tick."""
        self._send(Orders(end_early=(EndEarly(label=label, problem=problem),)))

    def wake(self) -> None:
        """Ends the current wait, or the next one. It takes no lock, so any thread and any signal handler may call it."""
        if not self._woken:
            self._woken = True
            with suppress(OSError):  # closed
                self._ringer.send(b"!")

    def await_ready(self) -> None:
        """Waits until the engine has reported its state; raises EngineDied."""
        while self._state is None:
            self.wait(PROGRESS_EVERY_S)
            self.receive()

    def wait(self, seconds: float, *others: HasFileno) -> None:
        """Waits for a turn, for one of the other sources, for `wake`, or for that long."""
        self._poll.register(self._pipe, self._pipe.events)
        watched = [other for other in others if other.fileno() >= 0]
        for other in watched:
            self._poll.register(other, select.POLLIN)
        ready = [number for number, _ in self._poll.poll(1000 * seconds)]
        for other in watched:
            self._poll.unregister(other)
        if self._bell.fileno() in ready:
            self._bell.recv(1 << 10)
        self._woken = False  # the caller now looks at everything a `wake` so far was for
        self._pipe.flush()

    def receive(self) -> list[Turn]:
        """Turns since the last call; raises EngineDied."""
        try:
            turns = [_turn(message) for message in self._pipe.receive()]
        except EOFError:
            self._process.join(LEAVE_LIMIT_S)
            raise EngineDied(f"the engine's process ended, exit code {self._process.exitcode}") from None
        for turn in turns:
            self._state, self.told_at = turn.state, time.monotonic()
            if turn.progress is not None:
                self.progress, self.progress_at = turn.progress, self.told_at
        return turns

    def close(self) -> None:
        """Ends the process; jobs that still run in it are lost."""
        if self._pipe.open:
            for end in (self._pipe, self._bell, self._ringer):
                end.close()
            self._process.join(LEAVE_LIMIT_S)
            self._process.kill()

    @property
    def _known(self) -> State:
        assert self._state is not None, "await_ready was not called"
        return self._state

    def _send(self, orders: Orders) -> None:
        self._pipe.send(orders.model_dump_json().encode())


def _turn(message: Message) -> Turn:
    """A turn whose outcomes have their pixels again."""
    turn, at, outcomes = Turn.model_validate_json(message.text), 0, []
    for outcome in turn.outcomes:
        if isinstance(outcome, Finished):
            end = at + prod(outcome.shape)
            outcome, at = outcome.model_copy(update={"pixels": message.content[at:end]}), end
        outcomes.append(outcome)
    return turn.model_copy(update={"outcomes": tuple(outcomes)})


def _step(make: Callable[[Observer], Steps], share: Callable[[], int], engine_end: Pipe, worker_end: Pipe) -> None:
    """What the new process does. It ignores signals: the worker ends it by closing its end of the pipe."""
    worker_end.close()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    StepLoop(make, share, engine_end).run()

"""The scheduler decides which chains start, pause and resume before a tick. It imports no torch.

Waiting chains start in the order of start-time fair queueing (Goyal, Vin & Cheng 1996). A flow is a caller's jobs of one priority. Each
flow has a virtual time; the flow with the smallest starts the next chain, which adds points / share to that flow's virtual time. Shares are
4 for `high`, 2 for `normal` and 1 for `low`. So a caller with one chain does not wait behind another caller's 1,000 chains.

When the batch is full, a running chain gives way: it pauses, and a waiting chain takes its place. This happens in two cases.
1. The waiting chain is far shorter: it needs at most sqrt(remaining * length) / QUICK ticks of the running chain, with QUICK = 4.
2. The waiting chain's caller has no chain in the batch, and the running chain's caller has more than one. Then one chain starts.

A chain never gives way to a lower priority, and pauses for at most its own length in total. Pauses do not change its numbers.
"""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from workers.capacity import Flow

QUICK = 4


class ChainName(NamedTuple):
    """One chain of a job."""

    job_id: str
    number: int


class Running(NamedTuple):
    """A chain in the batch."""

    name: ChainName
    flow: Flow
    points: int  # that it may ask for in a tick
    left: int  # ticks that it still needs
    length: int  # ticks from its start to its end

    def far_longer_than(self, ticks: int) -> bool:
        """Whether this chain gives way to one that needs `ticks` ticks."""
        return (ticks * QUICK) ** 2 <= self.left * self.length


@dataclass(eq=False)
class Waiting:
    """A job's chains that have not started."""

    job_id: str
    chains: int  # still to start
    points: int  # that one of its chains may ask for in a tick
    ticks: int  # that one of its chains needs
    started: int = 0


@dataclass
class Line:
    """The waiting jobs of a flow, and its place in the order of turns."""

    flow: Flow
    turn: float
    jobs: deque[Waiting] = field(default_factory=deque)


@dataclass(frozen=True)
class Admission:
    """Chains `first` to `first + count - 1` of a job join the batch."""

    job_id: str
    first: int
    count: int


@dataclass(frozen=True)
class Moves:
    """Chains to take out of the batch for a while, to put back, and to start, in this order."""

    parked: tuple[ChainName, ...] = ()
    resumed: tuple[ChainName, ...] = ()
    admitted: tuple[Admission, ...] = ()


class Scheduler:
    """Admits chains, not jobs: one chain in turn, over the callers and, within a caller, over its jobs."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity  # points a tick may ask for; may change between ticks
        self._lines: dict[Flow, Line] = {}
        self._turns: dict[Flow, float] = {}  # of flows that have started chains lately, waiting or not
        self._now = 0.0  # the turn of the chain that started last
        self._parked: dict[ChainName, tuple[Running, int]] = {}  # with the tick at which each left, oldest first
        self._waited: dict[str, Counter[int]] = {}  # ticks that chains have been parked for, by job
        self._news = False  # a job came that chains may have to give way to

    @property
    def waiting(self) -> int:
        """Points of all chains that wait."""
        starting = sum(job.chains * job.points for line in self._lines.values() for job in line.jobs)
        return starting + sum(running.points for running, _ in self._parked.values())

    @property
    def flows(self) -> frozenset[Flow]:
        """The flows whose chains wait to start."""
        return frozenset(self._lines)

    def add(self, job_id: str, chains: int, points: int = 1, ticks: int = 1, flow: Flow = Flow()) -> None:  # noqa: B008  # immutable
        """Queues a job's chains."""
        if flow not in self._lines:
            self._lines[flow] = Line(flow, max(self._now, self._turns.get(flow, 0.0)))
        self._lines[flow].jobs.append(Waiting(job_id, chains, points, ticks))
        self._news = True

    def remove(self, job_id: str) -> None:
        """Removes a job's waiting and parked chains."""
        for line in list(self._lines.values()):
            line.jobs = deque(job for job in line.jobs if job.job_id != job_id)
            self._forget_if_empty(line)
        if self._waited.pop(job_id, None) is not None:
            self._parked = {name: parked for name, parked in self._parked.items() if name.job_id != job_id}

    def may_move(self, running: int) -> bool:
        """Whether `move` could change the batch; `running` is the points of the chains in the batch."""
        return bool(self._lines or self._parked) and (running < self.capacity or self._news)

    def move(self, batch: Sequence[Running], now: int) -> Moves:
        """Which chains leave and join the batch at tick `now`."""
        round_ = _Round(self.capacity, list(batch))
        self._resume(round_, [name for name in self._parked if self._patience(self._parked[name][0], now) <= 0], now)
        self._press(round_, now)
        self._resume(round_, list(self._parked), now)
        while line := self._next(round_):
            self._start(round_, line, line.jobs[0])
        self._news = bool(round_.admitted)  # chains that started may have to give way to chains that did not
        return Moves(tuple(round_.parked), tuple(round_.resumed), tuple(round_.admitted.values()))

    def _next(self, round_: "_Round") -> Line | None:
        """The first in turn, if it fits. A chain too large for any batch runs alone; no chain overtakes it, so that it runs."""
        if not self._lines:
            return None
        line = min(self._lines.values(), key=lambda line: line.turn)
        return line if round_.alone or line.jobs[0].points <= round_.room else None

    def _press(self, round_: "_Round", now: int) -> None:
        """Starts waiting chains while running chains give way to them."""
        while any(self._press_one(line, round_, now) for line in sorted(self._lines.values(), key=lambda line: line.turn)):
            pass

    def _press_one(self, line: Line, round_: "_Round", now: int) -> bool:
        """Starts chains of a line's shortest job where others give way to them; whether it did."""
        job = min(line.jobs, key=lambda job: job.ticks)
        giving = [one for one in round_.batch if one.flow.share <= line.flow.share and self._patience(one, now) > 0]
        yielding, count = sorted((one for one in giving if one.far_longer_than(job.ticks)), key=lambda one: one.left), job.chains
        if not yielding and line.flow.caller not in round_.callers:
            crowd = round_.callers
            yielding = sorted((one for one in giving if crowd[one.flow.caller] > 1), key=lambda one: (crowd[one.flow.caller], one.left))
            count = 1
        started = 0
        while yielding and started < count and round_.room + sum(one.points for one in yielding) >= job.points:
            while round_.room < job.points:
                self._park(round_, yielding.pop(), now)
            self._start(round_, line, job)
            started += 1
        return started > 0

    def _patience(self, one: Running, now: int) -> int:
        """Ticks that a chain may still be made to wait, in all."""
        waited = self._waited.get(one.name.job_id, Counter())[one.name.number]
        since = self._parked[one.name][1] if one.name in self._parked else now
        return one.length - waited - (now - since)

    def _park(self, round_: "_Round", one: Running, now: int) -> None:
        self._parked[one.name] = one, now
        self._waited.setdefault(one.name.job_id, Counter())
        round_.park(one)

    def _resume(self, round_: "_Round", names: Sequence[ChainName], now: int) -> None:
        """Puts chains back as far as there is room."""
        for name in names:
            one, since = self._parked[name]
            if one.points <= round_.room:
                del self._parked[name]
                self._waited[name.job_id][name.number] += now - since
                round_.resume(one)

    def _start(self, round_: "_Round", line: Line, job: Waiting) -> None:
        """Takes one chain of a line's job, which goes to the line's end."""
        line.jobs.remove(job)
        job.started += 1
        job.chains -= 1
        if job.chains:
            line.jobs.append(job)
        self._now = max(self._now, line.turn)
        line.turn += job.points / line.flow.share
        self._turns[line.flow] = line.turn
        self._forget_if_empty(line)
        round_.start(line.flow.caller, job)

    def _forget_if_empty(self, line: Line) -> None:
        if not line.jobs:
            self._lines.pop(line.flow, None)
            self._turns = {flow: turn for flow, turn in self._turns.items() if turn > self._now}


class _Round:
    """One tick's moves, as they are made."""

    def __init__(self, capacity: int, batch: list[Running]) -> None:
        self.batch = batch  # chains that could give way
        self.room = capacity - sum(one.points for one in batch)
        self.callers = Counter(one.flow.caller for one in batch)  # chains that run for each
        self.parked: list[ChainName] = []
        self.resumed: list[ChainName] = []
        self.admitted: dict[str, Admission] = {}

    @property
    def alone(self) -> bool:
        return not self.batch and not self.resumed and not self.admitted

    def park(self, one: Running) -> None:
        self.batch.remove(one)
        self.room += one.points
        self.callers[one.flow.caller] -= 1
        self.parked.append(one.name)

    def resume(self, one: Running) -> None:
        self.room -= one.points
        self.callers[one.flow.caller] += 1
        if one.name in self.parked:
            self.parked.remove(one.name)  # it never left
        else:
            self.resumed.append(one.name)

    def start(self, caller: str, job: Waiting) -> None:
        self.room -= job.points
        self.callers[caller] += 1
        before = self.admitted.get(job.job_id, Admission(job.job_id, job.started - 1, 0))
        self.admitted[job.job_id] = Admission(job.job_id, before.first, before.count + 1)

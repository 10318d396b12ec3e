"""Who joins the next tick, and in which buckets: policy alone, on names and counts. Imports no torch.

Turns are start-time fair queueing (Goyal, Vin & Cheng 1996). A flow is a caller's jobs of one priority; a chain that starts moves its
flow's turn on by the points it asks for over the flow's share, and the flow whose turn is least is next. So 1,000 chains of one caller
hold up another's only one by the chain that started last, and `high`, `normal` and `low` start 4 : 2 : 1 where all of them wait.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

SHARES = {"high": 4, "normal": 2, "low": 1}
LEAST_SPARE = 4  # points beside a full batch


class Flow(NamedTuple):
    """Whose turn it is."""

    caller: str = ""
    priority: str = "normal"


@dataclass
class Waiting:
    """A job's chains that have not started."""

    job_id: str
    chains: int  # still to start
    points: int  # that one of its chains may ask for in a tick
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


class Scheduler:
    """Admits chains, not jobs: one chain in turn, over the callers and, within a caller, over its jobs.

    When the batch is full of long chains a turn would be long in coming: a caller of whom no chain runs may start one beside
    the full batch, as long as all those beside it are at most a quarter of it.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity  # points a tick may ask for; may change between ticks
        self._lines: dict[Flow, Line] = {}
        self._turns: dict[Flow, float] = {}  # of flows that have started chains lately, waiting or not
        self._now = 0.0  # the turn of the chain that started last

    @property
    def waiting(self) -> int:
        """Points of all chains that wait."""
        return sum(job.chains * job.points for line in self._lines.values() for job in line.jobs)

    @property
    def flows(self) -> frozenset[Flow]:
        """Those who have chains that wait."""
        return frozenset(self._lines)

    def add(self, job_id: str, chains: int, points: int = 1, flow: Flow = Flow()) -> None:  # noqa: B008  # immutable
        """A job's chains come to wait."""
        if flow not in self._lines:
            self._lines[flow] = Line(flow, max(self._now, self._turns.get(flow, 0.0)))
        self._lines[flow].jobs.append(Waiting(job_id, chains, points))

    def remove(self, job_id: str) -> None:
        """Whatever of a job still waits will not start."""
        for line in list(self._lines.values()):
            line.jobs = deque(job for job in line.jobs if job.job_id != job_id)
            self._forget_if_empty(line)

    def admit(self, running: int, present: Iterable[str] = ()) -> list[Admission]:
        """Chains that join now, given the points that running chains ask for and the callers they run for."""
        room, here = self.capacity - running, set(present)
        admitted: dict[str, Admission] = {}
        while line := self._next(room, here, alone=not running and not admitted):
            job = self._start(line)
            room -= job.points
            here.add(line.flow.caller)
            before = admitted.get(job.job_id, Admission(job.job_id, job.started - 1, 0))
            admitted[job.job_id] = Admission(job.job_id, before.first, before.count + 1)
        return list(admitted.values())

    def _next(self, room: int, here: set[str], *, alone: bool) -> Line | None:
        """The first in turn, if it fits, else the first of those who may start one beside the batch.

        A chain too large for any batch runs alone; nobody overtakes it for room within the batch, or it would never come to run.
        """
        spare = max(LEAST_SPARE, self.capacity // 4)
        for place, line in enumerate(sorted(self._lines.values(), key=lambda line: line.turn)):
            points = line.jobs[0].points
            first_and_fits = place == 0 and (alone or points <= room)
            if first_and_fits or (line.flow.caller not in here and points <= room + spare):
                return line
        return None

    def _start(self, line: Line) -> Waiting:
        """Takes one chain of the line's first job, which goes to the line's end."""
        job = line.jobs.popleft()
        job.started += 1
        job.chains -= 1
        if job.chains:
            line.jobs.append(job)
        self._now = max(self._now, line.turn)
        line.turn += job.points / SHARES[line.flow.priority]
        self._turns[line.flow] = line.turn
        self._forget_if_empty(line)
        return job

    def _forget_if_empty(self, line: Line) -> None:
        if not line.jobs:
            del self._lines[line.flow]
            self._turns = {flow: turn for flow, turn in self._turns.items() if turn > self._now}


def buckets_for(rows: int, buckets: tuple[int, ...]) -> list[tuple[int, int]]:
    """Cuts rows into evaluations of known sizes, [(rows, bucket), ...]: full largest buckets, then the smallest that holds the rest."""
    largest = max(buckets)
    cuts = [(largest, largest)] * (rows // largest)
    rest = rows % largest
    if rest:
        cuts.append((rest, min(bucket for bucket in buckets if bucket >= rest)))
    return cuts

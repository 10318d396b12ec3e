"""Who joins the next tick, and in which buckets: policy alone, on names and counts. Imports no torch."""

from collections import deque
from dataclasses import dataclass


@dataclass
class Waiting:
    """A job's chains that have not started."""

    job_id: str
    chains: int  # still to start
    points: int  # that one of its chains may ask for in a tick
    started: int = 0


@dataclass(frozen=True)
class Admission:
    """Chains `first` to `first + count - 1` of a job join the batch."""

    job_id: str
    first: int
    count: int


class Scheduler:
    """Admits chains, not jobs: one chain of each waiting job in turn, so that a large job never keeps a small one out."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity  # points a tick may ask for
        self._waiting: deque[Waiting] = deque()

    @property
    def waiting(self) -> int:
        """Points of all chains that wait."""
        return sum(job.chains * job.points for job in self._waiting)

    def add(self, job_id: str, chains: int, points: int = 1) -> None:
        """A job's chains come to wait."""
        self._waiting.append(Waiting(job_id, chains, points))

    def remove(self, job_id: str) -> None:
        """Whatever of a job still waits will not start."""
        self._waiting = deque(job for job in self._waiting if job.job_id != job_id)

    def admit(self, running: int) -> list[Admission]:
        """Chains that join now, given the points that running chains ask for; a chain too large for any batch runs alone."""
        room = self.capacity - running
        counts: dict[str, Admission] = {}
        while self._waiting:
            job = self._waiting[0]
            if job.points > room and (running or counts):
                break
            room -= job.points
            before = counts.get(job.job_id)
            counts[job.job_id] = Admission(job.job_id, before.first if before else job.started, before.count + 1 if before else 1)
            job.started += 1
            job.chains -= 1
            self._waiting.popleft()
            if job.chains:
                self._waiting.append(job)
        return list(counts.values())


def buckets_for(rows: int, buckets: tuple[int, ...]) -> list[tuple[int, int]]:
    """Cuts rows into evaluations of known sizes, [(rows, bucket), ...]: full largest buckets, then the smallest that holds the rest."""
    largest = max(buckets)
    cuts = [(largest, largest)] * (rows // largest)
    rest = rows % largest
    if rest:
        cuts.append((rest, min(bucket for bucket in buckets if bucket >= rest)))
    return cuts

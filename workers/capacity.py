"""What jobs ask of an engine and what it can take: chain-steps, points of a tick, batch sizes, shares. Counts alone, no torch."""

from typing import NamedTuple

from workers.jobs import AnyJob, GenerateJob

SHARES = {"high": 4, "normal": 2, "low": 1}


class Flow(NamedTuple):
    """Whose turn it is."""

    caller: str = ""
    priority: str = "normal"

    @property
    def share(self) -> int:
        return SHARES[self.priority]


class Room(NamedTuple):
    """What an engine can take."""

    free: int  # chains that would start at once
    waiting: frozenset[Flow]  # those who have chains inside that wait to start
    quick: int = 0  # a job whose chains need no more ticks than this is welcome even if nothing is free


def chain_steps(job: AnyJob) -> int:
    """What a job costs a generation worker: evaluations of one chain, a plain decoder pass counting as one."""
    if job.kind == "train":
        return 0
    return job.num_images * (job.mcmc.ticks if job.mcmc else 1)


def points(job: GenerateJob) -> int:
    """What a job's chains may ask for in one tick, all of them."""
    return job.num_images * job.mcmc.points_per_chain if job.mcmc else 0


def buckets_for(rows: int, buckets: tuple[int, ...]) -> list[tuple[int, int]]:
    """Cuts rows into evaluations of known sizes, [(rows, bucket), ...]: full largest buckets, then the smallest that holds the rest."""
    largest = max(buckets)
    cuts = [(largest, largest)] * (rows // largest)
    rest = rows % largest
    if rest:
        cuts.append((rest, min(bucket for bucket in buckets if bucket >= rest)))
    return cuts

"""What an engine can take: chains, batch sizes, shares of callers. Counts alone, no torch."""

from typing import NamedTuple

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


def buckets_for(rows: int, buckets: tuple[int, ...]) -> list[tuple[int, int]]:
    """Cuts rows into evaluations of known sizes, [(rows, bucket), ...]: full largest buckets, then the smallest that holds the rest."""
    largest = max(buckets)
    cuts = [(largest, largest)] * (rows // largest)
    rest = rows % largest
    if rest:
        cuts.append((rest, min(bucket for bucket in buckets if bucket >= rest)))
    return cuts

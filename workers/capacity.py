"""What an engine can take: chains, batch sizes, shares of callers. Counts alone, no torch."""

from typing import NamedTuple

SHARES = {"high": 4, "normal": 2, "low": 1}


class Flow(NamedTuple):
    """Jobs of one caller at one priority: flows take turns."""

    caller: str = ""
    priority: str = "normal"

    @property
    def share(self) -> int:
        return SHARES[self.priority]


class Room(NamedTuple):
    """Which jobs an engine can take."""

    free: int  # chains that would start at once
    waiting: frozenset[Flow]  # flows whose chains wait inside the engine
    quick: int = 0  # a job whose chains need no more ticks is taken even if nothing is free


def buckets_for(rows: int, buckets: tuple[int, ...]) -> list[tuple[int, int]]:
    """Splits rows into evaluations [(rows, bucket), ...]: full largest buckets, then the smallest bucket that holds the rest."""
    largest = max(buckets)
    cuts = [(largest, largest)] * (rows // largest)
    rest = rows % largest
    if rest:
        cuts.append((rest, min(bucket for bucket in buckets if bucket >= rest)))
    return cuts

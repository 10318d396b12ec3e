"""Which batch sizes give the same bits, and which memory has room for: found by running the same rows in every size, in many slots.

That takes many evaluations; other work may go on after each.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from models.device import is_out_of_memory, release_memory, wait_for
from workers.engine.memory import Memory, memory_of
from workers.engine.slices import Slices

REFERENCE = 64  # workers of any capacity from here on give the same bits
CANDIDATES = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
LARGE = 256  # beyond it a size is used only if it takes less time for each row than the one below
FEWEST = 4  # chains at a time; fewer give other bits
ROOM = 0.8  # share of the free memory to use; the rest is for other processes
_logger = logging.getLogger("rq.worker")
T = TypeVar("T")
Evaluate = Callable[[Tensor], tuple[Tensor, ...]]  # (rows, latent) -> results of (rows, ...)


@dataclass(frozen=True)
class Table:
    """Bucket sizes that give the same bits as one another, and what each costs."""

    reference: int  # the size that all kept sizes agree with; it need not be kept itself
    capacity: int  # rows that were asked for, or the largest size memory has room for
    seconds: dict[int, float]  # size: seconds a call; sizes leave it when memory runs out
    bytes: dict[int, int]  # size: what a call takes at its peak
    reproducible: bool = True  # False where no size gives the same bits in every row: then one is kept all the same


def agreeing(evaluate: Evaluate, rows: Tensor, capacity: int, memory: Memory | None = None) -> Slices[Table]:
    """Bucket sizes up to `capacity` that fit into memory and whose results equal the reference's bitwise; at least the reference itself.

    Batches of each size are filled with the rows in turn, (rows, ...), each batch from another row on, so that rows stand in even slots
    and in odd ones; every row of every batch has to agree.
    """
    wanted = [size for size in CANDIDATES if size <= max(capacity, CANDIDATES[0])]
    room = Room(evaluate, rows, memory or memory_of(rows.device))
    yield from room.measure([size for size in wanted if size <= REFERENCE])
    reference = max(room.taken)
    expected = yield from _reference(evaluate, rows, reference)
    kept, seconds = {}, {}
    for size in wanted:
        if not (yield from room.measure([size])):
            break
        agrees, seconds[size] = yield from _compared(evaluate, rows, expected, size)
        below = max((smaller for smaller in seconds if smaller < size), default=size)
        if size > LARGE and seconds[size] * below >= seconds[below] * size:
            break
        if agrees:
            kept[size] = seconds[size]
    if not (reproducible := bool(kept)):
        _logger.warning("no batch size gives the same bits in every row: what a request gives may depend on its neighbours")
        kept = {reference: seconds[reference]}
    most = capacity if room.suffices else max(room.taken)
    return Table(reference, most, kept, {size: room.taken[size] for size in kept}, reproducible)


class Room:
    """The batch sizes that memory has room for."""

    def __init__(self, evaluate: Evaluate, rows: Tensor, memory: Memory) -> None:
        self._evaluate = evaluate
        self._rows = rows
        self._memory = memory
        self.taken: dict[int, int] = {}  # bytes that a call takes, by size
        self.suffices = True  # for every size so far

    def measure(self, sizes: list[int]) -> Slices[bool]:
        """Tries growing sizes up to the first that there is no room for; whether there is for all. The smallest of all always counts.

        Before a size is tried, it is expected to need as much more than the one below as it has more rows.
        """
        for size in [size for size in sizes if size not in self.taken]:
            if not self.taken:
                self._evaluate(self._rows[_turned(self._rows, size, 0)])  # the first call also makes what later calls reuse
                yield
            if self.suffices and not (yield from self._try(size)):
                self.suffices = False
        return self.suffices or all(size in self.taken for size in sizes)

    def _try(self, size: int) -> Slices[bool]:
        free = self._memory.free()
        most = math.inf if free is None else ROOM * free
        below = max(self.taken, default=0)
        if below and self.taken[below] * size / below > most:
            return False
        needed = self._memory.peak(self._evaluate, self._rows[_turned(self._rows, size, 0)])
        yield
        if below and needed > most:
            return False
        self.taken[size] = needed
        return True


def _reference(evaluate: Evaluate, rows: Tensor, size: int) -> Slices[tuple[Tensor, ...]]:
    """What each row gives in batches of the reference's size."""
    batches = []
    for first in range(0, len(rows), size):
        batches.append(tuple(result.clone() for result in evaluate(rows[_turned(rows, size, first)])))
        yield
    return tuple(torch.cat(column)[: len(rows)] for column in zip(*batches, strict=True))


def _compared(evaluate: Evaluate, rows: Tensor, expected: tuple[Tensor, ...], size: int) -> Slices[tuple[bool, float]]:
    """Whether some batches of a size, shifted against one another, all give what is expected; and the seconds of the fastest."""
    agrees, times = True, []
    for turn in range(max(2, REFERENCE // size)):
        places = _turned(rows, size, turn * (size + 1))
        same, seconds = _timed(evaluate, rows[places], tuple(column[places] for column in expected))
        agrees = agrees and same
        times.append(seconds)
        yield
    return agrees, min(times)


def _timed(evaluate: Evaluate, batch: Tensor, expected: tuple[Tensor, ...]) -> tuple[bool, float]:
    """Whether a batch gives what is expected, and in how many seconds."""
    started = time.perf_counter()
    results = evaluate(batch)
    wait_for(batch.device)
    seconds = time.perf_counter() - started
    return _same(results, expected), seconds


def _turned(rows: Tensor, size: int, first: int) -> Tensor:
    """Indices of a batch's rows: `size` of them from `first` on, starting over at the end."""
    return torch.arange(first, first + size, device=rows.device) % len(rows)


def _same(left: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def within(buckets: dict[int, float], compute: Callable[[], T]) -> T:
    """The result of `compute`; where memory does not suffice, tries again without the sizes above half the largest, until it does.

    `compute` reads `buckets` anew each time and must leave no trace when it fails. Raises MemoryError when the smallest is too large.
    """
    while True:
        try:
            return compute()
        except RuntimeError as error:
            why = _why(error)
        _shrink(buckets, why)  # not in the handler, where the error's frames still hold their tensors


def fitting(make: Callable[[int], Slices[T]], capacity: int) -> Slices[T]:
    """The result of `make` for a capacity of chains, halved until memory suffices. Raises MemoryError when it never does."""
    while True:
        try:
            return (yield from make(capacity))
        except RuntimeError as error:
            why = _why(error)
        if capacity <= FEWEST:
            raise MemoryError(f"out of memory, even for {FEWEST} chains at a time: {why}")
        capacity = max(capacity // 2, FEWEST)
        _go_on(capacity, why)


def _why(error: RuntimeError) -> str:
    """The error's text if memory ran out; raises any other error."""
    if is_out_of_memory(error):
        return str(error)
    raise error


def _shrink(buckets: dict[int, float], why: str) -> None:
    largest, smallest = max(buckets), min(buckets)
    if largest == smallest:
        raise MemoryError(f"out of memory, even for {smallest} chains at a time: {why}")
    for size in [size for size in buckets if size > max(largest // 2, smallest)]:
        del buckets[size]
    _go_on(max(buckets), why)


def _go_on(chains: int, why: str) -> None:
    release_memory()
    _logger.warning("out of memory; going on with %d chains at a time: %s", chains, why)

"""Which batch sizes memory has room for and give the same bits: found by running the same rows in every size, in many slots.

That takes many evaluations; others may have their turn after each.
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
CANDIDATES = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256)
FEWEST = 4  # chains at a time; fewer give other bits
ROOM = 0.8  # of what is free; the rest is for whoever else takes some meanwhile
_logger = logging.getLogger("rq.worker")
T = TypeVar("T")
Evaluate = Callable[[Tensor], tuple[Tensor, ...]]  # (rows, latent) -> results of (rows, ...)


@dataclass(frozen=True)
class Table:
    """Bucket sizes that give the same bits as one another, and what each costs."""

    reference: int  # the size whose bits they are, kept or not
    capacity: int  # rows that were asked for, or the largest size memory has room for
    seconds: dict[int, float]  # size: seconds a call; sizes leave it when memory runs out
    bytes: dict[int, int]  # size: what a call takes at its peak
    reproducible: bool = True  # False where no size gives the same bits in every row: then one is kept all the same


def agreeing(evaluate: Evaluate, rows: Tensor, capacity: int, memory: Memory | None = None) -> Slices[Table]:
    """Bucket sizes up to `capacity` that fit into memory and whose results equal the reference's bitwise; at least the reference itself.

    Batches of each size are filled with the rows in turn, (rows, latent), from another one on each time, so that rows stand in even slots
    and in odd ones; every row of every batch has to agree.
    """
    wanted = [size for size in CANDIDATES if size <= max(capacity, CANDIDATES[0])]
    taken = yield from _fitting(evaluate, rows, wanted, memory or memory_of(rows.device))
    sizes = list(taken)
    reference = min(REFERENCE, sizes[-1])
    expected = yield from _reference(evaluate, rows, reference)
    kept, seconds = {}, {}
    for size in sizes:
        agrees, seconds[size] = yield from _compared(evaluate, rows, expected, size)
        if agrees:
            kept[size] = seconds[size]
    if not (reproducible := bool(kept)):
        _logger.warning("no batch size gives the same bits in every row: what a request gives may depend on its neighbours")
        kept = {reference: seconds[reference]}
    return Table(reference, capacity if sizes == wanted else sizes[-1], kept, {size: taken[size] for size in kept}, reproducible)


def _fitting(evaluate: Evaluate, rows: Tensor, sizes: list[int], memory: Memory) -> Slices[dict[int, int]]:
    """Sizes up to the first that memory has no room for, with bytes a call of each takes; at least the smallest.

    Before a size is tried, it is taken to need more than the one below as it has more rows.
    """
    taken: dict[int, int] = {}
    evaluate(rows[_turned(rows, sizes[0], 0)])  # what is made once is no part of a call
    yield
    last = 0
    for size in sizes:
        free = memory.free()
        most = math.inf if free is None else ROOM * free
        if taken and taken[last] * size / last > most:
            break
        needed = memory.peak(evaluate, rows[_turned(rows, size, 0)])
        yield
        if taken and needed > most:
            break
        taken[size], last = needed, size
    return taken


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
    """Places of the rows of a batch, from one on and round."""
    return torch.arange(first, first + size, device=rows.device) % len(rows)


def _same(left: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def within(buckets: dict[int, float], compute: Callable[[], T]) -> T:
    """What `compute` gives; where memory does not suffice, once more without the sizes above half the largest, until it does.

    `compute` reads `buckets` anew each time and must leave no trace when it fails. Raises MemoryError when the smallest is too large.
    """
    while True:
        try:
            return compute()
        except RuntimeError as error:
            why = _why(error)
        _shrink(buckets, why)  # out of the handler: the error's frames hold what they had computed


def fitting(make: Callable[[int], Slices[T]], capacity: int) -> Slices[T]:
    """What `make` comes to for a capacity of chains, halved until memory suffices. Raises MemoryError when it never does."""
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

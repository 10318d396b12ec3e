"""Which batch sizes memory has room for and give the same bits: found by running the same rows in every size, in several slots."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.footprint import Memory, memory_of

REFERENCE = 64  # workers of any capacity from here on give the same bits
CANDIDATES = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256)
ROOM = 0.8  # of what is free; the rest is for whoever else takes some meanwhile
Evaluate = Callable[[Tensor], tuple[Tensor, ...]]  # (rows, latent) -> results of (rows, ...)


@dataclass(frozen=True)
class Table:
    """Bucket sizes that give the same bits as one another, and what each costs."""

    reference: int  # the size whose bits they are, kept or not
    capacity: int  # rows that were asked for, or the largest size memory has room for
    seconds: dict[int, float]  # size: seconds a call; sizes leave it when memory runs out
    bytes: dict[int, int]  # size: what a call takes at its peak


def agreeing(evaluate: Evaluate, rows: Tensor, capacity: int, memory: Memory | None = None) -> Table:
    """Bucket sizes up to `capacity` that fit into memory and whose results equal the reference's bitwise; at least the reference itself.

    `rows`, (4, latent), are run in the first, a middle and the last slots of each size, the other slots filled with other rows.
    """
    wanted = [size for size in CANDIDATES if size <= max(capacity, CANDIDATES[0])]
    taken = _fitting(evaluate, rows, wanted, memory or memory_of(rows.device))
    sizes = list(taken)
    reference = min(REFERENCE, sizes[-1])
    expected = _in_slot(evaluate, rows, reference, 0)
    kept = {}
    for size in sizes:
        slots = {0, (size - len(rows)) // 2, size - len(rows)}
        if all(_same(_in_slot(evaluate, rows, size, slot), expected) for slot in slots):
            kept[size] = _seconds(evaluate, rows, size)
    kept = kept or {reference: _seconds(evaluate, rows, reference)}
    return Table(reference, capacity if sizes == wanted else sizes[-1], kept, {size: taken[size] for size in kept})


def _fitting(evaluate: Evaluate, rows: Tensor, sizes: list[int], memory: Memory) -> dict[int, int]:
    """Sizes up to the first that memory has no room for, with bytes a call of each takes; at least the smallest.

    Before a size is tried, it is taken to need more than the one below as it has more rows.
    """
    taken: dict[int, int] = {}
    evaluate(_filled(rows, sizes[0]))  # what is made once is no part of a call
    last = 0
    for size in sizes:
        free = memory.free()
        most = math.inf if free is None else ROOM * free
        if taken and taken[last] * size / last > most:
            break
        needed = memory.peak(evaluate, _filled(rows, size))
        if taken and needed > most:
            break
        taken[size], last = needed, size
    return taken


def _filled(rows: Tensor, size: int) -> Tensor:
    return rows[:1].expand(size, -1).contiguous()


def _in_slot(evaluate: Evaluate, rows: Tensor, size: int, slot: int) -> tuple[Tensor, ...]:
    """What the rows give when they stand at `slot` of a batch of `size`."""
    batch = rows[:1].expand(size, -1) * torch.linspace(-1, 1, size, device=rows.device).unsqueeze(1)
    batch = torch.cat([batch[:slot], rows, batch[slot + len(rows) :]])
    return tuple(result[slot : slot + len(rows)].clone() for result in evaluate(batch))


def _same(left: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def _seconds(evaluate: Evaluate, rows: Tensor, size: int) -> float:
    """The faster of two calls."""
    batch, times = _filled(rows, size), []
    for _ in range(2):
        started = time.perf_counter()
        evaluate(batch)
        if batch.is_cuda:
            torch.cuda.synchronize(batch.device)
        times.append(time.perf_counter() - started)
    return min(times)

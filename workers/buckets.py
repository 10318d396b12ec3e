"""Which batch sizes give the same bits: found by running the same rows in every size, in many slots, and keeping those that agree."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch
from torch import Tensor

REFERENCE = 64  # workers of any capacity from here on give the same bits
CANDIDATES = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256)
_logger = logging.getLogger("rq.worker")
Evaluate = Callable[[Tensor], tuple[Tensor, ...]]  # (rows, latent) -> results of (rows, ...)


def agreeing(evaluate: Evaluate, rows: Tensor, capacity: int) -> dict[int, float]:
    """Bucket sizes up to `capacity` whose results equal the reference's bitwise, with seconds a call; at least the reference itself.

    Batches of each size are filled with the rows in turn, (rows, latent), from another one on each time, so that rows stand in even slots
    and in odd ones; every row of every batch has to agree.
    """
    sizes = [size for size in CANDIDATES if size <= max(capacity, CANDIDATES[0])]
    reference = min(REFERENCE, sizes[-1])
    expected = _reference(evaluate, rows, reference)
    kept = {size: _seconds(evaluate, rows, size) for size in sizes if _agrees(evaluate, rows, expected, size)}
    if not kept:
        _logger.warning("no batch size gives the same bits in every row: what a request gives may depend on its neighbours")
    return kept or {reference: _seconds(evaluate, rows, reference)}


def _reference(evaluate: Evaluate, rows: Tensor, size: int) -> tuple[Tensor, ...]:
    """What each row gives in batches of the reference's size."""
    batches = [tuple(result.clone() for result in evaluate(rows[_turned(rows, size, first)])) for first in range(0, len(rows), size)]
    return tuple(torch.cat(column)[: len(rows)] for column in zip(*batches, strict=True))


def _agrees(evaluate: Evaluate, rows: Tensor, expected: tuple[Tensor, ...], size: int) -> bool:
    """Whether some batches of a size, shifted against one another, all give what is expected."""
    for turn in range(max(4, 32 // size)):
        batch = _turned(rows, size, turn * (size + 1))
        if not _same(evaluate(rows[batch]), tuple(column[batch] for column in expected)):
            return False
    return True


def _turned(rows: Tensor, size: int, first: int) -> Tensor:
    """Places of the rows of a batch, from one on and round."""
    return torch.arange(first, first + size, device=rows.device) % len(rows)


def _same(left: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def _seconds(evaluate: Evaluate, rows: Tensor, size: int) -> float:
    """The faster of two calls."""
    batch, times = rows[_turned(rows, size, 0)], []
    for _ in range(2):
        started = time.perf_counter()
        evaluate(batch)
        if batch.is_cuda:
            torch.cuda.synchronize(batch.device)
        times.append(time.perf_counter() - started)
    return min(times)

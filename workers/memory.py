"""What to do when memory runs out: go on in smaller buckets, which give the same bits."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from workers.slices import Slices

T = TypeVar("T")
FEWEST = 4  # chains at a time; fewer give other bits
_logger = logging.getLogger("rq.worker")


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
    """What it says if memory ran out; raises the error if it is another. The CPU's allocator has no class of its own."""
    if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
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
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    _logger.warning("out of memory; going on with %d chains at a time: %s", chains, why)

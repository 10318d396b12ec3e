"""Networks that need no chains, called on any number of rows: normals become first points, latents become images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from models import noise
from models.families.base import Space
from workers.capacity import buckets_for
from workers.engine.buckets import Evaluate, Table, agreeing, fitting, within
from workers.engine.memory import Memory
from workers.engine.slices import Slices


class Decoder:
    """A function of rows, (rows, ...) -> (rows, ...), called in batch sizes that were found to give each row the same bits."""

    def __init__(self, function: Callable[[Tensor], Tensor], table: Table) -> None:
        self._function = function
        self.table = table

    @classmethod
    def measured(cls, function: Callable[[Tensor], Tensor], rows: Tensor, capacity: int, memory: Memory | None = None) -> Slices[Decoder]:
        """One for up to `capacity` rows at a time, or as many as memory has room for; `rows`, (probes, ...), are to compare sizes by.

        Raises MemoryError where that is too few.
        """
        return cls(function, (yield from measured_table(lambda batch: (function(batch),), rows, capacity, memory)))

    def __call__(self, rows: Tensor) -> Tensor:
        """(rows, ...) -> (rows, ...). Raises MemoryError where memory does not suffice for the smallest batch."""
        return within(self.table.seconds, lambda: self._in_buckets(rows))

    def _in_buckets(self, rows: Tensor) -> Tensor:
        results, at = [], 0
        for count, bucket in buckets_for(len(rows), tuple(self.table.seconds)):
            results.append(self._function(padded(rows[at : at + count], bucket))[:count])
            at += count
        return stacked(results)


def together(decoder: Decoder, blocks: list[Tensor]) -> list[Tensor | MemoryError]:
    """What becomes of each block of rows, all in one call; where memory does not suffice for that, block by block."""
    try:
        results = decoder(stacked(blocks))
    except MemoryError as error:
        return [error] if len(blocks) == 1 else [result for block in blocks for result in together(decoder, [block])]
    return list(results.split([len(block) for block in blocks]))


def probe(space: Space, device: torch.device) -> Tensor:
    """Standard normals to compare batch sizes by, (67, *shape): a prime number, so that no size brings a row back to the same slot."""
    numbers = torch.arange(67, device=device)
    return noise.start(noise.Streams(numbers, numbers), space.shape)


def measured_table(evaluate: Evaluate, rows: Tensor, capacity: int, memory: Memory | None) -> Slices[Table]:
    """The batch sizes to use, up to a capacity that memory suffices for."""
    return fitting(lambda fewer: agreeing(evaluate, rows, fewer, memory), capacity)


def stacked(blocks: list[Tensor]) -> Tensor:
    """Blocks of rows, one under the other."""
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks)


def padded(rows: Tensor, size: int) -> Tensor:
    """Rows with zeros below, up to `size` rows."""
    missing = size - len(rows)
    return torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])]) if missing else rows

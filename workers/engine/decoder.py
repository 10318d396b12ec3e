"""Networks that need no chains, called on any number of rows: normals become first points, latents become images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from models import device, noise
from models.images import to_pixels
from models.inference.prepared import Prepared
from models.targets.base import DataKind
from workers.capacity import buckets_for
from workers.engine.buckets import Evaluate, Table, agreeing, fitting, within
from workers.engine.memory import Memory
from workers.engine.slices import Slices


class Decoder:
    """A function of rows, (rows, ...) -> (rows, ...), called in batch sizes that were found to give each row the same bits.

    Rows may come with their classes, (rows,) int64.
    """

    def __init__(self, function: Callable[..., Tensor], table: Table) -> None:
        self._function = function
        self.table = table

    @classmethod
    def measured(
        cls, function: Callable[..., Tensor], rows: Tensor, capacity: int, memory: Memory | None = None, *, data: DataKind | None = None
    ) -> Slices[Decoder]:
        """A decoder for up to `capacity` rows at a time, or as many as memory has room for; `rows`, (probes, ...), serve to compare sizes.

        `data` is what the function takes beside them. Raises MemoryError where memory has room for too few.
        """

        def results(batch: Tensor) -> tuple[Tensor, ...]:
            return (function(batch, *stand_in(data, batch, ())),)

        return cls(function, (yield from measured_table(results, rows, capacity, memory)))

    def __call__(self, rows: Tensor, *classes: Tensor) -> Tensor:
        """(rows, ...) -> (rows, ...). Raises MemoryError where memory does not suffice for the smallest batch."""
        return within(self.table.seconds, lambda: self._in_buckets(rows, *classes))

    def _in_buckets(self, *columns: Tensor) -> Tensor:
        results, at = [], 0
        for count, bucket in buckets_for(len(columns[0]), tuple(self.table.seconds)):
            results.append(self._function(*(padded(column[at : at + count], bucket) for column in columns))[:count])
            at += count
        return stacked(results)


class NotFinite(Exception):
    """A decoder made an image that is not finite."""


def pixels_of(decoder: Decoder, blocks: list[tuple[Tensor, ...]]) -> list[np.ndarray | MemoryError | NotFinite]:
    """The images of each block of points, with their classes or without, uint8 (rows, height, width, channels), or why there are none.

    All blocks go through the decoder in one call; where memory does not suffice for that, block by block.
    """
    try:
        images = decoder(*(stacked(list(column)) for column in zip(*blocks, strict=True)))
    except MemoryError as error:
        return [error] if len(blocks) == 1 else [result for block in blocks for result in pixels_of(decoder, [block])]
    finite, pixels = device.read(images.flatten(1).isfinite().all(1)).numpy(), to_pixels(images)
    ends = np.cumsum([len(points) for points, *_ in blocks])[:-1]
    together = zip(np.split(pixels, ends), np.split(finite, ends), strict=True)
    return [shown if sound.all() else NotFinite("the generator gave an image that is not finite") for shown, sound in together]


def stand_in(wanted: DataKind | None, points: Tensor, image_shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Data to measure with, if any is wanted: black images, or of each row that class, 0 or 1, which the sign of its first number gives."""
    if wanted == "class":
        return ((points.flatten(1)[:, 0] > 0).long(),)
    return (points.new_zeros(len(points), *image_shape),) if wanted == "image" else ()


def probe(prepared: Prepared) -> Tensor:
    """Standard normals to compare batch sizes by, (67, *shape): a prime number, so that no size brings a row back to the same slot."""
    numbers = torch.arange(67, device=prepared.device)
    return noise.start(noise.Streams(numbers, numbers), prepared.spaces["prior"].shape)


def measured_table(evaluate: Evaluate, rows: Tensor, capacity: int, memory: Memory | None) -> Slices[Table]:
    """The batch sizes to use, up to the largest that memory has room for."""
    return fitting(lambda fewer: agreeing(evaluate, rows, fewer, memory), capacity)


def stacked(blocks: list[Tensor]) -> Tensor:
    """Blocks of rows, one under the other."""
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks)


def padded(rows: Tensor, size: int) -> Tensor:
    """Rows with zeros below, up to `size` rows."""
    missing = size - len(rows)
    return torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])]) if missing else rows

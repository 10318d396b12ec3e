"""All chains of one checkpoint on one target: every kernel's proposals go through the networks in one padded call a tick."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from models import noise
from models.inference.prepared import Prepared
from models.kernels import Evaluated
from models.targets.base import Target, evaluate
from workers.capacity import buckets_for
from workers.engine.buckets import Evaluate, Table, agreeing, fitting, within
from workers.engine.chain_group import Chain, ChainGroup, Parked, Retired, data_of, streams_of
from workers.engine.memory import Memory
from workers.engine.scheduler import ChainName
from workers.engine.slices import Slices
from workers.jobs import GenerateJob

if TYPE_CHECKING:
    from collections.abc import Collection


class LaneName(NamedTuple):
    """What chains must share to share a network call."""

    model: str
    version: int
    digest: str
    sampler: str

    @classmethod
    def of(cls, job: GenerateJob) -> LaneName:
        """That of a job's chains."""
        return cls(job.model, job.version, job.digest, job.sampler)


@dataclass(frozen=True)
class Ticked:
    """What one tick of a lane did."""

    retired: list[Retired]
    chains: int
    bucket: int  # rows evaluated, padding included
    seconds: float


class Lane:
    """Chains join by `start`, advance by `tick`, and leave when done, when not finite, or by `drop`."""

    def __init__(self, prepared: Prepared, target: Target, device: torch.device, table: Table) -> None:
        self._target = target
        self._latent = prepared.latent
        self._device = device
        self._fresh: list[Chain] = []
        self._parked: dict[ChainName, Parked] = {}
        self._groups: dict[str, ChainGroup] = {}
        self.table = table

    @classmethod
    def measured(
        cls, prepared: Prepared, target: Target, *, capacity: int, device: torch.device, memory: Memory | None = None
    ) -> Slices[Lane]:
        """A lane for so many chains, or as many as memory has room for. Raises MemoryError where that is too few."""

        def results(z: Tensor) -> tuple[Tensor, ...]:
            images = z.new_zeros(len(z), *prepared.card.image_shape) if target.conditional else None
            points = evaluate(target, z, images)
            return points.energy, points.gradient

        table = yield from _table(results, probe(prepared.latent, device), capacity, memory)
        return cls(prepared, target, device, table)

    @property
    def points(self) -> int:
        """The most points the lane's chains may ask for in a tick."""
        fresh = sum(chain.kernel.points_per_chain for chain in self._fresh)
        return fresh + sum(group.kernel.points_per_chain * len(group.members) for group in self._groups.values())

    @property
    def longest(self) -> int:
        """Ticks of the longest chain under way, from its start to its end."""
        return max([0, *(chain.kernel.ticks for chain in self._fresh), *(group.longest for group in self._groups.values())])

    @property
    def running(self) -> bool:
        """Whether a tick has anything to do here."""
        return bool(self._fresh) or any(group.members for group in self._groups.values())

    @property
    def idle(self) -> bool:
        """Whether nothing runs here, and nothing waits to go on."""
        return not self.running and not self._parked

    def standing(self) -> list[tuple[Chain, int]]:
        """Every chain under way, with the ticks that each still needs."""
        begun = [(chain, chain.ends_at - group.now) for group in self._groups.values() for chain in group.members]
        return [*((chain, chain.kernel.ticks + 1) for chain in self._fresh), *begun]

    def start(self, chains: list[Chain]) -> None:
        """New chains: the next tick evaluates their first latents."""
        self._fresh += chains

    def park(self, names: Collection[ChainName]) -> None:
        """Takes chains out of the batch until they are resumed; nobody's numbers change."""
        for group in self._groups.values():
            rows = {row for row, chain in enumerate(group.members) if chain.name in names}
            self._parked |= {parked.chain.name: parked for parked in group.park(rows)} if rows else {}

    def resume(self, names: Collection[ChainName]) -> None:
        """Puts parked chains back."""
        for name in names:
            if parked := self._parked.pop(name, None):
                self._groups[parked.chain.kernel.kernel].resume(parked)

    def drop(self, job_id: str) -> None:
        """Takes a job's chains out for good; nobody else's numbers change."""
        self._fresh = [chain for chain in self._fresh if chain.job_id != job_id]
        self._parked = {name: parked for name, parked in self._parked.items() if name.job_id != job_id}
        for group in self._groups.values():
            group.leave(group.rows_of(job_id))

    def done(self, job_id: str) -> int:
        """Ticks that a job's chains have made."""
        running = sum(group.now - chain.began_at for group in self._groups.values() for chain in group.members if chain.job_id == job_id)
        return running + sum(parked.done for name, parked in self._parked.items() if name.job_id == job_id)

    def tick(self) -> Ticked:
        """One evaluation for all chains, then every kernel's update."""
        started = time.perf_counter()
        fresh, self._fresh = self._fresh, []
        groups = [group for group in self._groups.values() if group.members]
        asked = [group.propose() for group in groups]
        data = [group.data() for group in groups]
        if fresh:
            asked.append(noise.start(streams_of(fresh, self._device), self._latent))
            data.append(data_of(fresh))
        chains = len(fresh) + sum(len(group.members) for group in groups)
        images = [rows for rows in data if rows is not None]
        points, bucket = self._evaluate(_stacked(asked), _stacked(images) if images else None)
        retired, at = [], 0
        for group, rows in zip(groups, asked, strict=False):
            retired += group.update(_between(points, at, at + len(rows)))
            at += len(rows)
        retired += self._join(fresh, _between(points, at, at + len(fresh)))
        return Ticked(retired, chains, bucket, time.perf_counter() - started)

    def _join(self, fresh: list[Chain], points: Evaluated) -> list[Retired]:
        """Sorts new chains to their kernels' groups; those whose first latent has no finite energy are out at once."""
        finite = points.energy.isfinite().tolist()
        lost = [
            Retired(chain, points.z[row], points.energy[row : row + 1], 0.0, finite=False)
            for row, chain in enumerate(fresh)
            if not finite[row]
        ]
        for name in {chain.kernel.kernel for chain in fresh}:
            rows = [row for row, chain in enumerate(fresh) if chain.kernel.kernel == name and finite[row]]
            if rows:
                kernel = type(fresh[rows[0]].kernel)
                group = self._groups.setdefault(name, ChainGroup(kernel, self._latent, self._device))
                index = torch.tensor(rows, device=self._device)
                group.join([fresh[row] for row in rows], Evaluated(*(column[index] for column in points)))
        return lost

    def _evaluate(self, z: Tensor, data: Tensor | None) -> tuple[Evaluated, int]:
        """Energies and gradients of any number of rows, in as much memory as there is; and the rows that this cost."""
        return within(self.table.seconds, lambda: self._in_buckets(z, data))

    def _in_buckets(self, z: Tensor, data: Tensor | None) -> tuple[Evaluated, int]:
        """The same, by way of the bucket sizes that agree."""
        parts, padded, at = [], 0, 0
        for rows, bucket in buckets_for(len(z), tuple(self.table.seconds)):
            images = None if data is None else _padded(data[at : at + rows], bucket)
            points = evaluate(self._target, _padded(z[at : at + rows], bucket), images)
            parts.append(_between(points, 0, rows))
            at, padded = at + rows, padded + bucket
        return (parts[0] if len(parts) == 1 else Evaluated(*(torch.cat(column) for column in zip(*parts, strict=True)))), padded


class Decoder:
    """Latents to images in buckets of its own, for chains that are done and for those that never were (`prior`)."""

    def __init__(self, prepared: Prepared, table: Table) -> None:
        self._prepared = prepared
        self.table = table

    @classmethod
    def measured(cls, prepared: Prepared, *, capacity: int, device: torch.device, memory: Memory | None = None) -> Slices[Decoder]:
        """One for so many images at a time, or as many as memory has room for. Raises MemoryError where that is too few."""
        table = yield from _table(lambda z: (prepared.decode(z),), probe(prepared.latent, device), capacity, memory)
        return cls(prepared, table)

    def decode(self, z: Tensor) -> Tensor:
        """(rows, latent) -> (rows, channels, height, width) in [-1, 1], each row's bits its own."""
        return within(self.table.seconds, lambda: self._in_buckets(z))

    def _in_buckets(self, z: Tensor) -> Tensor:
        images, at = [], 0
        for rows, bucket in buckets_for(len(z), tuple(self.table.seconds)):
            images.append(self._prepared.decode(_padded(z[at : at + rows], bucket))[:rows])
            at += rows
        return torch.cat(images)


def probe(latent: int, device: torch.device) -> Tensor:
    """Latents to compare bucket sizes by; a prime number of them, so that no size brings them back to the same slots."""
    numbers = torch.arange(67, device=device)
    return noise.start(noise.Streams(numbers, numbers), latent)


def _table(evaluate: Evaluate, rows: Tensor, capacity: int, memory: Memory | None) -> Slices[Table]:
    """The batch sizes to use, up to a capacity that memory suffices for."""
    return fitting(lambda fewer: agreeing(evaluate, rows, fewer, memory), capacity)


def _stacked(blocks: list[Tensor]) -> Tensor:
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks)


def _padded(rows: Tensor, size: int) -> Tensor:
    """Zeros below, up to `size` rows."""
    missing = size - len(rows)
    return torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])]) if missing else rows


def _between(points: Evaluated, first: int, last: int) -> Evaluated:
    return Evaluated(points.z[first:last], points.energy[first:last], points.gradient[first:last])

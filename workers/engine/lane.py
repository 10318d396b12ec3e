"""All chains of one checkpoint on one target: every kernel's proposals go through the networks in one padded call a tick."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from models import device, noise
from models.inference.prepared import Prepared
from models.kernels import Evaluated
from models.targets.base import evaluate
from workers.capacity import buckets_for
from workers.engine.buckets import Table, within
from workers.engine.chain_group import ChainGroup
from workers.engine.chains import Block, Chain, data_of, streams_of, usable
from workers.engine.decoder import Decoder, measured_table, padded, probe, stacked, stand_in
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
        """The lane of a job's chains."""
        return cls(job.model, job.version, job.digest, job.sampler)


@dataclass(frozen=True)
class Ticked:
    """What one tick of a lane did."""

    chains: int
    bucket: int  # rows evaluated, padding included
    seconds: float  # of the host; a GPU may still be computing


class Lane:
    """Chains join by `start`, advance by `tick`, and leave by `leave` when done or not finite, or by `drop`."""

    def __init__(self, prepared: Prepared, sampler: str, starter: Decoder, table: Table) -> None:
        self._target = prepared.targets[sampler]
        self._normals_shape = prepared.spaces["prior"].shape
        self._shape = prepared.spaces[sampler].shape
        self._prepared = prepared
        self._device = prepared.device
        self._starter = starter
        self._fresh: list[Chain] = []
        self._parked: dict[ChainName, Block] = {}
        self._groups: dict[str, ChainGroup] = {}
        self.table = table

    @classmethod
    def measured(cls, prepared: Prepared, sampler: str, starter: Decoder, *, capacity: int, memory: Memory | None = None) -> Slices[Lane]:
        """A lane for so many chains, or as many as memory has room for; `starter` maps normals to first points. Raises MemoryError."""
        target = prepared.targets[sampler]

        def results(z: Tensor) -> tuple[Tensor, ...]:
            points = evaluate(target, z, *stand_in(target.data, z, prepared.card.image_shape))
            return points.energy, points.gradient

        rows = starter(probe(prepared))
        table = yield from measured_table(results, rows, capacity, memory)
        table = replace(table, reproducible=table.reproducible and starter.table.reproducible)
        return cls(prepared, sampler, starter, table)

    @property
    def groups(self) -> list[ChainGroup]:
        """Its chains, kernel by kernel."""
        return [group for group in self._groups.values() if group.members]

    @property
    def points(self) -> int:
        """The most points that the lane's chains may propose in a tick."""
        fresh = sum(chain.kernel.points_per_chain for chain in self._fresh)
        return fresh + sum(group.kernel.points_per_chain * len(group.members) for group in self._groups.values())

    @property
    def longest(self) -> int:
        """Ticks of the longest chain under way, from its start to its end."""
        return max([0, *(chain.kernel.ticks for chain in self._fresh), *(group.longest for group in self._groups.values())])

    @property
    def running(self) -> bool:
        """Whether a tick has anything to do here."""
        return bool(self._fresh or self.groups)

    @property
    def idle(self) -> bool:
        """Whether nothing runs here, and nothing waits to go on."""
        return not self.running and not self._parked

    def batch(self) -> list[tuple[Chain, int]]:
        """Every chain under way, with the ticks that it still needs."""
        begun = [(chain, chain.ends_at - group.now) for group in self._groups.values() for chain in group.members]
        return [*((chain, chain.kernel.ticks + 1) for chain in self._fresh), *begun]

    def data_of(self, job: GenerateJob) -> Tensor | None:
        """What a job brings for its chains, as `usable` says. Raises UnusableData where that is not what the target needs."""
        return usable(job, self._target.data, self._prepared)

    def start(self, chains: list[Chain]) -> None:
        """New chains: the next tick evaluates their first points."""
        self._fresh += chains

    def park(self, names: Collection[ChainName]) -> None:
        """Takes chains out of the batch until they are resumed; no chain's numbers change."""
        for group in self.groups:
            rows = {row for row, chain in enumerate(group.members) if chain.name in names}
            self._parked |= {block.members[0].name: block for block in group.park(rows)} if rows else {}

    def resume(self, names: Collection[ChainName]) -> None:
        """Puts parked chains back."""
        blocks = [self._parked.pop(name) for name in names if name in self._parked]
        for kernel, group in self._groups.items():
            if back := [block for block in blocks if block.members[0].kernel.kernel == kernel]:
                group.resume(back)

    def drop(self, job_id: str) -> None:
        """Takes a job's chains out for good; other chains' numbers do not change."""
        self._fresh = [chain for chain in self._fresh if chain.job_id != job_id]
        self._parked = {name: block for name, block in self._parked.items() if name.job_id != job_id}
        for group in self._groups.values():
            group.leave(group.rows_of(job_id))

    def done(self, job_id: str) -> int:
        """Ticks that a job's chains have made."""
        running = sum(group.now - chain.began_at for group in self._groups.values() for chain in group.members if chain.job_id == job_id)
        return running + sum(block.done for name, block in self._parked.items() if name.job_id == job_id)

    def tick(self) -> Ticked:
        """One evaluation for all chains, then every kernel's update. Reads nothing from the device."""
        started = time.perf_counter()
        fresh, self._fresh = self._fresh, []
        groups = self.groups
        proposed = [group.propose() for group in groups]
        data = [group.data() for group in groups]
        if fresh:
            proposed.append(self._starter(noise.start(streams_of(fresh, self._device), self._normals_shape)))
            data.append(data_of(fresh))
        needed = [rows for rows in data if rows is not None]
        points, bucket = self._evaluate(stacked(proposed), stacked(needed) if needed else None)
        chains, at = len(fresh), 0
        for group, rows in zip(groups, proposed, strict=False):
            chains += len(group.members)
            group.update(_between(points, at, at + len(rows)))
            at += len(rows)
        if fresh:
            self._join(fresh, _between(points, at, at + len(fresh)))
        return Ticked(chains, bucket, time.perf_counter() - started)

    def _join(self, fresh: list[Chain], points: Evaluated) -> None:
        """Sorts new chains into the groups of their kernels."""
        for name in dict.fromkeys(chain.kernel.kernel for chain in fresh):
            rows = [row for row, chain in enumerate(fresh) if chain.kernel.kernel == name]
            if name not in self._groups:
                self._groups[name] = ChainGroup(type(fresh[rows[0]].kernel), self._shape, self._device)
            index = device.put(rows, self._device, torch.int64)
            self._groups[name].join([fresh[row] for row in rows], Evaluated(*(column[index] for column in points)))

    def _evaluate(self, z: Tensor, data: Tensor | None) -> tuple[Evaluated, int]:
        """Energies and gradients of any number of rows, in as much memory as there is; and the rows that this cost."""
        return within(self.table.seconds, lambda: self._in_buckets(z, data))

    def _in_buckets(self, z: Tensor, data: Tensor | None) -> tuple[Evaluated, int]:
        """The same in batch sizes that give the same bits."""
        parts, cost, at = [], 0, 0
        for rows, bucket in buckets_for(len(z), tuple(self.table.seconds)):
            brought = None if data is None else padded(data[at : at + rows], bucket)
            points = evaluate(self._target, padded(z[at : at + rows], bucket), brought)
            parts.append(_between(points, 0, rows))
            at, cost = at + rows, cost + bucket
        return (parts[0] if len(parts) == 1 else Evaluated(*(torch.cat(column) for column in zip(*parts, strict=True)))), cost


def _between(points: Evaluated, first: int, last: int) -> Evaluated:
    return Evaluated(points.z[first:last], points.energy[first:last], points.gradient[first:last])

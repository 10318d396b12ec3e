"""Checkpoints in memory under a budget of bytes: the least recently used makes room, but never one that is needed."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from models.cards import ModelCard
from models.checkpoints import CheckpointError, Store, UnknownModel
from models.inference.prepared import Prepared, load
from workers.engine.decoder import Decoder, probe
from workers.engine.lane import Lane, LaneName
from workers.engine.memory import Memory
from workers.engine.slices import Slices
from workers.jobs import GenerateJob


class Version(NamedTuple):
    """A checkpoint by name and weights: another may be published under the same name."""

    model: str
    version: int
    digest: str

    @classmethod
    def of(cls, named: GenerateJob | LaneName) -> Version:
        """The checkpoint of a job or a lane."""
        return cls(named.model, named.version, named.digest)


@dataclass(frozen=True)
class CachedCheckpoint:
    """A checkpoint in memory."""

    prepared: Prepared
    decoders: dict[Callable[[Tensor], Tensor], Decoder]  # for `start` and `decode` of its spaces
    size: int  # bytes of its weights, with all copies

    def starter(self, sampler: str) -> Decoder:
        """Standard normals to a sampler's first points."""
        return self.decoders[self.prepared.spaces[sampler].start]

    def decoder(self, sampler: str) -> Decoder:
        """A sampler's points to images."""
        return self.decoders[self.prepared.spaces[sampler].decode]


class CheckpointCache:
    """Loads checkpoints on demand. One that exceeds the budget of bytes is loaded all the same, and is the first to leave."""

    def __init__(self, store: Store, device: torch.device, *, capacity: int, budget: int, memory: Memory | None = None) -> None:
        self._store = store
        self._device = device
        self._capacity = capacity
        self._budget = budget
        self._memory = memory
        self._held: dict[Version, CachedCheckpoint] = {}  # least recently used first

    def __contains__(self, version: Version) -> bool:
        return version in self._held

    @property
    def size(self) -> int:
        """Bytes held."""
        return sum(cached.size for cached in self._held.values())

    def use(self, job: GenerateJob) -> CachedCheckpoint:
        """The checkpoint that a job names, which must be held; it becomes the most recently used."""
        version = Version.of(job)
        self._held[version] = self._held.pop(version)
        return self._held[version]

    def load(self, job: GenerateJob, needed: Container[Version]) -> Slices[None]:
        """Reads a checkpoint from disk; others leave for it in the first slice. Raises CheckpointError, OSError, MemoryError."""
        card = self._card(job)
        if card.digest != job.digest:
            raise CheckpointError(f"{job.model}@{job.version} on this worker has weights {card.digest}, the job asks for {job.digest}")
        self._make_room(self._store.weights_file(card).stat().st_size, needed)
        prepared = load(self._store, card, self._device)
        self._make_room(prepared.bytes, needed)  # it may take more than its file
        yield
        decoders = yield from self._decoders(prepared)
        self._held[Version.of(job)] = CachedCheckpoint(prepared, decoders, prepared.bytes)

    def _card(self, job: GenerateJob) -> ModelCard:
        try:
            return self._store.card(job.model, job.version)
        except UnknownModel:
            self._store.refresh()  # another machine may have published it a moment ago
            return self._store.card(job.model, job.version)

    def _decoders(self, prepared: Prepared) -> Slices[dict[Callable[[Tensor], Tensor], Decoder]]:
        """A decoder for every function that starts or decodes chains."""
        found: dict[Callable[[Tensor], Tensor], Decoder] = {}
        normals = probe(prepared)
        for space in prepared.spaces.values():
            if space.start not in found:
                found[space.start] = yield from Decoder.measured(space.start, normals, self._capacity, self._memory)
            if space.decode not in found:
                points, data = found[space.start](normals), space.data
                found[space.decode] = yield from Decoder.measured(space.decode, points, self._capacity, self._memory, data=data)
        return found

    def lane(self, job: GenerateJob) -> Slices[Lane]:
        """A new lane for a job's chains, of a checkpoint that is held. Raises CheckpointError, MemoryError."""
        cached = self.use(job)
        if job.sampler not in (targets := cached.prepared.targets):
            raise CheckpointError(f"{job.model}@{job.version} has no target {job.sampler!r}; choices: {', '.join(sorted(targets))}")
        starter = cached.starter(job.sampler)
        return (yield from Lane.measured(cached.prepared, job.sampler, starter, capacity=self._capacity, memory=self._memory))

    def _make_room(self, size: int, needed: Container[Version]) -> None:
        for version in [version for version in self._held if version not in needed]:
            if self.size + size <= self._budget:
                break
            del self._held[version]

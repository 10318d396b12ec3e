"""Checkpoints in memory under a budget of bytes: the one longest unused makes room, but never one that is needed."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import NamedTuple

import torch

from models.checkpoints import CheckpointError, Store
from models.inference.prepared import Prepared, load
from workers.engine.lane import Decoder, Lane, LaneName
from workers.engine.memory import Memory
from workers.engine.slices import Slices
from workers.jobs import GenerateJob


class Version(NamedTuple):
    """A checkpoint's name and its weights': it may be published anew under the same name."""

    model: str
    version: int
    digest: str

    @classmethod
    def of(cls, named: GenerateJob | LaneName) -> Version:
        """The one that a job or a lane is of."""
        return cls(named.model, named.version, named.digest)


@dataclass(frozen=True)
class Resident:
    """A checkpoint in memory."""

    prepared: Prepared
    decoder: Decoder
    size: int  # bytes of its weights, with all copies


class Residents:
    """Loads on demand; what a budget of bytes has no room for is loaded all the same, and is the first to leave."""

    def __init__(self, store: Store, device: torch.device, *, capacity: int, budget: int, memory: Memory | None = None) -> None:
        self._store = store
        self._device = device
        self._capacity = capacity
        self._budget = budget
        self._memory = memory
        self._held: dict[Version, Resident] = {}  # least recently used first

    def __contains__(self, version: Version) -> bool:
        return version in self._held

    @property
    def size(self) -> int:
        """Bytes held."""
        return sum(resident.size for resident in self._held.values())

    def use(self, job: GenerateJob) -> Resident:
        """The checkpoint a job names, which is held; now the one used last."""
        version = Version.of(job)
        self._held[version] = self._held.pop(version)
        return self._held[version]

    def load(self, job: GenerateJob, needed: Container[Version]) -> Slices[None]:
        """Reads a checkpoint from disk; what leaves for it does so in the first slice. Raises CheckpointError, OSError, MemoryError."""
        card = self._store.card(job.model, job.version)
        if card.digest != job.digest:
            raise CheckpointError(f"{job.model}@{job.version} on this worker has weights {card.digest}, the job asks for {job.digest}")
        self._make_room((self._store.folder(card) / "weights.safetensors").stat().st_size, needed)
        prepared = load(self._store, card, self._device)
        self._make_room(prepared.bytes, needed)  # it may take more than its file
        yield
        decoder = yield from Decoder.measured(prepared, capacity=self._capacity, device=self._device, memory=self._memory)
        self._held[Version.of(job)] = Resident(prepared, decoder, prepared.bytes)

    def lane(self, job: GenerateJob) -> Slices[Lane]:
        """A new lane for a job's chains, of a checkpoint that is held. Raises MemoryError."""
        prepared = self.use(job).prepared
        target = prepared.targets[job.sampler]  # type: ignore[index]
        return (yield from Lane.measured(prepared, target, capacity=self._capacity, device=self._device, memory=self._memory))

    def _make_room(self, size: int, needed: Container[Version]) -> None:
        for version in [version for version in self._held if version not in needed]:
            if self.size + size <= self._budget:
                break
            del self._held[version]

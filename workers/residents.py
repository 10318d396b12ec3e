"""Checkpoints in memory under a budget of bytes: the one longest unused makes room, but never one that is needed."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import NamedTuple

import torch

from models.checkpoints import CheckpointError, Store
from models.prepared import Prepared, load
from workers.footprint import Memory
from workers.jobs import GenerateJob
from workers.lane import Decoder
from workers.memory import fitting


class Version(NamedTuple):
    """A checkpoint's name."""

    model: str
    version: int


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
        version = Version(job.model, job.version)
        self._held[version] = self._held.pop(version)
        return self._held[version]

    def load(self, job: GenerateJob, needed: Container[Version]) -> list[Version]:
        """Reads a checkpoint from disk and says which ones left for it. Raises CheckpointError."""
        card = self._store.card(job.model, job.version)
        if card.digest != job.digest:
            raise CheckpointError(f"{job.model}@{job.version} on this worker has weights {card.digest}, the job asks for {job.digest}")
        gone = self._make_room((self._store.folder(card) / "weights.safetensors").stat().st_size, needed)
        prepared = load(self._store, card, self._device)
        gone += self._make_room(prepared.bytes, needed)  # it may take more than its file
        decoder = fitting(lambda capacity: Decoder(prepared, capacity, self._device, self._memory), self._capacity)
        self._held[Version(job.model, job.version)] = Resident(prepared, decoder, prepared.bytes)
        return gone

    def _make_room(self, size: int, needed: Container[Version]) -> list[Version]:
        gone = []
        for version in [version for version in self._held if version not in needed]:
            if self.size + size <= self._budget:
                break
            del self._held[version]
            gone.append(version)
        return gone

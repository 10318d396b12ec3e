"""One chain: whose it is, what it needs to join a batch, and what it leaves, which the host reads in one go for all that end together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from models import device
from models.kernels import Chains, Kernel
from models.noise import Streams
from workers.engine.scheduler import ChainName

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.inference.prepared import Prepared
    from models.targets.base import DataKind
    from workers.jobs import GenerateJob


class Traces(NamedTuple):
    """What is kept of consecutive ticks, on the device: of one chain, or of all chains of a group."""

    energies: list[Tensor]
    jumps: list[Tensor]  # of kernels that offer fresh points
    log_ratios: list[Tensor]  # of kernels that accept every point

    @classmethod
    def empty(cls) -> Traces:
        return cls([], [], [])


@dataclass
class Chain:
    """One chain's identity, and the traces it has left; `began_at` counts the ticks of its group."""

    job_id: str
    index: int
    seed: int
    kernel: Kernel
    data: Tensor | None = None  # (channels, height, width) or (), what its target is conditioned on
    began_at: int = 0
    traces: Traces = field(default_factory=Traces.empty)

    @property
    def name(self) -> ChainName:
        return ChainName(self.job_id, self.index)

    @property
    def ends_at(self) -> int:
        return self.began_at + self.kernel.ticks


@dataclass(frozen=True)
class Block:
    """Chains outside the batch with all they need to join it: new ones, or one that was parked."""

    members: Sequence[Chain]
    state: Chains
    accepted: Tensor  # (chains,), proposals accepted
    health: Tensor  # (chains,), 0 while all energies were finite, NaN ever after
    done: int  # ticks that each has made


@dataclass(frozen=True)
class Departed:
    """A chain that left the batch for good, still on the device."""

    chain: Chain
    z: Tensor  # (*latent)
    accepted: Tensor  # (1,)


@dataclass(frozen=True)
class Retired:
    """A chain that left the batch for good, with its energies up to the first that is not finite; `jumps` and `log_ratios` may be empty."""

    chain: Chain
    z: Tensor  # (*latent), on the device
    energies: np.ndarray  # (ticks + 1,)
    accepted: float
    finite: bool
    jumps: np.ndarray  # (ticks,), 1 where a fresh point was taken
    log_ratios: np.ndarray  # (ticks,), of MALA for the moves made, times the temperature


def retire(departed: Sequence[Departed], *more: Tensor) -> tuple[list[Retired], list[np.ndarray]]:
    """Reads what departed chains leave, and `more` columns of float32 along with it, from the device in one go."""
    left = [(one.accepted, *(part for trace in one.chain.traces for part in trace)) for one in departed]
    blocks = [*(torch.cat(parts) for parts in left), *more]
    lengths = np.cumsum([len(block) for block in blocks])
    columns = np.split(device.read(torch.cat(blocks)).numpy(), lengths[:-1])
    return [_retired(one, column) for one, column in zip(departed, columns, strict=False)], columns[len(departed) :]


def _retired(departed: Departed, column: np.ndarray) -> Retired:
    lengths = [sum(map(len, trace)) for trace in departed.chain.traces]
    accepted, energies, jumps, log_ratios = np.split(column, np.cumsum([1, *lengths[:-1]]))
    broken = np.flatnonzero(~np.isfinite(energies))
    seen = energies[: broken[0] + 1] if len(broken) else energies
    return Retired(departed.chain, departed.z, seen, float(accepted[0]), not len(broken), jumps, log_ratios)


def streams_of(chains: Sequence[Chain], on: torch.device) -> Streams:
    """The random streams of some chains: the job's seed and the image's index."""
    numbers = device.put([[chain.seed for chain in chains], [chain.index for chain in chains]], on, torch.int64)
    return Streams(numbers[0], numbers[1])


class UnusableData(Exception):
    """What a job brings for its chains is not what its sampler needs."""


def usable(job: GenerateJob, wanted: DataKind | None, prepared: Prepared) -> Tensor | None:
    """What a job brings for its chains, (rows, ...): image i has row i, counted from the first again after the last.

    Raises UnusableData where that is not what its sampler wants, such as a class that the model has not.
    """
    given, shape, classes = job.data, prepared.card.image_shape, prepared.spaces["prior"].classes
    expected = {None: "no data", "image": f"an image of shape {shape}", "class": f"classes below {classes}"}[wanted]
    if given is None:
        if wanted is not None:
            raise _unusable(job, expected, "no data")
        return None
    array = given.array()
    if given.kind != wanted or (wanted == "image" and array.shape != shape):
        raise _unusable(job, expected, f"{given.kind} data of shape {array.shape}")
    if wanted == "class" and array.max() >= classes:
        raise _unusable(job, expected, f"class {array.max()}")
    rows = array if wanted == "class" else array[None]
    return device.put(rows, prepared.device, torch.int64 if wanted == "class" else torch.float32)


def _unusable(job: GenerateJob, expected: str, found: str) -> UnusableData:
    return UnusableData(f"the sampler {job.sampler!r} of {job.model} needs {expected}, the job brings {found}")


def hand_out(data: Tensor | None, chains: Sequence[Chain]) -> None:
    """Gives the chains of a job their rows of what it brings."""
    if data is not None:
        for chain in chains:
            chain.data = data[chain.index % len(data)]


def data_of(chains: Sequence[Chain]) -> Tensor | None:
    """What some chains are conditioned on, (chains, ...); None where they need nothing."""
    data = [chain.data for chain in chains if chain.data is not None]
    return torch.stack(data) if data else None

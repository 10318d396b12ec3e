"""One kernel on one target until it is done: the plain loop for training, measuring and proving. Serving batches the same functions."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from models import joint
from models.device import send
from models.kernels import Chains, Evaluated, Kernel, tempered
from models.targets.base import Target, evaluate


class GeneratorNoise:
    """Noise from one torch.Generator of the CPU: a tick's numbers, drawn when first asked for, the same on every device.

    Where several processes train, each has its rows of the joint batch's noise.
    """

    def __init__(self, like: Tensor, random: torch.Generator, normals: int = 1) -> None:
        self._like = like  # (chains, *latent)
        self._random = random
        self._shape = (len(like), normals, *like.shape[1:])
        self._normals: Tensor | None = None
        self._log_uniform: Tensor | None = None

    def normal(self) -> Tensor:
        return self.normals()[:, 0]

    def normals(self) -> Tensor:
        if self._normals is None:
            rows, *rest = self._shape
            drawn = torch.randn(rows * joint.ranks(), *rest, generator=self._random, dtype=self._like.dtype)
            self._normals = send(joint.own(drawn), self._like.device)
        return self._normals

    def log_uniform(self) -> Tensor:
        if self._log_uniform is None:
            exponential = torch.empty(len(self._like) * joint.ranks(), dtype=self._like.dtype).exponential_(generator=self._random)
            self._log_uniform = send(-joint.own(exponential), self._like.device)
        return self._log_uniform


class Ran(NamedTuple):
    """Where the chains ended and what they did."""

    chains: Chains
    acceptance: Tensor  # (chains,), of all ticks
    energies: Tensor  # (ticks + 1, chains)


def begin(kernel: Kernel, target: Target, z: Tensor, data: Tensor | None = None) -> Chains:
    """Chains at `z`, (chains, *latent), evaluated and ready for their first tick."""
    settings = {name: z.new_full((len(z), *(1,) * (z.dim() - 1)), getattr(kernel, name)) for name in kernel.columns}
    chains = Chains(*_evaluated(kernel, target, z, data), settings)
    kernel.begin(chains)
    return chains


def run(
    kernel: Kernel,
    target: Target,
    z: Tensor,
    *,
    random: torch.Generator,
    data: Tensor | None = None,
    watch: Callable[[Chains], None] | None = None,
) -> Ran:
    """Runs chains from `z`, (chains, *latent), for all steps of the kernel; `watch` sees them after each tick.

    `data`, (chains, ...), is what a conditional target needs for each chain.
    """
    chains = begin(kernel, target, z, data)
    energies, accepted = [chains.energy], torch.zeros_like(chains.energy)
    rows = torch.arange(len(z), device=z.device)
    for tick in range(kernel.ticks):
        chains.wide = rows if kernel.is_wide(tick) else rows[:0]
        noise = GeneratorNoise(chains.z, random, kernel.normals_per_tick)
        points = _evaluated(kernel, target, kernel.propose(chains, noise), _data_for(kernel, chains, data))
        accepted += kernel.update(chains, points, noise).accepted
        energies.append(chains.energy)
        if watch is not None:
            watch(chains)
    return Ran(chains, accepted / max(kernel.decisions, 1), torch.stack(energies))


def _evaluated(kernel: Kernel, target: Target, z: Tensor, data: Tensor | None) -> Evaluated:
    """Energy and gradient under the target, tempered by the kernel's β."""
    points = evaluate(target, z, data)
    return points if kernel.beta == 1 else tempered(points, z.new_full((len(z), *(1,) * (z.dim() - 1)), kernel.beta))


def _data_for(kernel: Kernel, chains: Chains, data: Tensor | None) -> Tensor | None:
    """What the chain of each proposed point is conditioned on."""
    owners = None if data is None else kernel.owners(chains)
    return data if data is None or owners is None else data[owners]

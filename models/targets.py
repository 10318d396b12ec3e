"""Targets: unnormalised densities over latents as energies, E = -log density + const; each knows its gradient only through autograd."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from models.kernels import Evaluated


class Target(Protocol):
    """An energy over latents; a `conditional` one is given an image for every row, (rows, channels, height, width)."""

    conditional: ClassVar[bool]

    def energy(self, z: Tensor, data: Tensor | None = None) -> Tensor:
        """(rows, latent) -> (rows,), in nats."""
        ...


def evaluate(target: Target, z: Tensor, data: Tensor | None = None) -> Evaluated:
    """Energy and gradient of every row in one pass through the networks."""
    with torch.enable_grad():
        points = z.detach().requires_grad_()
        energy = target.energy(points, data)
        (gradient,) = torch.autograd.grad(energy.sum(), points)
    return Evaluated(points.detach(), energy.detach(), gradient)


def standard_normal(z: Tensor) -> Tensor:
    """-log N(z; 0, I) without its constant, (rows,)."""
    return 0.5 * z.square().sum(-1)


@dataclass(frozen=True)
class Ddls:
    """E(z) = -log p0(z) - d(G(z)), d the log density ratio of data to generator  (DDLS, Che et al. 2020, eq. 4)."""

    generator: nn.Module
    log_ratio: nn.Module
    conditional: ClassVar[bool] = False

    def energy(self, z: Tensor, data: Tensor | None = None) -> Tensor:
        log_ratio: Tensor = self.log_ratio(self.generator(z))
        return standard_normal(z) - log_ratio


@dataclass(frozen=True)
class LatentEbm:
    """E(z) = -f(z) + |z|²/2, the learned prior of LEBM  (Pang et al. 2020, eq. 3)."""

    f: nn.Module
    conditional: ClassVar[bool] = False

    def energy(self, z: Tensor, data: Tensor | None = None) -> Tensor:
        f: Tensor = self.f(z)
        return standard_normal(z) - f


@dataclass(frozen=True)
class Posterior:
    """E(z) = |x - g(z)|²/2σ² - f(z) + |z|²/2 for an image x a chain, (rows, channels, height, width)  (Pang et al. 2020, eq. 9)."""

    generator: nn.Module
    f: nn.Module
    sigma: float
    conditional: ClassVar[bool] = True

    def energy(self, z: Tensor, data: Tensor | None = None) -> Tensor:
        if data is None:
            raise ValueError("the posterior needs an image for each chain")
        squares = (data - self.generator(z)).square().flatten(1).sum(1)
        f: Tensor = self.f(z)
        energy: Tensor = squares / (2 * self.sigma**2) - f + standard_normal(z)
        return energy

"""What a target is: an unnormalised density over latents as an energy, E = -log density + const; its gradient comes from autograd."""

from typing import ClassVar, Protocol

import torch
from torch import Tensor

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

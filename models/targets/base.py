"""What a target is: an unnormalised density over latents as an energy, E = -log density + const; its gradient comes from autograd."""

from typing import Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from models.kernels import Evaluated

DataKind: TypeAlias = Literal["image", "class"]


class Target(Protocol):
    """An energy over latents; where `data` is not None, each row has an image, (channels, height, width), or a class, () int64, with it."""

    @property
    def data(self) -> DataKind | None: ...

    def energy(self, z: Tensor, data: Tensor | None = None) -> Tensor:
        """Latents, (rows, ...), and what goes with them, (rows, ...), to energies in nats, (rows,)."""
        ...


def evaluate(target: Target, z: Tensor, data: Tensor | None = None) -> Evaluated:
    """Energy and gradient of every row of latents, (rows, ...), in one pass through the networks."""
    with torch.enable_grad():
        points = z.detach().requires_grad_()
        energy = target.energy(points, data)
        (gradient,) = torch.autograd.grad(energy.sum(), points)
    return Evaluated(points.detach(), energy.detach(), gradient)


def standard_normal(z: Tensor) -> Tensor:
    """-log N(z; 0, I) without its constant: (rows, ...) -> (rows,)."""
    return 0.5 * z.square().flatten(1).sum(1)

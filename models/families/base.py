"""What a family is: how its networks are built and trained, and which samplers they offer once published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from pydantic import Field

from models.cards import Frozen, SamplerName

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from models.kernels import Kernel
    from models.targets.base import Target


class Size(Frozen):
    """How large the networks are, and for which images."""

    image_shape: tuple[int, int, int] = Field(description="channels, height, width")
    latent_size: int
    width: int
    options: dict[str, float] = {}


@dataclass
class TrainState:
    """What the next training step needs; all randomness comes from `random`, so that a resumed run goes on as if never stopped."""

    size: Size
    networks: nn.ModuleDict
    optimizers: dict[str, torch.optim.Optimizer]
    random: torch.Generator
    step: int = 0


class Family(Protocol):
    """One row of the table of systems: networks, objective, targets."""

    default_sampler: ClassVar[SamplerName]
    preview_sampler: ClassVar[SamplerName]  # what can be sampled while training is still under way
    description: ClassVar[str]

    def build(self, size: Size) -> nn.ModuleDict:
        """The networks as published: no spectral norm, nothing that only training needs."""
        ...

    def begin(self, size: Size, seed: int) -> TrainState:
        """Freshly initialised networks, dressed for training, with their optimisers."""
        ...

    def train_step(self, state: TrainState, real: Tensor) -> dict[str, float]:
        """One step on real images, (batch, channels, height, width); returns what to plot. Raises Diverged."""
        ...

    def samplers(self) -> dict[str, Kernel | None]:
        """What the family offers, with kernel settings to start from."""
        ...

    def targets(self, networks: nn.ModuleDict) -> dict[str, Target]:
        """The energies that chains run on: one for each sampler but `prior`, and `posterior` where images have one."""
        ...

    def decoder(self, networks: nn.ModuleDict) -> Callable[[Tensor], Tensor]:
        """Latents to images in [-1, 1]."""
        ...


class Diverged(Exception):
    """A loss became non-finite."""


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One optimiser step down the loss, (), in the parameters the optimiser holds."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def check_finite(values: dict[str, float], step: int) -> dict[str, float]:
    """Hands the values back, or raises Diverged naming the first that is not finite."""
    for name, value in values.items():
        if not abs(value) < float("inf"):
            raise Diverged(f"{name} is {value} at training step {step}")
    return values


def published(kind: Family, state: TrainState) -> nn.ModuleDict:
    """Plain networks in eval mode with the trained weights, spectral norm settled into them."""
    networks = state.networks
    weights = {name: tensor for name, tensor in networks.state_dict().items() if ".parametrizations." not in name}
    networks.eval()  # so that reading a weight does not move its power iteration
    for name, module in networks.named_modules():
        for parameter in getattr(module, "parametrizations", {}):
            weights[f"{name}.{parameter}"] = getattr(module, parameter).detach()
    networks.train()
    plain = kind.build(state.size).eval()
    plain.load_state_dict(weights)
    return plain

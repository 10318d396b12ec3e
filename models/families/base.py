"""What a family is: options, how its networks are built, trained and calibrated, and which samplers they offer once published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from pydantic import Field

from models.cards import Frozen

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from models.datasets import Images
    from models.kernels import Kernel
    from models.targets.base import Target


class Size(Frozen):
    """How large the networks are, and for which images."""

    image_shape: tuple[int, int, int] = Field(description="channels, height, width")
    latent_size: int
    width: int


@dataclass
class TrainState:
    """What the next training step needs; all randomness comes from `random`, so that a resumed run goes on as if never stopped."""

    size: Size
    networks: nn.ModuleDict
    optimizers: dict[str, torch.optim.Optimizer]
    random: torch.Generator  # on the CPU, whatever the device: its state is saved, and every device draws the same numbers
    device: torch.device
    step: int = 0

    def normals(self, *shape: int) -> Tensor:
        """Standard normals of that shape on the device."""
        import torch

        from models.device import send

        return send(torch.randn(*shape, generator=self.random), self.device)


@dataclass(frozen=True)
class Space:
    """Where the chains of a sampler move: the shape of a point, where chains begin, and the image of a point."""

    shape: tuple[int, ...]
    start: Callable[[Tensor], Tensor]  # standard normals, (rows, *shape of the prior's points), to first points, (rows, *shape)
    decode: Callable[[Tensor], Tensor]  # points, (rows, *shape), to images in [-1, 1], (rows, channels, height, width)


class Fit(NamedTuple):
    """A calibration, to be kept only where it makes the prior's samples better."""

    method: str
    held_out_loss: float  # nats
    log_weight: Callable[[Tensor], Tensor]  # images, (rows, channels, height, width), to log density ratios of data to the prior, (rows,)


class Family(Frozen):
    """One row of the table of systems: networks, objective, targets. The fields of a family are its options."""

    description: ClassVar[str]
    default_sampler: ClassVar[str]
    preview_sampler: ClassVar[str]  # the sampler that draws previews during training
    needs_calibration: ClassVar[dict[str, str]] = {}  # samplers, and what a result says where they were never calibrated

    def build(self, size: Size) -> nn.ModuleDict:
        """The networks as published: no spectral norm, nothing that only training needs."""
        raise NotImplementedError

    def dress(self, networks: nn.ModuleDict) -> None:
        """Adds to the networks what only training needs, such as spectral norm; most families need nothing."""

    def optimizers(self, networks: nn.ModuleDict) -> dict[str, torch.optim.Optimizer]:
        """An optimiser for each network that is trained."""
        raise NotImplementedError

    def begin(self, size: Size, seed: int, device: torch.device | str = "cpu") -> TrainState:
        """Freshly initialised networks, dressed for training, with their optimisers; the same ones on every device."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            networks = self.build(size)
            self.dress(networks)
        networks.to(device)
        return TrainState(size, networks, self.optimizers(networks), torch.Generator().manual_seed(seed), torch.device(device))

    def train_step(self, state: TrainState, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """One step on real images, (batch, channels, height, width), and their labels, (batch,): figures to plot, each ().

        The host never waits for the device: no `.item()`, no branch on a tensor, no shape that depends on data.
        """
        raise NotImplementedError

    def samplers(self) -> dict[str, Kernel | None]:
        """What the family offers, with kernel settings to start from; None for `prior`."""
        raise NotImplementedError

    def targets(self, networks: nn.ModuleDict) -> dict[str, Target]:
        """The energies that chains run on, by the names of files in `models/targets`: for each sampler but `prior`, and `posterior`."""
        raise NotImplementedError

    def decoder(self, networks: nn.ModuleDict) -> Callable[[Tensor], Tensor]:
        """The prior's points to images in [-1, 1]."""
        raise NotImplementedError

    def space(self, networks: nn.ModuleDict, size: Size, sampler: str) -> Space:
        """Where chains of `prior` or of a target move; here, for all of them: latents that begin at N(0, I)."""
        return Space((size.latent_size,), unchanged, self.decoder(networks))

    def uncalibrate(self, networks: nn.ModuleDict) -> None:
        """Makes targets of networks that are not calibrated as good as they can be."""

    def calibrate(self, networks: nn.ModuleDict, size: Size, images: Images, draw: Callable[[int, torch.Generator], Tensor]) -> Fit:
        """Fits in place what `needs_calibration`; `draw` gives that many images of the prior."""
        raise NotImplementedError


def unchanged(normals: Tensor) -> Tensor:
    """The start of chains that begin at N(0, I)."""
    return normals


def spaces(kind: Family, networks: nn.ModuleDict, size: Size) -> dict[str, Space]:
    """The space of `prior` and of every target; nothing in them takes a gradient. What two spaces share is one function."""
    found = {name: kind.space(networks, size, name) for name in ("prior", *kind.targets(networks))}
    quiet = {function: _without_gradient(function) for space in found.values() for function in (space.start, space.decode)}
    return {name: Space(space.shape, quiet[space.start], quiet[space.decode]) for name, space in found.items()}


def _without_gradient(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    import torch

    def quiet(tensor: Tensor) -> Tensor:
        with torch.no_grad():
            return function(tensor)

    return quiet


def published(kind: Family, state: TrainState) -> nn.ModuleDict:
    """Plain networks in eval mode with the trained weights, on the CPU, spectral norm settled into them."""
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

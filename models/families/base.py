"""What a family is: options, how its networks are built, trained and calibrated, and which samplers they offer once published."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from models.cards import Frozen
from models.costs import Cost, total

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from models.kernels import Kernel
    from models.targets.base import DataKind, Target


BACK_AND_FORTH = 3  # a pass with its gradient costs about as much as so many without


class Size(Frozen):
    """How large the networks are, and for which images."""

    image_shape: tuple[int, int, int] = Field(description="channels, height, width")
    latent_size: int
    width: int
    classes: int = Field(1, description="how many classes the labels tell apart; 1 where there are none")
    ratio_heads: int = Field(1, ge=0, description="heads whose sum is the log ratio; 0 where the critic's output takes their place")
    ratio_knots: int = Field(0, ge=0, description="knots of the piecewise-linear function that their output goes through; 0 for none")


@dataclass
class TrainState:
    """What the next training step needs; all randomness comes from `random`, so that a resumed run goes on as if never stopped."""

    size: Size
    networks: nn.ModuleDict
    optimizers: dict[str, torch.optim.Optimizer]
    random: torch.Generator  # on the CPU, whatever the device: its state is saved, and every device draws the same numbers
    device: torch.device
    step: int = 0
    figures: dict[str, Tensor] = field(default_factory=dict)  # what a loss found on its way, each (): reported with its step, not saved
    classes: Tensor | None = None  # (batch,) int64, of the images at hand; None where networks take no classes
    averages: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # of `Family.averaged`: network to its averaged weights

    def normals(self, rows: int, *shape: int) -> Tensor:
        """Standard normals for so many rows of the batch, (rows, *shape), on the device; several processes have their own rows each."""
        import torch

        from models import joint
        from models.device import send

        return send(joint.own(torch.randn(rows * joint.ranks(), *shape, generator=self.random)), self.device)

    def network(self, name: str) -> nn.Module:
        """A network under training, in bfloat16 where the device is faster with it, with the classes of its rows filled in."""
        from models.networks.bfloat16 import Bfloat16
        from models.networks.conditional import OfClasses

        network = Bfloat16(self.networks[name])
        return network if self.classes is None else OfClasses(network, self.classes)

    def average(self, decays: Mapping[str, float]) -> None:
        """Moves the averages after a step: a ← βa + (1 - β)w, where β = min(decay, (1 + step)/(10 + step)) forgets the first weights.

        Integers, such as BatchNorm's count of batches, are copied.
        """
        for name, decay in decays.items():
            beta = min(decay, (1 + self.step) / (10 + self.step))
            for key, weight in self.networks[name].state_dict().items():
                average = self.averages[name][key]
                if average.is_floating_point():
                    average.lerp_(weight, 1 - beta)
                else:
                    average.copy_(weight)


@dataclass(frozen=True)
class Space:
    """Where the chains of a sampler move: the shape of a point, where chains begin, and the image of a point."""

    shape: tuple[int, ...]
    start: Callable[[Tensor], Tensor]  # standard normals, (rows, *shape of the prior's points), to first points, (rows, *shape)
    decode: Callable[..., Tensor]  # points, (rows, *shape), to images in [-1, 1], (rows, channels, height, width)
    classes: int = 0  # how many there are, where `decode` also takes the class of each row, (rows,) int64; without it, see `in_turn`

    @property
    def data(self) -> DataKind | None:
        """What `decode` takes beside points."""
        return "class" if self.classes else None


class Family(Frozen):
    """One row of the table of systems: networks, objective, targets. The fields of a family are its options."""

    description: ClassVar[str]
    default_sampler: ClassVar[str]
    preview_sampler: ClassVar[str]  # the sampler that draws previews during training
    needs_calibration: ClassVar[dict[str, str]] = {}  # samplers, and what a result says where they were never calibrated
    only_calibrated: ClassVar[tuple[str, ...]] = ()  # samplers that are not offered at all where they were never calibrated
    reconstructs: ClassVar[bool] = False  # whether it has `reconstruct` and `anomaly`

    @property
    def batches_per_step(self) -> int:
        """Batches of real images that one training step uses."""
        return 1

    @property
    def averaged(self) -> dict[str, float]:
        """Networks that are published as the exponential moving average of their weights over the steps, and its decay."""
        return {}

    @property
    def takes_classes(self) -> bool:
        """Whether its networks take the class of each image, so that a request may choose one."""
        return False

    def classes(self, size: Size) -> int:
        """How many classes a request chooses from; 0 where networks take none."""
        return size.classes if self.takes_classes else 0

    def costs(self, size: Size) -> dict[str, Cost]:
        """What each network of `build` costs for one image, by arithmetic alone: the API has no torch. Raises Unsuitable."""
        raise NotImplementedError

    def step_cost(self, costs: Mapping[str, Cost]) -> Cost:
        """What `train_step` costs for one image of a batch, forward and backward: here, every network once."""
        once = total(*costs.values())
        return Cost(once.parameters, once.numbers, BACK_AND_FORTH * once.operations)

    def build(self, size: Size) -> nn.ModuleDict:
        """The networks as published: no spectral norm, nothing that only training needs."""
        raise NotImplementedError

    def assemble(self, size: Size) -> nn.ModuleDict:
        """The networks of a published version: those of `build`, with the density ratio that the size describes."""
        networks = self.build(size)
        if size.ratio_heads == 1 and not size.ratio_knots:
            return networks
        import copy

        from models.networks.ratio import Recalibrated, Sum

        if size.ratio_heads == 0:
            ratio = self.score(copy.deepcopy(networks))
        elif size.ratio_heads == 1:
            ratio = networks["ratio"]
        else:
            ratio = Sum(self.build(size)["ratio"] for _ in range(size.ratio_heads))
        networks["ratio"] = Recalibrated(ratio, size.ratio_knots) if size.ratio_knots else ratio
        return networks

    def dress(self, networks: nn.ModuleDict) -> None:
        """Adds to the networks what only training needs, such as spectral norm; most families need nothing."""

    def optimizers(self, networks: nn.ModuleDict) -> dict[str, torch.optim.Optimizer]:
        """An optimiser for each network that is trained."""
        raise NotImplementedError

    def begin(self, size: Size, seed: int, device: torch.device | str = "cpu") -> TrainState:
        """Freshly initialised networks, dressed for training, with their optimisers; the same ones on every device."""
        import torch

        from models import joint
        from models.networks.joint_batch_norm import share_batch_norm

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            networks = self.build(size)
            self.dress(networks)
        if joint.ranks() > 1:
            share_batch_norm(networks)
        networks.to(device)
        averages = {name: {key: weight.clone() for key, weight in networks[name].state_dict().items()} for name in self.averaged}
        random = torch.Generator().manual_seed(seed)
        return TrainState(size, networks, self.optimizers(networks), random, torch.device(device), averages=averages)

    def train_step(self, state: TrainState, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """One step on real images, (batches_per_step · batch, channels, height, width), and their labels: figures to plot, each ().

        The host never waits for the device: no `.item()`, no branch on a tensor, no shape that depends on data.
        """
        raise NotImplementedError

    def samplers(self) -> dict[str, Kernel | None]:
        """What the family offers, with kernel settings to start from; None for `prior`."""
        raise NotImplementedError

    def targets(self, networks: nn.ModuleDict) -> dict[str, Target]:
        """The energies that chains run on, by the names of files in `models/targets`: for each sampler but `prior`, and `posterior`."""
        raise NotImplementedError

    def decoder(self, networks: nn.ModuleDict) -> Callable[..., Tensor]:
        """The prior's points, and the class of each where there are classes, to images in [-1, 1]."""
        raise NotImplementedError

    def space(self, networks: nn.ModuleDict, size: Size, sampler: str) -> Space:
        """Where chains of `prior` or of a target move; here, for all of them: latents that begin at N(0, I)."""
        return Space((size.latent_size,), unchanged, self.decoder(networks), self.classes(size))

    def uncalibrate(self, networks: nn.ModuleDict) -> None:
        """Makes targets of networks that are not calibrated as good as they can be."""

    def score(self, networks: nn.ModuleDict) -> nn.Module:
        """What logistic and isotonic calibration start from: a network whose output, (rows,), is higher the more real an image looks."""
        return networks["critic"]

    def log_ratio(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """What a ratio head, or `score`, says of images, (rows,); where networks take classes, of images with their labels."""
        values: Tensor = network(images, labels) if self.takes_classes else network(images)
        return values

    def remarks(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> dict[str, str]:
        """What results of a sampler should warn of, measured on images of the data and of the prior, (rows, channels, height, width)."""
        return {}

    def reconstruct(self, networks: nn.ModuleDict, images: Tensor, random: torch.Generator) -> Tensor:
        """What the model makes of images, (rows, channels, height, width), by way of latents that explain them."""
        raise NotImplementedError

    def anomaly(self, networks: nn.ModuleDict, images: Tensor, random: torch.Generator) -> Tensor:
        """How little the model expects of images: -log p(x, z) + const in nats at latents that explain them, (rows,)."""
        raise NotImplementedError


def unchanged(normals: Tensor) -> Tensor:
    """The start of chains that begin at N(0, I)."""
    return normals


def spaces(kind: Family, networks: nn.ModuleDict, size: Size) -> dict[str, Space]:
    """The space of `prior` and of every target; nothing in them takes a gradient. What two spaces share is one function."""
    found = {name: kind.space(networks, size, name) for name in ("prior", *kind.targets(networks))}
    quiet = {space.decode: _quiet(space.decode, space.classes) for space in found.values()}
    for start in {space.start for space in found.values()} - set(quiet):
        quiet[start] = _quiet(start, 0)
    return {name: replace(space, start=quiet[space.start], decode=quiet[space.decode]) for name, space in found.items()}


def _quiet(function: Callable[..., Tensor], classes: int) -> Callable[..., Tensor]:
    """The function without a gradient; where it takes classes and is given none, every row has its turn."""
    import torch

    def quiet(rows: Tensor, *given: Tensor) -> Tensor:
        with torch.no_grad():
            return function(rows.detach(), *(given or ((in_turn(0, len(rows), classes, rows.device),) if classes else ())))

    return quiet


def in_turn(first: int, rows: int, classes: int, device: torch.device) -> Tensor:
    """Classes 0, 1, ... over and over, of rows `first` and those after it, (rows,) int64: what a model draws where nobody chooses."""
    import torch

    return torch.arange(first, first + rows, device=device) % classes


def published(kind: Family, state: TrainState) -> nn.ModuleDict:
    """Plain networks in eval mode on the CPU: the averaged weights of networks that have some, else the trained ones.

    Spectral norm is settled into the weights. A network that has it cannot be averaged: its state is no plain network's.
    """
    networks = state.networks
    weights = {name: tensor for name, tensor in networks.state_dict().items() if ".parametrizations." not in name}
    networks.eval()  # so that reading a weight does not move its power iteration
    for name, module in networks.named_modules():
        for parameter in getattr(module, "parametrizations", {}):
            weights[f"{name}.{parameter}"] = getattr(module, parameter).detach()
    networks.train()
    for name, average in state.averages.items():
        weights |= {f"{name}.{key}": weight for key, weight in average.items()}
    plain = kind.build(state.size).eval()
    plain.load_state_dict(weights)
    return plain

"""A trained model under measurement: draws images with each of its samplers, reproducibly from a seed, and knows what they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models import sampling
from models.cards import Training
from models.datasets import Split
from models.device import read, send
from models.families.base import Family, Size, Space, in_turn, spaces
from models.inference.prepared import prepare
from models.kernels import Chains, Kernel
from models.metrics.base import Draws, Explained
from models.targets.base import Target

SEEDS = (0, 1, 2)
CHUNK = 250  # chains run together, to bound memory


@dataclass(frozen=True)
class Trained:
    """Plain networks in eval mode on the device that measures them, and where they came from."""

    name: str
    family: str
    kind: Family
    networks: nn.ModuleDict
    size: Size
    origin: Training
    device: torch.device


def over_seeds(measure: Callable[[int], float]) -> tuple[float, float]:
    """Mean and standard deviation of a figure over the seeds."""
    values = [measure(seed) for seed in SEEDS]
    return mean(values), stdev(values)


def operations_of(target: Target, z: Tensor) -> int:
    """Floating-point operations of the energy of latents, (rows, ...); the gradient takes about as many again."""
    data = torch.zeros(len(z), dtype=torch.int64, device=z.device) if target.data == "class" else None
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        target.energy(z, data)
    return max(int(counter.get_total_flops()), 1)


def evaluations(kernel: Kernel) -> int:
    """Energies with gradient that a chain takes after that of its first latent: a tick of several points counts as many."""
    return sum(kernel.points_per_chain if kernel.is_wide(tick) else 1 for tick in range(kernel.ticks))


def affordable(budget: float, each: float, fewest: int, most: int) -> int:
    """How many of something the budget buys at that price, within bounds."""
    return int(min(max(budget / each, fewest), most))


@dataclass
class Recorder:
    """Keeps where the chains stand after the steps asked for."""

    seen: dict[int, list[Tensor]]
    ticks_per_step: int
    ticks: int = 0

    def __call__(self, chains: Chains) -> None:
        self.ticks += 1
        step, within = divmod(self.ticks, self.ticks_per_step)
        if within == 0 and step in self.seen:
            self.seen[step].append(chains.z)


@dataclass(frozen=True)
class Subject:
    """The networks as they will be served, and how many images of each seed are measured."""

    spaces: dict[str, Space]
    targets: dict[str, Target]
    images: int
    device: torch.device
    kind: Family
    plain: nn.ModuleDict  # the networks as trained
    operations: dict[str, int]  # floating-point operations of one energy of each target, without its gradient

    @classmethod
    def of(cls, trained: Trained, images: int) -> Subject:
        """Builds the subject from a trained model."""
        kind, networks = trained.kind, prepare(trained.networks, trained.device)
        found, plain = spaces(kind, networks, trained.size), kind.targets(trained.networks)
        operations = {
            name: operations_of(target, torch.zeros(1, *found[name].shape, device=trained.device))
            for name, target in plain.items()
            if target.data != "image"
        }
        return cls(found, kind.targets(networks), images, trained.device, kind, trained.networks, operations)

    def draws(self, sampler: str, kernel: Kernel | None, seed: int) -> Draws:
        """Images of a sampler and, where it runs chains, their energies."""
        if kernel is None:
            return Draws(self.images_of(sampler, self.points(sampler, seed)), None)
        ran = list(self._chains(sampler, kernel, seed))
        points, energies = torch.cat([part.chains.z for part in ran]), torch.cat([part.energies for part in ran], dim=1)
        return Draws(self.images_of(sampler, points), energies)

    def passed(self, sampler: str, kernel: Kernel, seed: int, steps: Sequence[int]) -> dict[int, list[Tensor]]:
        """Where the kernel's chains stand after each of these numbers of steps, in chunks, (rows, ...)."""
        seen: dict[int, list[Tensor]] = {count: [] for count in steps}
        for _ in self._chains(sampler, kernel, seed, seen):
            pass
        return seen

    def explain(self, split: Split, seen: Tensor, seed: int) -> Draws:
        """Reconstructions of a split's images and their anomaly scores, by a family that infers latents; `seen` are the classes it saw."""
        random, explained = torch.Generator().manual_seed(seed), list[tuple[Tensor, Tensor]]()
        for part in split.images.split(CHUNK):
            explained.append((self.kind.reconstruct(self.plain, part, random), self.kind.anomaly(self.plain, part, random)))
        strange = torch.isin(read(split.labels), seen, invert=True)
        scores = read(torch.cat([scores for _, scores in explained]))
        given = Explained(split.images, scores, strange if bool(strange.any()) else None)
        return Draws(torch.cat([images for images, _ in explained]), explained=given)

    def points(self, sampler: str, seed: int) -> Tensor:
        """First points of a seed's chains, (images, ...)."""
        return torch.cat(list(self._starts(sampler, seed)))

    def energies(self, sampler: str, points: Tensor) -> Tensor:
        """Energies of a sampler's target in nats, (rows,), chunk by chunk; without gradient."""
        target, energies = self.targets[sampler], list[Tensor]()
        with torch.no_grad():
            for number, part in enumerate(points.split(CHUNK)):
                (classes,) = self._classes(number, len(part)) or (None,)
                energies.append(target.energy(part, classes if target.data == "class" else None))
        return torch.cat(energies)

    def images_of(self, sampler: str, points: Tensor) -> Tensor:
        """Points, (rows, ...), to images, chunk by chunk."""
        parts = points.split(CHUNK)
        return torch.cat([self.spaces[sampler].decode(part, *self._classes(number, len(part))) for number, part in enumerate(parts)])

    def _chains(self, sampler: str, kernel: Kernel, seed: int, seen: dict[int, list[Tensor]] | None = None) -> Iterator[sampling.Ran]:
        """Chains of a kernel, chunk by chunk, from where the prior's images of the seed are; `seen` collects points by their step."""
        random = torch.Generator().manual_seed(seed + 1000)
        for number, start in enumerate(self._starts(sampler, seed)):
            watch = None if seen is None else Recorder(seen, kernel.ticks // kernel.steps)
            (data,) = self._classes(number, len(start)) or (None,)
            yield sampling.run(kernel, self.targets[sampler], start, random=random, data=data, watch=watch)

    def _classes(self, chunk: int, rows: int) -> tuple[Tensor, ...]:
        """What a model of classes is told beside the points of a chunk: all classes in turn, over the chunks."""
        classes = self.spaces["prior"].classes
        return (in_turn(chunk * CHUNK, rows, classes, self.device),) if classes else ()

    def _starts(self, sampler: str, seed: int) -> Iterator[Tensor]:
        """First points of a seed's chains, chunk by chunk."""
        normals = torch.randn(self.images, *self.spaces["prior"].shape, generator=torch.Generator().manual_seed(seed))
        return (self.spaces[sampler].start(send(part, self.device)) for part in normals.split(CHUNK))

"""Measures a trained model: draws images with each sampler, computes every metric, and searches for the best kernel settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import mean, stdev

import torch
from torch import Tensor, nn

from models import metrics, sampling
from models.cards import Metric, Training
from models.device import send
from models.families.base import Family, Size, Space, in_turn, spaces
from models.inference.prepared import prepare
from models.kernels import Chains, Kernel
from models.metrics.base import Draws, Reference
from models.metrics.fid import distance
from models.targets.base import Target

SEEDS = (0, 1, 2)
TUNING_SEED = 100
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

    @classmethod
    def of(cls, trained: Trained, images: int) -> Subject:
        """Builds the subject from a trained model."""
        networks = prepare(trained.networks, trained.device)
        return cls(spaces(trained.kind, networks, trained.size), trained.kind.targets(networks), images, trained.device)

    def figures(self, sampler: str, kernel: Kernel | None, reference: Reference) -> Iterator[Metric]:
        """Every metric of a sampler, over the seeds; skips a metric that is None for any seed."""
        found: dict[str, list[float | None]] = {name: [] for name in metrics.names()}
        for seed in SEEDS:
            draws = self.draws(sampler, kernel, seed)
            for name, values in found.items():
                values.append(metrics.load(name)(draws, reference))
        for name, values in found.items():
            if None not in values:
                known = [value for value in values if value is not None]
                yield Metric(
                    name=name,
                    sampler=sampler,
                    value=round(mean(known), 3),
                    spread=round(stdev(known), 3),
                    evaluator=reference.evaluator.description,
                    images=self.images,
                    seeds=SEEDS,
                )

    def draws(self, sampler: str, kernel: Kernel | None, seed: int) -> Draws:
        """Images of a sampler and, where it runs chains, their energies."""
        if kernel is None:
            return Draws(self.images_of(sampler, torch.cat(list(self._starts(sampler, seed)))), None)
        ran = list(self._chains(sampler, kernel, seed))
        points, energies = torch.cat([part.chains.z for part in ran]), torch.cat([part.energies for part in ran], dim=1)
        return Draws(self.images_of(sampler, points), energies)

    def tuned(self, sampler: str, kernel: Kernel, reference: Reference) -> Kernel:
        """The kernel with its step size and steps halved, kept or doubled: the cheapest whose FID is within 2 % of the best."""
        fids: dict[tuple[int, float], float] = {}
        step_size = float(getattr(kernel, "step_size"))  # noqa: B009
        counts = {max(kernel.steps // 2, 1), kernel.steps, 2 * kernel.steps}
        for size in (step_size / 2, step_size, 2 * step_size):
            longest = kernel.model_copy(update={"steps": 2 * kernel.steps, "step_size": size})
            seen: dict[int, list[Tensor]] = {count: [] for count in counts}
            for _ in self._chains(sampler, longest, TUNING_SEED, seen):
                pass
            for steps, points in seen.items():
                fids[steps, size] = distance(self.images_of(sampler, torch.cat(points)), reference)
        best = min(fids.values())
        steps, size = min(setting for setting, fid in fids.items() if fid <= 1.02 * best)
        return kernel.model_copy(update={"steps": steps, "step_size": size})

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

"""Measures a trained model: images of each sampler, their FID, and the kernel settings that earn their place on the card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean, stdev

import torch
from torch import Tensor

from models import sampling
from models.cards import Metric, SamplerName
from models.kernels import Chains, Kernel
from models.metrics.fid import Evaluator
from models.targets.base import Target

SEEDS = (0, 1, 2)
TUNING_SEED = 100
CHUNK = 250  # chains run together, to bound memory


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
    """What is measured: latents to images, energies, and by whom."""

    decode: Callable[[Tensor], Tensor]
    targets: dict[str, Target]
    latent: int
    evaluator: Evaluator
    images: int  # sample size of each seed

    def fid(self, sampler: SamplerName, kernel: Kernel | None) -> Metric:
        """FID of a sampler over the seeds."""
        value, spread = over_seeds(lambda seed: self.evaluator.distance(self.samples(sampler, kernel, seed)))
        return Metric(
            name="fid",
            sampler=sampler,
            value=round(value, 3),
            spread=round(spread, 3),
            evaluator=self.evaluator.name,
            images=self.images,
            seeds=SEEDS,
        )

    def samples(self, sampler: SamplerName, kernel: Kernel | None, seed: int) -> Tensor:
        """Images of a sampler, (images, channels, height, width)."""
        if kernel is None:
            return self.images_of(self._latents(seed))
        return self.images_of(self.chains(sampler, kernel, seed, {kernel.steps})[kernel.steps])

    def chains(self, sampler: SamplerName, kernel: Kernel, seed: int, steps: set[int]) -> dict[int, Tensor]:
        """Where chains stand after each of some numbers of steps, from the same latents as the prior's images."""
        random = torch.Generator().manual_seed(seed + 1000)
        seen: dict[int, list[Tensor]] = {step: [] for step in steps}
        for z in self._latents(seed).split(CHUNK):
            sampling.run(kernel, self.targets[sampler], z, random=random, watch=Recorder(seen, kernel.ticks // kernel.steps))
        return {step: torch.cat(parts) for step, parts in seen.items()}

    def tuned(self, sampler: SamplerName, kernel: Kernel) -> Kernel:
        """The kernel with its step size and steps halved, kept or doubled: the cheapest whose FID is within 2 % of the best."""
        fids: dict[tuple[int, float], float] = {}
        step_size = float(getattr(kernel, "step_size"))  # noqa: B009
        counts = {max(kernel.steps // 2, 1), kernel.steps, 2 * kernel.steps}
        for size in (step_size / 2, step_size, 2 * step_size):
            longest = kernel.model_copy(update={"steps": 2 * kernel.steps, "step_size": size})
            for steps, z in self.chains(sampler, longest, TUNING_SEED, counts).items():
                fids[steps, size] = self.evaluator.distance(self.images_of(z))
        best = min(fids.values())
        steps, size = min(setting for setting, fid in fids.items() if fid <= 1.02 * best)
        return kernel.model_copy(update={"steps": steps, "step_size": size})

    def _latents(self, seed: int) -> Tensor:
        return torch.randn(self.images, self.latent, generator=torch.Generator().manual_seed(seed))

    def images_of(self, z: Tensor) -> Tensor:
        """Latents, (rows, latent), to images, chunk by chunk."""
        with torch.no_grad():
            return torch.cat([self.decode(part) for part in z.split(CHUNK)])

"""Latents that explain an image, under LEBM's prior  (Pang et al. 2020, arXiv 2006.08205)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from models.targets.base import DataKind, standard_normal


@dataclass(frozen=True)
class Posterior:
    """E(z) = |x - g(z)|²/2σ² - f(z) + |z|²/2 for an image x a chain, (rows, channels, height, width)  (Pang et al. 2020, eq. 9)."""

    generator: nn.Module
    f: nn.Module
    sigma: float
    data: ClassVar[DataKind | None] = "image"

    def energy(self, z: Tensor, data: Tensor | None = None) -> Tensor:
        if data is None:
            raise ValueError("the posterior needs an image for each chain")
        squares = (data - self.generator(z)).square().flatten(1).sum(1)
        f: Tensor = self.f(z)
        energy: Tensor = squares / (2 * self.sigma**2) - f + standard_normal(z)
        return energy

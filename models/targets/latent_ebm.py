"""The learned prior of LEBM  (Pang et al. 2020, arXiv 2006.08205)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from models.targets.base import DataKind, standard_normal


@dataclass(frozen=True)
class LatentEbm:
    """E(z) = -f(z) + |z|²/2, the learned prior of LEBM  (Pang et al. 2020, eq. 3)."""

    f: nn.Module
    data: ClassVar[DataKind | None] = None

    def energy(self, z: Tensor, data: Tensor | None = None) -> Tensor:
        f: Tensor = self.f(z)
        return standard_normal(z) - f

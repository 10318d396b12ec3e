"""DDLS: the generator's latents, reweighted by a density ratio of data to generator  (Che et al. 2020, arXiv 2003.06060)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from models.targets.base import DataKind, standard_normal


@dataclass(frozen=True)
class Ddls:
    """E(z) = -log p0(z) - d(G(z)), d the log density ratio of data to generator  (DDLS, Che et al. 2020, eq. 4)."""

    generator: nn.Module
    log_ratio: nn.Module
    data: ClassVar[DataKind | None] = None

    def energy(self, z: Tensor, data: Tensor | None = None) -> Tensor:
        log_ratio: Tensor = self.log_ratio(self.generator(z))
        return standard_normal(z) - log_ratio

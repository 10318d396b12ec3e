"""DDLS: the generator's latents, reweighted by a density ratio of data to generator  (Che et al. 2020, arXiv 2003.06060)."""

from dataclasses import dataclass

from torch import Tensor, nn

from models.targets.base import DataKind, standard_normal


@dataclass(frozen=True)
class Ddls:
    """E(z) = -log p0(z) - d(G(z)), d the log density ratio of data to generator  (DDLS, Che et al. 2020, eq. 4).

    Where `data` is "class", E(z) = -log p0(z) - d(G(z, y), y), and exp(-E) is p(z | y) for the class y of each chain, (rows,) int64.
    """

    generator: nn.Module
    log_ratio: nn.Module
    data: DataKind | None = None

    def energy(self, z: Tensor, data: Tensor | None = None) -> Tensor:
        if self.data and data is None:
            raise ValueError("a generator that takes classes needs one for each chain")
        given = () if data is None else (data,)
        log_ratio: Tensor = self.log_ratio(self.generator(z, *given), *given)
        return standard_normal(z) - log_ratio

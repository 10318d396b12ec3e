"""Images under a critic's energy: chains move pixels, and no generator is in the way  (EBGAN: Zhao et al. 2017, arXiv 1609.03126)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from models.targets.base import DataKind

SOFTNESS = 0.1  # w: how far beyond [-1, 1] a pixel may stray, as a standard deviation


@dataclass(frozen=True)
class Pixel:
    """E(x) = -β · score(x) + |x - clip(x, -1, 1)|²/2w², w = 0.1.

    A critic's score has no unit, so β, the inverse temperature, is part of the model; and it need not fall outside the images, so that
    exp(β · score) need not have a finite integral: the second term, 0 on images, sees to that.
    """

    score: nn.Module  # images, (rows, channels, height, width), to (rows,): c of WGAN, -D of EBGAN; high on data
    scale: float  # β, nats for one unit of the score
    data: ClassVar[DataKind | None] = None

    def energy(self, z: Tensor, data: Tensor | None = None) -> Tensor:
        outside = (z - z.clamp(-1, 1)).square().flatten(1).sum(1)
        score: Tensor = self.score(z)
        return outside / (2 * SOFTNESS**2) - self.scale * score


FLAT = 0.25  # standard deviations between the means; the share of pairs in the right order is then 57 %


def flatness(real: Tensor, fake: Tensor) -> str | None:
    """What to say of a critic whose energies of data and of generated images, (rows,) each, coincide; None where they differ.

    They coincide where the means are less than a quarter of the pooled standard deviation apart, as at EBGAN's equilibrium.
    """
    means, spread = (float(real.mean()), float(fake.mean())), float(((real.var() + fake.var()) / 2).sqrt())
    if abs(means[0] - means[1]) > FLAT * spread:
        return None
    return (
        f"the critic is nearly flat: its mean energies of real and generated images, {means[0]:.4g} and {means[1]:.4g}, coincide within "
        f"their spread, {spread:.2g}, so that chains learn little from it"
    )

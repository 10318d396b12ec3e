"""The variational auto-encoder on LEBM's generator, the baseline that a learned prior must beat  (Kingma & Welling 2014, arXiv 1312.6114).

p(z) = N(0, I) and x = g(z) + σe. With the encoder's q(z|x) = N(m(x), diag s(x)²), both networks descend
E_q |x - g(z)|²/2σ² + KL(q(z|x) || N(0, I)), the negative evidence lower bound without its constant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from models.costs import Cost, dcgan_generator, encoder
from models.families.base import Family, Size, TrainState

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from models.kernels import Kernel
    from models.targets.base import Target


class Vae(Family):
    """Options of the VAE."""

    sigma: float = Field(0.3, gt=0, le=10, description="σ of the generator's noise on images in [-1, 1]")

    description: ClassVar[str] = "Variational auto-encoder"
    default_sampler: ClassVar[str] = "prior"
    preview_sampler: ClassVar[str] = "prior"
    reconstructs: ClassVar[bool] = True

    def costs(self, size: Size) -> dict[str, Cost]:
        generator = dcgan_generator(size.latent_size, size.width, size.image_shape)
        return {"generator": generator, "encoder": encoder(2 * size.latent_size, size.width, size.image_shape)}

    def build(self, size: Size) -> nn.ModuleDict:
        """The encoder gives 2 · latent numbers: mean and logarithm of the variance."""
        from torch import nn

        from models.networks.dcgan import Generator
        from models.networks.encoder import Encoder

        generator = Generator(size.latent_size, size.width, size.image_shape)
        return nn.ModuleDict({"generator": generator, "encoder": Encoder(2 * size.latent_size, size.width, size.image_shape)})

    def optimizers(self, networks: nn.ModuleDict) -> dict[str, torch.optim.Optimizer]:
        from torch.optim import Adam

        return {"both": Adam(networks.parameters(), lr=3e-4, betas=(0.5, 0.999))}  # the rate that LEBM's generator has

    def train_step(self, state: TrainState, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        from models.descent import descend

        mean, log_variance = state.network("encoder")(images).chunk(2, dim=1)
        z = mean + (0.5 * log_variance).exp() * state.normals(len(images), state.size.latent_size)
        squares = (images - state.network("generator")(z)).square().flatten(1).sum(1)
        divergence = divergence_from_prior(mean, log_variance)
        descend(state.optimizers["both"], (squares / (2 * self.sigma**2) + divergence).mean())
        state.step += 1
        mse = squares.mean() / (4 * images[0].numel())  # a quarter: on the [0, 1] scale
        return {"reconstruction_mse": mse.detach(), "divergence": divergence.mean().detach()}

    def samplers(self) -> dict[str, Kernel | None]:
        return {"prior": None}

    def targets(self, networks: nn.ModuleDict) -> dict[str, Target]:
        return {}

    def decoder(self, networks: nn.ModuleDict) -> Callable[[Tensor], Tensor]:
        return networks["generator"]

    def encode(self, networks: nn.ModuleDict, images: Tensor) -> Tensor:
        """The mean of q(z|x) for images x, (rows, channels, height, width): (rows, latent)."""
        mean: Tensor = networks["encoder"](images).chunk(2, dim=1)[0]
        return mean

    def reconstruct(self, networks: nn.ModuleDict, images: Tensor, random: torch.Generator) -> Tensor:
        """g at the mean of q(z|x); it draws nothing."""
        import torch

        with torch.no_grad():
            reconstructed: Tensor = networks["generator"](self.encode(networks, images))
        return reconstructed

    def anomaly(self, networks: nn.ModuleDict, images: Tensor, random: torch.Generator) -> Tensor:
        """|x - g(z)|²/2σ² + |z|²/2 at the mean of q(z|x); it draws nothing."""
        import torch

        from models.targets.base import standard_normal

        with torch.no_grad():
            z = self.encode(networks, images)
            squares = (images - networks["generator"](z)).square().flatten(1).sum(1)
            energy: Tensor = squares / (2 * self.sigma**2) + standard_normal(z)
        return energy


def divergence_from_prior(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(m, diag v) || N(0, I)) = ½ Σ (v + m² - 1 - log v) in nats: two of (rows, latent) -> (rows,)."""
    return 0.5 * (log_variance.exp() + mean.square() - 1 - log_variance).sum(1)

"""A generator whose images have noise of their own: x = G(z) + σz', so that they have a density  (DDLS, Che et al. 2020)."""

from torch import Tensor, nn


class OutputNoise(nn.Module):
    """Points (z, z'), (rows, latent + pixels), to G(z) + σz'; z alone, as in training, to G(z). Passes classes on to `generator`."""

    def __init__(self, generator: nn.Module, latent: int, sigma: float) -> None:
        super().__init__()
        self.generator, self.latent, self.sigma = generator, latent, sigma

    def forward(self, points: Tensor, *classes: Tensor) -> Tensor:
        z, noise = points[:, : self.latent].contiguous(), points[:, self.latent :]
        images: Tensor = self.generator(z, *classes)
        return images + self.sigma * noise.reshape(images.shape) if noise.shape[1] else images

"""The convolutional pair of SNGAN (Miyato et al. 2018), sized for small images: upsampling by four from a linear layer, and back."""

import math

import torch
from torch import Tensor, nn


class Generator(nn.Module):
    """Latents to images in [-1, 1]: (rows, latent) -> (rows, channels, height, width); height and width divisible by 4."""

    def __init__(self, latent: int, width: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, wide = image_shape
        base = (2 * width, height // 4, wide // 4)
        self.layers = nn.Sequential(
            nn.Linear(latent, math.prod(base)),
            nn.Unflatten(1, base),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.ConvTranspose2d(width, width // 2, 4, 2, 1, bias=False),
            nn.BatchNorm2d(width // 2),
            nn.ReLU(),
            nn.Conv2d(width // 2, channels, 3, 1, 1),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        images: Tensor = self.layers(z)
        return images


class Critic(nn.Module):
    """Images to logits of being real: (rows, channels, height, width) -> (rows,), or of several `outputs` -> (rows, outputs).

    `scale` is a learned factor on the last layer: under spectral norm alone the logit stays within a few tenths of 0.
    """

    def __init__(self, width: int, image_shape: tuple[int, int, int], *, outputs: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        channels, height, wide = image_shape
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width // 2, 4, 2, 1),
            nn.LeakyReLU(0.1),
            nn.Dropout2d(dropout),
            nn.Conv2d(width // 2, width, 4, 2, 1),
            nn.LeakyReLU(0.1),
            nn.Dropout2d(dropout),
            nn.Conv2d(width, 2 * width, 3, 1, 1),
            nn.LeakyReLU(0.1),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(2 * width * (height // 4) * (wide // 4), outputs),
        )
        self.scale = nn.Parameter(torch.tensor(4.0))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.scale * self.layers(images).squeeze(1)  # squeezes one output only
        return logits

    @torch.no_grad()
    def rescale(self, slope: float, intercept: float) -> None:
        """Makes outputs slope · output, plus the intercept for the first, within the last layer: it costs nothing more to compute."""
        last, factor = self.layers[-1], self.scale * slope
        assert isinstance(last, nn.Linear)
        last.weight *= factor
        last.bias.mul_(factor)
        last.bias[0] += intercept
        self.scale.fill_(1.0)

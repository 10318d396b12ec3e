"""The multilayer perceptrons of the first GAN, for images of any shape and for points seen as such: (1, 1, 2) is a point of the plane."""

import math

from torch import Tensor, nn


def _hidden(inputs: int, width: int, layers: int) -> list[nn.Module]:
    """Linear layers of one width, each with ReLU."""
    sizes = [inputs, *[width] * layers]
    return [layer for size in sizes[:-1] for layer in (nn.Linear(size, width), nn.ReLU())]


class Generator(nn.Module):
    """Latents to images in [-1, 1]: (rows, latent) -> (rows, channels, height, width)."""

    def __init__(self, latent: int, width: int, image_shape: tuple[int, int, int], *, layers: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_hidden(latent, width, layers),
            nn.Linear(width, math.prod(image_shape)),
            nn.Tanh(),
            nn.Unflatten(1, image_shape),
        )

    def forward(self, z: Tensor) -> Tensor:
        images: Tensor = self.layers(z)
        return images


class Critic(nn.Module):
    """Images to logits of being real: (rows, channels, height, width) -> (rows,)."""

    def __init__(self, width: int, image_shape: tuple[int, int, int], *, layers: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), *_hidden(math.prod(image_shape), width, layers), nn.Linear(width, 1))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images).squeeze(1)
        return logits

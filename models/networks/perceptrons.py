"""The multilayer perceptrons of the first GAN, for images of any shape and for points seen as such: (1, 1, 2) is a point of the plane."""

import math

import torch
from torch import Tensor, nn

LENGTHS = (0.5, 0.15, 0.05)  # of waves over the square [-1, 1]²
WAVES = 32  # of each length


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


class Waves(nn.Module):
    """Points of the plane to their coordinates, and cosines and sines of random waves: (rows, 1, 1, 2) -> (rows, 2 + 2 · waves).

    A perceptron of bare coordinates takes long to tell a thin strand from its surroundings (Tancik et al. 2020, arXiv 2006.10739).
    """

    waves: Tensor  # (2, waves), in radians for each unit of length

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("waves", torch.cat([torch.randn(2, WAVES) / length for length in LENGTHS], dim=1))

    def forward(self, images: Tensor) -> Tensor:
        points = images.flatten(1)
        angles = points @ self.waves
        return torch.cat([points, angles.cos(), angles.sin()], dim=1)


class CriticOfPoints(nn.Module):
    """Points of the plane, seen through waves, to logits of being real: (rows, 1, 1, 2) -> (rows,)."""

    def __init__(self, width: int, *, layers: int) -> None:
        super().__init__()
        waves = Waves()
        self.layers = nn.Sequential(waves, *_hidden(2 + 2 * waves.waves.shape[1], width, layers), nn.Linear(width, 1))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images).squeeze(1)
        return logits

    def imitate(self, plain: Critic) -> None:
        """Takes the weights of a critic of as many layers, and gives its logits: no wave counts."""
        with torch.no_grad():
            for own, given in zip(list(self.layers)[1:], list(plain.layers)[1:], strict=True):
                if isinstance(own, nn.Linear) and isinstance(given, nn.Linear):
                    own.weight.zero_()[:, : given.in_features] = given.weight
                    own.bias.copy_(given.bias)

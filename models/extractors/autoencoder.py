"""The code of a convolutional auto-encoder: the extractor for images without classes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.datasets import Split
from models.extractors.base import Extractor, descend_on, rounds_over

SEED = 0
CODE = 64


def fit(split: Split, epochs: int | None) -> AutoEncoder:
    """Minimises the squared error of each shifted image's reconstruction."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = AutoEncoder(split.images.shape[1:])
        rounds = epochs or rounds_over(split.images)
        descend_on(network, split.images, rounds, lambda rows, images: F.mse_loss(network.decode(network.embed(images)), images))
    network.scale(split.images)
    return network


class AutoEncoder(Extractor):
    """Images to a code of 64 numbers."""

    num_features = CODE

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(shape[0], 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()
        )
        self.code = nn.Linear(64 * 16, CODE)
        self.decoder = nn.Sequential(nn.Linear(CODE, 512), nn.ReLU(), nn.Linear(512, math.prod(shape)), nn.Tanh(), nn.Unflatten(1, shape))

    def embed(self, images: Tensor) -> Tensor:
        code: Tensor = self.code(self.encoder(images))
        return code

    def decode(self, code: Tensor) -> Tensor:
        images: Tensor = self.decoder(code)
        return images

"""Waves over the plane, whose means tell any two densities of points apart: the extractor of the FID that chooses, for points.

Random Fourier features (Rahimi & Recht 2007) at lengths from the spread of all points down to that of one class. In coordinates alone,
FID knows means and covariances, and a single Gaussian passes for a grid of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.datasets import Split
from models.extractors import coordinates
from models.extractors.coordinates import Coordinates

SEED = 0
LENGTHS = 4  # from the longest to the shortest, geometrically
WAVES = 24  # of each length, as a cosine and a sine
SHORTEST = 1 / 32  # of the longest, where there are no classes


def fit(split: Split, epochs: int | None) -> Waves:
    """The classes as `coordinates` has them, and waves from a fixed seed; `epochs` means nothing here."""
    known, points = coordinates.fit(split, epochs), split.images.flatten(1)
    longest = (points - points.mean(0)).square().mean().sqrt()
    shortest = known.spread if known.classes > 1 else SHORTEST * longest
    lengths = longest * (shortest / longest) ** torch.linspace(0, 1, LENGTHS)
    waves = torch.randn(LENGTHS, 2, WAVES, generator=torch.Generator().manual_seed(SEED)) / lengths.reshape(-1, 1, 1)
    network = Waves(known, waves.transpose(0, 1).flatten(1))
    network.scale(split.images)
    return network


class Waves(Coordinates):
    """Points, (rows, 1, 1, 2), to their coordinates and waves, (rows, 2 + 2 · waves)."""

    waves: Tensor  # (2, waves), in radians for each unit of length

    def __init__(self, known: Coordinates, waves: Tensor) -> None:
        super().__init__(known.means, known.spread)
        self.num_features = 2 + 2 * waves.shape[1]
        self.register_buffer("waves", waves)

    def embed(self, images: Tensor) -> Tensor:
        points = images.flatten(1)
        angles = points @ self.waves
        return torch.cat([points, angles.cos(), angles.sin()], dim=1)

    def classify(self, embedded: Tensor) -> Tensor:
        return super().classify(embedded[:, :2])

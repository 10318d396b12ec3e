"""The strongest principal components of the pixels, at most 64: features that know nothing of classes."""

from __future__ import annotations

import torch
from torch import Tensor

from models.datasets import Split
from models.extractors.base import Extractor

MOST = 64


def fit(split: Split, epochs: int | None) -> Components:
    """From the singular vectors of the centred images; `epochs` means nothing here."""
    pixels = split.images.flatten(1)
    mean = pixels.mean(0)
    axes = torch.linalg.svd(pixels - mean, full_matrices=False).Vh[:MOST]
    network = Components(mean, axes)
    network.scale(split.images)
    return network


class Components(Extractor):
    """Images to their coordinates along the axes."""

    mean: Tensor  # (pixels,)
    axes: Tensor  # (features, pixels)

    def __init__(self, mean: Tensor, axes: Tensor) -> None:
        super().__init__()
        self.num_features = len(axes)
        self.register_buffer("mean", mean)
        self.register_buffer("axes", axes)

    def embed(self, images: Tensor) -> Tensor:
        centred: Tensor = images.flatten(1) - self.mean
        return centred @ self.axes.T

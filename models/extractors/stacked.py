"""For images that stack pictures as channels, such as stacked MNIST: one extractor for all channels, features side by side.

The label of an image is the number whose digits are the classes of its channels; the classes' probabilities are the products over channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from models.datasets import Split
from models.extractors.base import Extractor

CHANNELS = 4000  # single channels that the extractor is fitted on, at most


class Stacked(Extractor):
    """Images, (rows, channels, height, width), to features, (rows, channels · those of `single`)."""

    def __init__(self, single: Extractor, channels: int) -> None:
        super().__init__()
        self.single, self.channels = single, channels
        self.num_features, self.classes = channels * single.num_features, single.classes**channels

    def embed(self, images: Tensor) -> Tensor:
        features: Tensor = self.single(images.flatten(0, 1).unsqueeze(1))
        return features.reshape(len(images), -1)

    def classify(self, embedded: Tensor) -> Tensor:
        parts = [self.single.log_probabilities(part) for part in embedded.chunk(self.channels, dim=1)]
        joint = parts[0]
        for part in parts[1:]:
            joint = (joint.unsqueeze(2) + part.unsqueeze(1)).flatten(1)  # (rows, classes so far · classes)
        return joint


def fit(fit_single: Callable[[Split], Extractor], split: Split, classes: int) -> Stacked:
    """`fit_single` on the channels as images of their own, of so many classes each."""
    rows, channels = split.images.shape[:2]
    powers = classes ** torch.arange(channels - 1, -1, -1)
    labels = split.labels.unsqueeze(1) // powers % classes  # (rows, channels)
    order = torch.randperm(rows * channels, generator=torch.Generator().manual_seed(0))[:CHANNELS]
    single = Split(split.images.flatten(0, 1).unsqueeze(1)[order], labels.flatten()[order])
    return Stacked(fit_single(single), channels)

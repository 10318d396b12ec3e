"""A plain convolutional classifier with batch normalisation: the extractor of the FID that chooses, where the data has classes."""

from __future__ import annotations

from torch import nn

from models.datasets import Split
from models.extractors.base import FEATURES, Classifier, fit_classifier, rounds_over

SEED = 0


def fit(split: Split, epochs: int | None) -> Classifier:
    """Three convolutions, then 128 features; the first one halves images of more than 16 pixels a side."""
    _, channels, height, _ = split.images.shape
    return fit_classifier(lambda: _body(channels, 2 if height > 16 else 1), split, epochs or rounds_over(split.images), seed=SEED)


def _body(channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        *_convolution(channels, 32, stride),
        *_convolution(32, 64, 2),
        *_convolution(64, 96, 1),
        nn.AdaptiveAvgPool2d(3),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(9 * 96, FEATURES),
        nn.ReLU(),
    )


def _convolution(channels: int, out: int, stride: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()

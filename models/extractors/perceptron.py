"""A classifier without convolutions: a perceptron over all pixels at once, independent of `convolutional` in architecture and seed."""

from __future__ import annotations

import math

from torch import nn

from models.datasets import Split
from models.extractors.base import FEATURES, Classifier, fit_classifier, rounds_over

SEED = 1


def fit(split: Split, epochs: int | None) -> Classifier:
    """Two hidden layers, then 128 features."""
    pixels = math.prod(split.images.shape[1:])
    return fit_classifier(lambda: _body(pixels), split, epochs or rounds_over(split.images, times=3), seed=SEED)


def _body(pixels: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for wide, out in ((pixels, 512), (512, 256)):
        layers += [nn.Linear(wide, out), nn.GELU(), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.Linear(256, FEATURES), nn.GELU())

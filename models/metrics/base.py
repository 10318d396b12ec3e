"""The inputs of a metric: the images of one seed, and real images with a classifier whose features it may compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.datasets import Split
from models.descent import descend

FEATURES = 64
CHUNK = 500  # images classified together, to bound memory


class Draws(NamedTuple):
    """The images and energies that a sampler made from one seed."""

    images: Tensor  # (images, channels, height, width) in [-1, 1]
    energies: Tensor | None  # (ticks + 1, images) of the chains, in nats; None for `prior`, which has no chains


class Measure(Protocol):
    """The function `measure` of a metric's file."""

    def __call__(self, draws: Draws, reference: Reference) -> float | None:
        """The figure of these draws; None where the metric does not apply to them."""
        ...


class Classifier(nn.Module):
    """Images in [-1, 1], (rows, channels, height, width), to features, (rows, FEATURES); `head` makes class logits of them."""

    num_features = FEATURES

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 32, 3, 1, 1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, 1, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(64 * 16, FEATURES),
            nn.ReLU(),
        )
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images)
        return features


class Evaluator:
    """A feature network of a dataset, trained on the split that nothing else uses; figures are comparable within one `description` only.

    It is trained afresh from a fixed seed, on the CPU, so every machine and device compares with the same one.
    """

    def __init__(self, split: Split, dataset: str, *, device: torch.device | str = "cpu", epochs: int = 12) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.classifier = _trained(split, epochs)
        self.description = f"{dataset} classifier, {FEATURES} features, seed 0, {epochs} epochs, {len(split.images)} images"
        self.classifier.to(device)
        self.device = device

    def against(self, split: Split) -> Reference:
        """What to compare with: a split's images."""
        return Reference(split.images.to(self.device), split.labels.to(self.device), self)


@dataclass(frozen=True)
class Reference:
    """Real images that samples are compared with, and what compares them."""

    images: Tensor
    labels: Tensor
    evaluator: Evaluator


def _trained(split: Split, epochs: int) -> Classifier:
    """Adam with weight decay, batches of 64, in eval mode afterwards."""
    classifier = Classifier(split.images.shape[1], int(split.labels.max()) + 1)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=1e-3, weight_decay=1e-2)
    for _ in range(epochs):
        for rows in torch.randperm(len(split.images)).split(64):
            descend(optimizer, F.cross_entropy(classifier.head(classifier(split.images[rows])), split.labels[rows]))
    return classifier.eval().requires_grad_(False)

"""Fréchet distance (Heusel et al. 2017) in the features of a classifier of the same dataset: comparable within one evaluator only."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from models.datasets import Images

FEATURES = 64


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
    """Fréchet distances to a dataset's held-out images; trained afresh from a fixed seed, so anybody can have the same one."""

    def __init__(self, images: Images, dataset: str, epochs: int = 12) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self._classifier = _trained(images, epochs)
        right = self._classifier.head(self._features(images.held_out)).argmax(1) == images.held_out_labels
        self.name = f"{dataset} classifier, {FEATURES} features, seed 0, {epochs} epochs, {right.float().mean():.1%} on held-out images"
        self._reference = images.held_out

    def distance(self, samples: Tensor) -> float:
        """FID of samples, (rows, channels, height, width) in [-1, 1], to the held-out images."""
        fid = FrechetInceptionDistance(feature=self._classifier, normalize=True)
        for batch in self._reference.split(500):
            fid.update(batch, real=True)
        for batch in samples.split(500):
            fid.update(batch, real=False)
        return float(fid.compute())

    def _features(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([self._classifier(batch) for batch in images.split(500)])


def _trained(images: Images, epochs: int) -> Classifier:
    """Adam with weight decay, batches of 64, in eval mode afterwards."""
    classifier = Classifier(images.train.shape[1], int(images.train_labels.max()) + 1)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=1e-3, weight_decay=1e-2)
    for _ in range(epochs):
        for rows in torch.randperm(len(images.train)).split(64):
            loss = F.cross_entropy(classifier.head(classifier(images.train[rows])), images.train_labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return classifier.eval().requires_grad_(False)

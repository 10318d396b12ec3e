"""What a log ratio is judged on: real images beside the prior's, in features; FID and class proportions after exact reweighting by exp(d).

Self-normalised importance weights w ∝ exp(d(x)) turn means over the prior's images into means over what DDLS samples, with no Markov
chain in between: FID compares the weighted mean and covariance of the features  (Heusel et al. 2017, arXiv 1706.08500).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from models.datasets import Split
from models.device import read
from models.metrics.base import Reference, features_of, log_probabilities_of


class Moments(NamedTuple):
    """Mean and covariance of features."""

    mean: Tensor  # (features,) float64
    covariance: Tensor  # (features, features) float64

    @classmethod
    def of(cls, features: Tensor, weights: Tensor | None = None) -> Moments:
        """Of features, (rows, features), with weights that sum to 1, (rows,); unbiased where the weights are equal."""
        features = features.double()
        shares = torch.full((len(features),), 1 / len(features), dtype=torch.float64) if weights is None else weights
        mean = shares @ features
        centred = features - mean
        return cls(mean, (centred * shares.unsqueeze(1)).T @ centred / (1 - shares.square().sum()))


def frechet(first: Moments, second: Moments) -> float:
    """Fréchet distance of two normal distributions: |μ - μ'|² + tr(C + C' - 2 (C C')^½)."""
    roots = torch.linalg.eigvals(first.covariance @ second.covariance).real.clamp_min(0).sqrt().sum()
    spread = first.covariance.trace() + second.covariance.trace() - 2 * roots
    return float((first.mean - second.mean).square().sum() + spread)


def weights_of(log_ratio: Tensor) -> Tensor:
    """Self-normalised weights ∝ exp(d), (rows,) float64, of log ratios, (rows,)."""
    return log_ratio.double().softmax(0)


def effective_share(log_ratio: Tensor) -> float:
    """Effective sample size of the weights, as a share of the samples: 1 / (n Σ w²)."""
    return float(1 / (weights_of(log_ratio).square().sum() * len(log_ratio)))


@dataclass(frozen=True)
class Evidence:
    """Real and generated images on the device, and their features on the CPU."""

    real: Split
    fake: Split
    real_moments: Moments
    real_weight: Tensor  # (real,) float64, sums to 1
    real_classes: Tensor  # (classes,) float64: mean probability that the extractor gives each class
    fake_features: Tensor  # (fake, features)
    fake_classes: Tensor  # (fake, classes) float64: the classifier's probabilities

    @classmethod
    def gather(cls, reference: Reference, fake: Split, labels: Tensor | None = None) -> Evidence:
        """What `reference` compares with, and such images of the prior; all on one device.

        `labels`, (images,), are of many more real images: the classes of those compared with then weigh as much as they do there.
        """
        real = Split(reference.images, reference.labels)
        features, classes = _seen(reference, real.images)
        weight = proportional(read(real.labels), read(real.labels if labels is None else labels))
        return cls(real, fake, Moments.of(features, weight), weight, weight @ classes, *_seen(reference, fake.images))

    def with_fake(self, reference: Reference, fake: Split) -> Evidence:
        """The same real images beside other generated ones."""
        features, classes = _seen(reference, fake.images)
        return replace(self, fake=fake, fake_features=features, fake_classes=classes)

    def fid(self, log_ratio: Tensor | None = None) -> float:
        """FID of the prior's images, reweighted by log ratios, (fake,), where they are given."""
        return frechet(self.real_moments, Moments.of(self.fake_features, None if log_ratio is None else weights_of(log_ratio)))

    def class_distance(self, log_ratio: Tensor | None = None) -> float:
        """Total variation between the classes' proportions, as the classifier sees them: ½ Σ |real - reweighted|, 0 to 1."""
        shares = self.fake_classes.mean(0) if log_ratio is None else weights_of(log_ratio) @ self.fake_classes
        return float(0.5 * (shares - self.real_classes).abs().sum())


def proportional(labels: Tensor, wanted: Tensor) -> Tensor:
    """Weights, (rows,) float64 with sum 1, under which labels, (rows,), have the proportions of the wanted ones."""
    count = int(torch.cat([labels, wanted]).max()) + 1
    have, want = (torch.bincount(each, minlength=count).double() / len(each) for each in (labels, wanted))
    weight = (want / have.clamp_min(1 / (2 * len(labels))))[labels]
    return weight / weight.sum()


def _seen(reference: Reference, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features, (rows, features), and class probabilities, (rows, classes) float64, on the CPU; where there are no classes, of one."""
    features = features_of(images, reference.extractor)
    if not reference.classes:
        return features, torch.ones(len(features), 1, dtype=torch.float64)
    return features, log_probabilities_of(features, reference.extractor).exp().double()

"""The inputs of a metric: the images of one seed, and real images with an extractor to compare them in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from models import datasets, extractors
from models.datasets import Split
from models.device import read
from models.extractors.base import Extractor

CHUNK = 500  # images in an extractor together, to bound memory

_FITTED: dict[tuple[str, str, int | None], Extractor] = {}  # so that publication and evaluation in one process fit each once


class Explained(NamedTuple):
    """What a family that infers latents says of given images."""

    images: Tensor  # (images, channels, height, width) in [-1, 1], the ones given; `Draws.images` are their reconstructions
    anomaly: Tensor  # (images,) scores, higher where an image is stranger to the model
    strange: Tensor | None = None  # (images,) whether it is of a class that the model never saw; None if it saw all


@dataclass(frozen=True)
class Draws:
    """The images and energies that a sampler made from one seed."""

    images: Tensor  # (images, channels, height, width) in [-1, 1]
    energies: Tensor | None = None  # (ticks + 1, images) of the chains, in nats; None for `prior`, which has no chains
    explained: Explained | None = None  # where the images are reconstructions of given ones
    known: dict[Extractor, Tensor] = field(default_factory=dict)

    def features(self, extractor: Extractor) -> Tensor:
        """Of all images, (images, num_features), on the CPU; computed once for each extractor."""
        if extractor not in self.known:
            self.known[extractor] = features_of(self.images, extractor)
        return self.known[extractor]

    def log_probabilities(self, extractor: Extractor) -> Tensor:
        """Of the classes, (images, classes), on the CPU."""
        return log_probabilities_of(self.features(extractor), extractor)


class Measure(Protocol):
    """The function `measure` of a metric's file."""

    def __call__(self, draws: Draws, reference: Reference) -> dict[str, float]:
        """Figures of these draws by name; none where the metric does not apply to them."""
        ...


class Evaluator:
    """The extractors of a dataset, fitted on the split that nothing else uses, each when it is first asked for.

    They are fitted from fixed seeds, on the CPU, so that every machine and device compares in the same ones.
    """

    def __init__(self, split: Split, dataset: str, *, device: torch.device | str = "cpu", epochs: int | None = None) -> None:
        self.split, self.dataset, self.device, self.epochs = split, dataset, device, epochs
        self.names = extractors.suitable(split)

    @cached_property
    def _digest(self) -> str:
        """Of the images and labels that extractors are fitted on."""
        return hashlib.sha256(read(self.split.images).numpy().tobytes() + read(self.split.labels).numpy().tobytes()).hexdigest()

    def extractor(self, name: str) -> Extractor:
        """The extractor of that name, on the evaluator's device."""
        key = (self._digest, name, self.epochs)
        if key not in _FITTED:
            split, stacked = Split(read(self.split.images), read(self.split.labels)), datasets.stacked(self.dataset)
            _FITTED[key] = extractors.fit(name, split, self.epochs, stacked=stacked)
        return _FITTED[key].to(self.device)

    def against(self, split: Split, name: str | None = None) -> Reference:
        """What to compare with: a split's images in the extractor of that name, the first if none is named."""
        return Reference(split.images.to(self.device), split.labels.to(self.device), self, name or self.names[0])

    def references(self, split: Split) -> tuple[Reference, ...]:
        """The same images in each extractor."""
        return tuple(self.against(split, name) for name in self.names)

    def describe(self, name: str) -> str:
        """An extractor and what it was fitted on; figures are comparable within one description only."""
        rounds = "" if self.epochs is None else f", {self.epochs} epochs"
        return f"{self.dataset} {name}, {len(self.split.images)} images{rounds}"


@dataclass(frozen=True)
class Reference:
    """Real images that samples are compared with, and what compares them."""

    images: Tensor  # (images, channels, height, width) in [-1, 1]
    labels: Tensor  # (images,) int64
    evaluator: Evaluator
    name: str  # of the extractor
    kept: dict[str, Tensor] = field(default_factory=dict)  # what metrics compute from the reference alone

    @cached_property
    def extractor(self) -> Extractor:
        return self.evaluator.extractor(self.name)

    @property
    def description(self) -> str:
        """What measured a figure."""
        return self.evaluator.describe(self.name)

    @cached_property
    def features(self) -> Tensor:
        """Of all images, (images, num_features), on the CPU."""
        return features_of(self.images, self.extractor)

    @property
    def classes(self) -> int:
        """How many classes the extractor tells apart; 0 if fewer than two."""
        return self.extractor.classes if self.extractor.classes > 1 else 0

    def once(self, key: str, compute: Callable[[], Tensor]) -> Tensor:
        """What `compute` gives, computed at the first call with that key."""
        if key not in self.kept:
            self.kept[key] = compute()
        return self.kept[key]


def features_of(images: Tensor, extractor: Extractor) -> Tensor:
    """Chunk by chunk, then on the CPU, where statistics are computed: (rows, channels, height, width) to (rows, num_features)."""
    with torch.no_grad():
        return torch.cat([read(extractor(part)) for part in images.split(CHUNK)])


def log_probabilities_of(features: Tensor, extractor: Extractor) -> Tensor:
    """Features on the CPU, (rows, num_features), to log-probabilities of the classes on the CPU, (rows, classes)."""
    place = next((tensor.device for tensor in (*extractor.parameters(), *extractor.buffers())), features.device)
    with torch.no_grad():
        return read(extractor.log_probabilities(features.to(place)))

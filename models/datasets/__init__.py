"""Real images, one dataset a file: the folder is the registry, and a dataset is imported only when it is used."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from models import registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_NAMES = registry.names(__path__)
SPLITS = ("train", "validation", "test", "evaluator")
HERE = Path("data/datasets")  # where users put data that no package brings


class Split(NamedTuple):
    """Some images of a dataset and their classes."""

    images: Tensor  # (images, channels, height, width) in [-1, 1]
    labels: Tensor  # (images,) int64; zeros where the dataset has no classes

    def to(self, device: torch.device) -> Split:
        """The same images and labels on a device."""
        return Split(self.images.to(device), self.labels.to(device))

    def first(self, count: int) -> Split:
        """The first images of the split; splits are shuffled, so these are a fair sample."""
        return Split(self.images[:count], self.labels[:count])


class Splits(NamedTuple):
    """A dataset cut once and for all by a fixed seed into four parts that share no image, each with one use."""

    train: Split  # fits the networks and the density ratio
    validation: Split  # chooses: the best weights of a run, whether a calibration is kept, kernel settings
    test: Split  # is only ever reported
    evaluator: Split  # fits the feature networks that metrics compare in

    def to(self, device: torch.device) -> Splits:
        """The same images and labels on a device."""
        return Splits(*(split.to(device) for split in self))

    @property
    def classes(self) -> int:
        """How many classes the labels tell apart; 1 where there are none."""
        return max(int(split.labels.max()) for split in self) + 1


def names() -> tuple[str, ...]:
    """Every dataset there is, by the name of its file."""
    return _NAMES


def load(name: str, root: Path = HERE) -> Splits:
    """The dataset of that name, on the CPU; `root` holds what no package brings. Raises ValueError for an unknown name."""
    kind, _, detail = name.partition(":")
    if kind not in names():
        raise ValueError(f"unknown dataset {name!r}; there are: {', '.join(names())}")
    module = importlib.import_module(f"{__name__}.{kind.replace('-', '_')}")
    splits: Splits = module.load(root, detail)
    return splits


def split(images: Tensor, labels: Tensor, *, validation: int, test: int, evaluator: int) -> Splits:
    """So many images for each part after a shuffle with a fixed seed; the rest is `train`."""
    import torch

    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    parts = order.split([len(images) - validation - test - evaluator, validation, test, evaluator])
    return Splits(*(Split(images[rows], labels[rows]) for rows in parts))

"""Real images, one dataset a file: the folder is the registry, and a dataset is imported only when it is used."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from models import registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_NAMES = registry.names(__path__)
SPLITS = ("train", "validation", "test", "evaluator")
HERE = Path("data/datasets")  # where users put data that no package brings
POINT = (1, 1, 2)  # the shape of an image that is a point of the plane


class DatasetUnavailable(Exception):
    """The files of a dataset are missing or broken; the message says what to install or where to put them."""


class Detail(NamedTuple):
    """What may follow the colon in the name of a dataset; a dataset's file names it `DETAIL`, or takes none."""

    shown: str  # as choices and messages show it
    pattern: str  # a regular expression that all of the detail matches
    required: bool = False


class Points(NamedTuple):
    """What a dataset of points in the plane is; its file names it `POINTS`. A point is an image of its place / scale."""

    scale: float
    centres: tuple[tuple[float, float], ...] = ()  # of equally likely round Gaussians, in the order of their labels; none elsewhere
    spread: float = 0.0  # their standard deviation


class Outline(NamedTuple):
    """How large a dataset is, known without its files; a file has a constant `OUTLINE`, or a function `outline` of the detail."""

    image_shape: tuple[int, int, int]  # channels, height, width
    images: int = 0  # of all parts together; 0 where it is not known
    classes: int | None = None  # 1 where there are none; None where it is not known


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
    """Every kind of dataset, by the name of its file."""
    return _NAMES


def choices() -> tuple[str, ...]:
    """What names of datasets look like: `digits`, `mnist`, `mnist:without-CLASS`, `folder:NAME`. Imports every dataset."""
    shown: list[str] = []
    for kind in names():
        detail = _detail(kind)
        shown += [] if detail and detail.required else [kind]
        shown += [f"{kind}:{detail.shown}"] if detail else []
    return tuple(shown)


def pattern() -> str:
    """A regular expression that the names of all datasets match and nothing else. Imports every dataset."""
    kinds = []
    for kind in names():
        detail = _detail(kind)
        kinds.append(f"{kind}(:({detail.pattern})){'' if detail.required else '?'}" if detail else kind)
    return f"^({'|'.join(kinds)})$"


def is_name(name: str) -> bool:
    """Whether there is a dataset of that name, though perhaps not its files here."""
    kind, colon, given = name.partition(":")
    if kind not in names():
        return False
    detail = _detail(kind)
    if not colon:
        return not (detail and detail.required)
    return detail is not None and re.fullmatch(detail.pattern, given) is not None


def points(name: str) -> Points | None:
    """Scale and modes of a dataset of points in the plane; None for images."""
    found: Points | None = getattr(_module(name.partition(":")[0]), "POINTS", None)
    return found


def stacked(name: str) -> int | None:
    """Classes of each channel of a dataset that stacks pictures as channels, its file's `STACKED`; None for any other."""
    kind = name.partition(":")[0]
    found: int | None = getattr(_module(kind), "STACKED", None) if kind in names() else None
    return found


def outline(name: str) -> Outline:
    """How large the images of that name are and how many there are. Imports no torch."""
    kind, _, detail = name.partition(":")
    module = _module(kind)
    found: Outline = module.outline(detail) if hasattr(module, "outline") else module.OUTLINE
    return found


def load(name: str, root: Path = HERE) -> Splits:
    """The dataset of that name, `kind` or `kind:detail`, on the CPU; `root` is the folder of what no package brings.

    Raises ValueError for an unknown name, DatasetUnavailable if its files are missing or broken.
    """
    if not is_name(name):
        raise ValueError(f"unknown dataset {name!r}; there are: {', '.join(choices())}")
    kind, _, detail = name.partition(":")
    splits: Splits = _module(kind).load(root, detail)
    return splits


def split(images: Tensor, labels: Tensor, *, validation: int, test: int, evaluator: int) -> Splits:
    """So many images for each part after a shuffle with a fixed seed; the rest is `train`."""
    import torch

    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    parts = order.split([len(images) - validation - test - evaluator, validation, test, evaluator])
    return Splits(*(Split(images[rows], labels[rows]) for rows in parts))


def _module(kind: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{kind.replace('-', '_')}")


def _detail(kind: str) -> Detail | None:
    detail: Detail | None = getattr(_module(kind), "DETAIL", None)
    return detail

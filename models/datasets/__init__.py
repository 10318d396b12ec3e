"""Real images, one dataset a file: the folder is the registry, and a dataset is imported only when it is used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NamedTuple

from models import registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_NAMES = registry.names(__path__)


class Images(NamedTuple):
    """A dataset split once and for all, values in [-1, 1]."""

    train: Tensor  # (images, channels, height, width)
    train_labels: Tensor  # (images,)
    held_out: Tensor
    held_out_labels: Tensor

    def to(self, device: torch.device) -> Images:
        """The same images and labels on a device."""
        return Images(*(tensor.to(device) for tensor in self))


def names() -> tuple[str, ...]:
    """Every dataset there is, by the name of its file."""
    return _NAMES


def load(name: str) -> Images:
    """The dataset of that name, on the CPU. Raises ValueError for an unknown name."""
    if name not in names():
        raise ValueError(f"unknown dataset {name!r}; there are: {', '.join(names())}")
    images: Images = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").load()
    return images


def split(images: Tensor, labels: Tensor, *, every: int = 5) -> Images:
    """Holds out every fifth image, after a shuffle with a fixed seed."""
    import torch

    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    held_out = torch.arange(len(images)) % every == 0
    kept, out = order[~held_out], order[held_out]
    return Images(images[kept], labels[kept], images[out], labels[out])

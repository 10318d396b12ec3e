"""Real images, one dataset a file: the folder is the registry, and a dataset is imported only when it is used."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Images(NamedTuple):
    """A dataset split once and for all, values in [-1, 1]."""

    train: Tensor  # (images, channels, height, width)
    train_labels: Tensor  # (images,)
    held_out: Tensor
    held_out_labels: Tensor


def names() -> tuple[str, ...]:
    """Every dataset that can be named."""
    return tuple(sorted(file.name for file in pkgutil.iter_modules(__path__)))


def load(name: str) -> Images:
    """The dataset of that name. Raises ValueError where there is none."""
    if name not in names():
        raise ValueError(f"unknown dataset {name!r}; there are: {', '.join(names())}")
    images: Images = importlib.import_module(f"{__name__}.{name}").load()
    return images


def split(images: Tensor, labels: Tensor, *, every: int = 5) -> Images:
    """Holds out every fifth image, after a shuffle that is the same for ever."""
    import torch

    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    held_out = torch.arange(len(images)) % every == 0
    kept, out = order[~held_out], order[held_out]
    return Images(images[kept], labels[kept], images[out], labels[out])

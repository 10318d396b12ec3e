"""Networks that metrics compare images in, one a file: fitted on the `evaluator` split alone. Imports datasets and descent."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from models import registry

if TYPE_CHECKING:
    from models.datasets import Split
    from models.extractors.base import Extractor

_NAMES = registry.names(__path__)
POINT = (1, 1, 2)  # an image shape: points of the plane


def names() -> tuple[str, ...]:
    """Every extractor there is, by the name of its file."""
    return _NAMES


def suitable(split: Split) -> tuple[str, ...]:
    """The extractors for such images; the first one is that of `distance`, and no two have an architecture or objective in common."""
    if split.images.shape[1:] == POINT:
        return ("coordinates",)
    if int(split.labels.max()) == 0:
        return ("autoencoder", "components")
    return ("convolutional", "perceptron")


def fit(name: str, split: Split, epochs: int | None = None) -> Extractor:
    """The extractor of that name, fitted on a split of the CPU by its own schedule or for so many epochs, in eval mode."""
    fitted: Extractor = importlib.import_module(f"{__name__}.{name}").fit(split, epochs)
    return fitted.eval().requires_grad_(False)

"""Networks that metrics compare images in, one a file: fitted on the `evaluator` split alone. Imports datasets and descent."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from models.datasets import POINT

if TYPE_CHECKING:
    from models.datasets import Split
    from models.extractors.base import Extractor


def suitable(split: Split) -> tuple[str, ...]:
    """The extractors for such images, by name; the first is that of `distance`, and no two share architecture or objective."""
    if split.images.shape[1:] == POINT:
        return ("waves", "coordinates")
    if int(split.labels.max()) == 0:
        return ("autoencoder", "components")
    return ("convolutional", "perceptron")


def fit(name: str, split: Split, epochs: int | None = None, *, stacked: int | None = None) -> Extractor:
    """The extractor of that name, fitted on a split of the CPU by its own schedule or for so many epochs, in eval mode.

    `stacked` says that channels are pictures of their own, of so many classes each.
    """
    file = importlib.import_module(f"{__name__}.{name}")
    if stacked is not None:
        from models.extractors import stacked as stacking

        return stacking.fit(lambda single: file.fit(single, epochs), split, stacked).eval().requires_grad_(False)
    fitted: Extractor = file.fit(split, epochs)
    return fitted.eval().requires_grad_(False)

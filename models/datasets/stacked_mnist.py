"""Stacked MNIST (Metz et al. 2017): three random digits of `mnist` as the red, green and blue of an image, which makes 1,000 modes.

The three digits come from the same part of `mnist`, so parts share no digit.
"""

from pathlib import Path

from models.datasets import Outline, Split, Splits
from models.datasets import load as dataset

OUTLINE = Outline((3, 28, 28), 55_000, 1000)
STACKED = 10  # classes of each channel
COUNTS = (30_000, 5_000, 10_000, 10_000)  # images of train, validation, test and evaluator


def load(root: Path, detail: str) -> Splits:
    """(images, 3, 28, 28), labels 100 red + 10 green + blue: 30,000 to train, 5,000 for validation, 10,000 for each other part."""
    import torch

    random = torch.Generator().manual_seed(0)
    parts = []
    for digits, count in zip(dataset("mnist", root), COUNTS, strict=True):
        rows = torch.randint(len(digits.images), (count, 3), generator=random)
        parts.append(Split(digits.images[rows].squeeze(2), digits.labels[rows] @ torch.tensor([100, 10, 1])))
    return Splits(*parts)

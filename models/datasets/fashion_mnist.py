"""Fashion-MNIST (Xiao et al. 2017): 70,000 pictures of ten kinds of clothes, 28×28 pixels, from the original idx files.

The files are those of Debian's package `dataset-fashion-mnist` or of a folder of the user's, packed (`.gz`) or not. An idx file begins
with two zero bytes, its type (8 for unsigned bytes), its number of dimensions and their sizes as big-endian 32-bit integers.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from models.datasets import DatasetUnavailable, Outline, Split, Splits
from models.datasets.base import WITHOUT, found, official, tensor, unpacked

if TYPE_CHECKING:
    from torch import Tensor

OUTLINE = Outline((1, 28, 28), 70_000, 10)
DETAIL = WITHOUT
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
UNSIGNED_BYTES = 8
MOST = 1 << 28  # bytes of a file


def load(root: Path, detail: str) -> Splits:
    """(images, 1, 28, 28): 50,000 to train, 4,000 for validation, 6,000 for the evaluator; the 10,000 official test images.

    Raises DatasetUnavailable if the files are missing or broken.
    """
    here = root / "fashion-mnist"
    places = [(folder, suffix) for folder in (here, DEBIAN) for suffix in ("", ".gz")]
    folder, suffix = next(((folder, suffix) for folder, suffix in places if (folder / (NAMES[0] + suffix)).is_file()), (here, ".gz"))
    advice = f"install Debian's package dataset-fashion-mnist, or put {', '.join(NAMES)} (.gz or unpacked) into {here.absolute()}"
    paths = found("fashion-mnist", folder, [name + suffix for name in NAMES], advice)
    return official(_split(*paths[:2]), _split(*paths[2:]), detail)


def _split(images: Path, labels: Path) -> Split:
    pixels, classes = idx(images, 3), idx(labels, 1)
    if len(pixels) != len(classes):
        raise DatasetUnavailable(f"{images} has {len(pixels)} images and {labels} has {len(classes)} labels")
    return Split(pixels.unsqueeze(1), classes.long())


def idx(path: Path, dimensions: int) -> Tensor:
    """The unsigned bytes of an idx file with so many dimensions. Raises DatasetUnavailable if it is none."""
    content = unpacked(path, MOST)
    start = 4 + 4 * dimensions
    shape = [int.from_bytes(content[place : place + 4], "big") for place in range(4, start, 4)]
    if content[:4] != bytes((0, 0, UNSIGNED_BYTES, dimensions)) or len(content) != start + math.prod(shape) or not math.prod(shape):
        raise DatasetUnavailable(f"{path} is not an idx file of unsigned bytes in {dimensions} dimensions")
    return tensor(content[start:], *shape)

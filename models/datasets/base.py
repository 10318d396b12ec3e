"""What the files of several datasets share: pixels to [-1, 1], cuts of published sets, a class left out, files that are read with care."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from models.datasets import DatasetUnavailable, Detail, Points, Split, Splits, split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

GZIP = 31  # zlib's window bits for gzip
DRAWN = 100_000  # points of a dataset of points
WITHOUT = Detail("without-CLASS", "without-[0-9]")  # the detail of a dataset with ten classes


def official(train: Split, test: Split, detail: str = "") -> Splits:
    """The published training images cut into 5/6 for `train`, 1/15 for `validation` and 1/10 for `evaluator`; the published test images.

    Pixels are uint8 and become [-1, 1]. A detail `without-CLASS` applies.
    Of equal images only the first counts, those of the test set first.
    """
    import torch

    fresh = [row - len(test.images) for row in distinct(torch.cat((test.images, train.images))) if row >= len(test.images)]
    parts = split(train.images[fresh], train.labels[fresh], validation=len(fresh) // 15, test=0, evaluator=len(fresh) // 10)
    return scaled(without(parts._replace(test=shuffled(test)), detail))


def shuffled(part: Split) -> Split:
    """The same images in an order fixed by a seed."""
    return split(*part, validation=0, test=0, evaluator=0).train


def distinct(images: Tensor) -> list[int]:
    """The rows of all images that no earlier one equals; so no two parts share an image."""
    digests = [hashlib.sha256(image).digest() for image in images.numpy()]
    first = {digest: row for row, digest in reversed([*enumerate(digests)])}
    return sorted(first.values())


def scaled(splits: Splits) -> Splits:
    """Pixels 0 to 255 as float32 in [-1, 1]."""
    return Splits(*(Split(part.images.float().div_(127.5).sub_(1), part.labels.long()) for part in splits))


def without(splits: Splits, detail: str) -> Splits:
    """`without-CLASS` takes a class out of `train` and `validation`, for anomaly detection; `test` and `evaluator` keep all classes."""
    if not detail:
        return splits
    left_out = int(detail.removeprefix("without-"))
    train, validation = (
        Split(part.images[part.labels != left_out], part.labels[part.labels != left_out]) for part in (splits.train, splits.validation)
    )
    return splits._replace(train=train, validation=validation)


def gaussians(points: Points) -> Splits:
    """100,000 points of the mixture with equal weights, labelled by mode, at a scale of [-1, 1]."""
    import torch

    random = torch.Generator().manual_seed(0)
    labels = torch.randint(len(points.centres), (DRAWN,), generator=random)
    places = torch.tensor(points.centres)[labels] + points.spread * torch.randn(DRAWN, 2, generator=random)
    return drawn(places / points.scale, labels)


def drawn(places: Tensor, labels: Tensor) -> Splits:
    """Points (points, 2) as images (points, 1, 1, 2): 70 % to train, 5 % for validation, 15 % to test, 10 % for the evaluator."""
    count = len(places)
    return split(places.reshape(count, 1, 1, 2), labels, validation=count // 20, test=3 * count // 20, evaluator=count // 10)


def found(dataset: str, folder: Path, names: Sequence[str], advice: str) -> list[Path]:
    """The files of these names in a folder. Raises DatasetUnavailable with the advice where one is missing."""
    paths = [folder / name for name in names]
    if not all(path.is_file() for path in paths):
        raise DatasetUnavailable(f"{dataset} is not on this machine: {advice}")
    return paths


def unpacked(path: Path, most: int) -> bytes:
    """The content of a file, unpacked if its name ends in `.gz`. Raises DatasetUnavailable if it is broken or longer than `most` bytes."""
    try:
        content = path.read_bytes() if path.suffix != ".gz" else zlib.decompressobj(GZIP).decompress(path.read_bytes(), most + 1)
    except (OSError, zlib.error) as error:
        raise DatasetUnavailable(f"{path} cannot be read: {error}") from error
    if len(content) > most:
        raise DatasetUnavailable(f"{path} is longer than {most} bytes")
    return content


def tensor(values: bytes, *shape: int) -> Tensor:
    """uint8 values as a tensor of that shape."""
    import torch

    return torch.frombuffer(bytearray(values), dtype=torch.uint8).reshape(shape)

"""What the files of several datasets share: pixels to [-1, 1], cuts of published sets, a class left out, files that are read with care."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from models.datasets import DatasetUnavailable, Detail, Split, Splits, split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

WITHOUT = Detail("without-CLASS", "without-[0-9]")  # the detail of a dataset with ten classes


def official(train: Split, test: Split, detail: str = "") -> Splits:
    """The published training images cut into 5/6 for `train`, 1/15 for `validation` and 1/10 for `evaluator`; the published test images.

    Pixels are uint8 and become [-1, 1]. A detail `without-CLASS` applies. A training image that is in the test set too is dropped.
    """
    seen = {image.tobytes() for image in test.images.numpy()}
    rows = []
    for row, image in enumerate(train.images.numpy()):
        if (pixels := image.tobytes()) not in seen:
            seen.add(pixels)
            rows.append(row)
    count, kept = len(rows), Split(*train) if len(rows) == len(train.images) else Split(train.images[rows], train.labels[rows])
    parts = split(*kept, validation=count // 15, test=0, evaluator=count // 10)
    shuffled = split(*test, validation=0, test=len(test.images), evaluator=0).test
    return scaled(without(parts._replace(test=shuffled), detail))


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


def found(dataset: str, folders: Sequence[Path], names: Sequence[str], advice: str) -> list[Path]:
    """The files of these names from the first folder that has all of them. Raises DatasetUnavailable with the advice where none has."""
    for folder in folders:
        if all((folder / name).is_file() for name in names):
            return [folder / name for name in names]
    raise DatasetUnavailable(f"{dataset} is not on this machine: {advice}")


def unpacked(path: Path, most: int) -> bytes:
    """The content of a file, unpacked if its name ends in `.gz`. Raises DatasetUnavailable if it is broken or longer than `most` bytes."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetUnavailable(f"{path} cannot be read: {error}") from error
    if len(content) > most:
        raise DatasetUnavailable(f"{path} is longer than {most} bytes")
    return content


def tensor(values: bytes, *shape: int) -> Tensor:
    """uint8 values as a tensor of that shape."""
    import torch

    return torch.frombuffer(bytearray(values), dtype=torch.uint8).reshape(shape)

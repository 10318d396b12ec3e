"""CIFAR-10 (Krizhevsky 2009): 60,000 colour pictures of ten classes, 32×32 pixels, from the original binary version.

A file of `cifar-10-batches-bin` is a row of records of 3,073 bytes: the class, then 1,024 bytes each of red, green and blue.
The version for Python is pickled, and pickles can run code, so it is never read.
"""

from pathlib import Path

from models.datasets import DatasetUnavailable, Outline, Split, Splits
from models.datasets.base import WITHOUT, found, official, tensor, unpacked

OUTLINE = Outline((3, 32, 32), 60_000, 10)
DETAIL = WITHOUT
FOLDER = "cifar-10-batches-bin"
NAMES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
RECORD = 1 + 3 * 32 * 32  # bytes
MOST = 1 << 28  # bytes of a file


def load(root: Path, detail: str) -> Splits:
    """(images, 3, 32, 32): of the 50,000 training images 5/6 train, 1/15 validate, 1/10 are the evaluator's; the official test images.

    Raises DatasetUnavailable if the files are missing or broken.
    """
    here = root / "cifar10" / FOLDER
    advice = f"unpack the binary version, cifar-10-binary.tar.gz, so that {', '.join(NAMES)} are in {here.absolute()}"
    *train, test = found("cifar10", here, NAMES, advice)
    return official(_split(train), _split([test]), detail)


def _split(paths: list[Path]) -> Split:
    records = tensor(b"".join(map(_records, paths)), -1, RECORD)
    return Split(records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].long())


def _records(path: Path) -> bytes:
    content = unpacked(path, MOST)
    if not content or len(content) % RECORD or max(content[::RECORD]) > 9:
        raise DatasetUnavailable(f"{path} is not a file of CIFAR-10's binary version")
    return content

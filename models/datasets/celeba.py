"""CelebA (Liu et al. 2015), aligned and cropped: 202,599 faces, 178×218 pixels, cut to the square in the middle and scaled to 64×64.

Reads the folder `img_align_celeba` or the file `img_align_celeba.zip` in `<root>/celeba`. `list_eval_partition.txt`, if it is there, says
which images train (0), validate (1) and test (2). All images take 13 GB of memory; `celeba:COUNT` draws so many of them by a fixed seed.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import ZipFile

from models.datasets import DatasetUnavailable, Detail, Outline, Split, Splits, split
from models.datasets.base import scaled, shuffled
from models.datasets.folder import decoded, images_in, middle, opened, tenths

if TYPE_CHECKING:
    from torch import Tensor

DETAIL = Detail("COUNT", "[1-9][0-9]{1,5}")
FOLDER, LIST = "img_align_celeba", "list_eval_partition.txt"
SIDE = 64
ALL = 202_599  # images
MOST_BYTES = 1 << 24  # of an image in the archive
TRAIN, VALIDATION, TEST = range(3)  # as the list numbers the parts


def outline(detail: str) -> Outline:
    """Of all images, or of so many."""
    return Outline((3, SIDE, SIDE), int(detail or ALL), 1)


def load(root: Path, detail: str) -> Splits:
    """(images, 3, 64, 64), no classes: the official parts, of which `evaluator` gets a tenth of the images to train.

    Without the list: 60 % to train, 10 % for validation, 20 % to test, 10 % for the evaluator.
    Raises DatasetUnavailable for missing and for broken files, which it names.
    """
    here = root / "celeba"
    names, content = source(here)
    names = drawn(names, int(detail)) if detail else names
    numbers = partition(here / LIST, names)

    def read(name: str) -> Tensor:
        with opened(BytesIO(content(name)), str(here / FOLDER / name)) as image:
            return middle(image, SIDE, "RGB")

    faces = decoded(here, names, numbers or [TRAIN] * len(names), read=read)
    return scaled(official(faces) if numbers else tenths(faces))


def source(here: Path) -> tuple[list[str], Callable[[str], bytes]]:
    """The names of the images, in order, and what reads the file of a name."""
    if (here / FOLDER).is_dir():
        return [path.name for path in images_in(here / FOLDER)], lambda name: (here / FOLDER / name).read_bytes()
    path = here / f"{FOLDER}.zip"
    if not path.is_file():
        raise DatasetUnavailable(f"celeba is not on this machine: put {path.name} or the folder {FOLDER} into {here.absolute()}")
    try:
        archive = ZipFile(path)
        files = {Path(file.filename).name: file for file in archive.infolist() if file.filename.endswith(".jpg")}
    except Exception as error:  # of many kinds where an archive is broken
        raise DatasetUnavailable(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    if too_long := [name for name, file in files.items() if file.file_size > MOST_BYTES]:
        raise DatasetUnavailable(f"{path}: {too_long[0]} is longer than {MOST_BYTES} bytes")

    def content(name: str) -> bytes:
        try:
            return archive.read(files[name])
        except Exception as error:
            raise DatasetUnavailable(f"{path}: {name} cannot be read: {type(error).__name__}: {error}") from error

    return sorted(files), content


def drawn(names: list[str], count: int) -> list[str]:
    """So many of the names, or all if there are fewer, in their order."""
    import torch

    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(0))
    return [names[row] for row in sorted(order[:count].tolist())]


def partition(path: Path, names: list[str]) -> list[int]:
    """The number of the part that each image is in; nothing where there is no list."""
    if not path.is_file():
        return []
    try:
        numbers = {name: int(number) for name, number in (line.split() for line in path.read_text().splitlines() if line)}
        found = [numbers[name] for name in names]
    except (OSError, ValueError, KeyError) as error:
        raise DatasetUnavailable(f"{path} does not list every image with the number of its part: {error}") from error
    if set(found) != {TRAIN, VALIDATION, TEST}:
        raise DatasetUnavailable(f"{path} must give images to each of the parts 0, 1 and 2 and to no other")
    return found


def official(faces: Split) -> Splits:
    """The parts that the labels number."""
    import torch

    train, validation, test = (
        Split(faces.images[faces.labels == part], torch.zeros(int((faces.labels == part).sum()), dtype=torch.int64))
        for part in (TRAIN, VALIDATION, TEST)
    )
    parts = split(*train, validation=0, test=0, evaluator=len(train.images) // 10)
    return parts._replace(validation=shuffled(validation), test=shuffled(test))

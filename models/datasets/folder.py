"""A folder of the user's images, with or without one folder a class: `folder:NAME` reads `<root>/NAME`.

Images that are all square and of one size of at most 128 pixels stay as they are. Others are scaled until the short side has 64 pixels,
or SIDE in `folder:NAME:SIDE`, and cut to the square in the middle. Where all images are grey they have one channel, else three.
Transparent parts become white. Of equal images only the first counts, so that no two parts share one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, TypeVar

from models.datasets import DatasetUnavailable, Detail, Outline, Split, Splits, split
from models.datasets.base import distinct, scaled

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

File = TypeVar("File")

SIDES = "[89]|[1-9][0-9]|1[0-9]{2}|2[0-4][0-9]|25[0-6]"  # 8 to 256
DETAIL = Detail("NAME[:SIDE]", rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,63}}(:({SIDES}))?", required=True)
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
GREY = {"1", "L", "LA"}
DEEP = ("I", "F")  # modes that begin so have more than eight bits a channel
LARGEST_KEPT = 128  # pixels: the side of square images that are not scaled
SIDE = 64
MOST_PIXELS = 1 << 26  # of an image; a small file can claim billions
FEWEST = 20  # images, so that no part is empty


class Shape(NamedTuple):
    """What the header of an image file says."""

    width: int
    height: int
    grey: bool


def outline(detail: str) -> Outline:
    """The largest that images can be where no side is named; how many there are and of how many classes is not known without the files."""
    side = int(detail.partition(":")[2] or LARGEST_KEPT)
    return Outline((3, side, side))


def load(root: Path, detail: str) -> Splits:
    """(images, 1 or 3, side, side), cut by `tenths`. Labels number the class folders in the order of their names.

    Raises DatasetUnavailable for a missing folder and for a broken file, which it names.
    """
    name, _, side = detail.partition(":")
    here = root / name
    paths, labels = listed(here)
    with ThreadPoolExecutor() as pool:
        shapes = set(pool.map(shape, paths))
    wanted = int(side) if side else natural_side(shapes)
    images = decoded(here, paths, labels, read=square(wanted, "L" if all(each.grey for each in shapes) else "RGB"))
    return scaled(tenths(images))


def tenths(images: Split) -> Splits:
    """Cut into 60 % to train, 10 % for validation, 20 % to test, 10 % for the evaluator."""
    tenth = len(images.labels) // 10
    return split(*images, validation=tenth, test=2 * tenth, evaluator=tenth)


def listed(here: Path) -> tuple[list[Path], list[int]]:
    """The image files of a folder or of its class folders, in the order of their names, and their classes; other files do not count."""
    if not here.is_dir():
        raise DatasetUnavailable(f"there is no folder {here.absolute()}: put images there, or a folder of images for each class")
    own, folders = images_in(here), sorted(path for path in here.iterdir() if path.is_dir() and not path.name.startswith("."))
    if own and folders:
        raise DatasetUnavailable(f"{here.absolute()} has both images and folders; put all images into folders, one a class, or none")
    classes = [images_in(folder) for folder in folders] or [own]
    empty = [folder for folder, found in zip(folders or [here], classes, strict=True) if not found]
    if empty:
        raise DatasetUnavailable(f"{empty[0].absolute()} holds no image file; images end in {', '.join(sorted(SUFFIXES))}")
    return [path for found in classes for path in found], [label for label, found in enumerate(classes) for _ in found]


def images_in(folder: Path) -> list[Path]:
    """Image files directly in a folder, by their endings."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != "." and path.is_file())


def natural_side(shapes: set[Shape]) -> int:
    """The side of the images where all are square and of one small size, else 64."""
    sizes = {(each.width, each.height) for each in shapes}
    width, height = sizes.pop()
    return width if not sizes and width == height <= LARGEST_KEPT else SIDE


@contextmanager
def opened(file: Path | IO[bytes], name: str) -> Iterator[Image.Image]:
    """An image file under way to pixels. Raises DatasetUnavailable with its name where it is broken, too large or not an image."""
    from PIL import Image

    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"{image.width}×{image.height} pixels are too many")
            if image.mode.startswith(DEEP):
                raise ValueError("it has more than 8 bits a channel")
            yield image
    except Exception as error:  # Pillow raises many kinds for broken files
        raise DatasetUnavailable(f"{name} cannot be read as an image: {type(error).__name__}: {error}") from error


def shape(path: Path) -> Shape:
    """Size and kind of an image file, from its header."""
    with opened(path, str(path)) as image:
        return Shape(*image.size, image.mode in GREY)


def square(side: int, mode: str) -> Callable[[Path], Tensor]:
    """Reads a file as uint8 (channels, side, side)."""

    def read(path: Path) -> Tensor:
        with opened(path, str(path)) as image:
            return middle(image, side, mode)

    return read


def middle(image: Image.Image, side: int, mode: str) -> Tensor:
    """The square in the middle of an image, scaled to uint8 (channels, side, side); mode `L` or `RGB`."""
    import numpy as np
    import torch
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(image)
    if upright.has_transparency_data:
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
    short = min(upright.size)
    left, top = (upright.width - short) // 2, (upright.height - short) // 2
    resized = upright.convert(mode).resize((side, side), Image.Resampling.LANCZOS, box=(left, top, left + short, top + short))
    return torch.from_numpy(np.array(resized)).reshape(side, side, -1).permute(2, 0, 1).contiguous()


def decoded(here: Path, files: Sequence[File], labels: Sequence[int], *, read: Callable[[File], Tensor]) -> Split:
    """The images that `read` makes of files, and their labels; of equal images only the first.

    Raises DatasetUnavailable for a folder with too few images to cut and for a broken file.
    """
    import torch

    if not files:
        raise DatasetUnavailable(f"{here.absolute()} has no images")
    with ThreadPoolExecutor() as pool:
        images = torch.stack(list(pool.map(read, files)))
    rows = distinct(images)
    if len(rows) < FEWEST:
        raise DatasetUnavailable(f"{here.absolute()} has {len(rows)} different images; at least {FEWEST} are needed")
    return Split(images[rows], torch.tensor(labels)[rows])

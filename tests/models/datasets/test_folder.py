"""`folder:NAME`: sizes, colours, classes, and pictures that somebody made to do harm."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models import datasets
from models.datasets import DatasetUnavailable
from tests.models.datasets.originals import picture, pictures


def every(root: Path, detail: str) -> torch.Tensor:
    """The images of all parts as bytes, in no order."""
    return torch.cat([((part.images + 1) * 127.5).round().byte() for part in datasets.load(f"folder:{detail}", root)])


def rows(images: torch.Tensor) -> set[bytes]:
    return {image.tobytes() for image in images.numpy()}


def test_square_images_of_one_small_size_stay_as_they_are(tmp_path: Path) -> None:
    pictures(tmp_path / "a", size=(48, 48))
    images = every(tmp_path, "a")
    assert images.shape == (30, 3, 48, 48)
    assert rows(images) == {np.asarray(picture(number, 48, 48)).transpose(2, 0, 1).tobytes() for number in range(30)}


@pytest.mark.parametrize(
    ("size", "detail", "side"), [((48, 32), "a", 64), ((129, 129), "a", 64), ((48, 48), "a:16", 16), ((32, 8), "a:8", 8)]
)
def test_other_images_become_squares(size: tuple[int, int], detail: str, side: int, tmp_path: Path) -> None:
    pictures(tmp_path / "a", size=size)
    assert every(tmp_path, detail).shape == (30, 3, side, side)


def test_images_of_two_sizes_become_squares(tmp_path: Path) -> None:
    pictures(tmp_path / "a", size=(32, 32))
    pictures(tmp_path / "a", size=(48, 48), first=30, count=5)
    assert every(tmp_path, "a").shape == (35, 3, 64, 64)


def test_a_wide_image_keeps_its_middle(tmp_path: Path) -> None:
    pictures(tmp_path / "a")
    wide = Image.new("RGB", (24, 8), "red")
    wide.paste("blue", (8, 0, 16, 8))
    wide.save(tmp_path / "a" / "wide.bmp")
    blue = np.broadcast_to(np.array([0, 0, 255], np.uint8)[:, None, None], (3, 8, 8)).tobytes()
    assert blue in rows(every(tmp_path, "a:8"))


@pytest.mark.parametrize(("modes", "channels"), [(("L",), 1), (("1", "L", "LA"), 1), (("L", "RGB"), 3), (("RGBA", "P", "L"), 3)])
def test_grey_stays_grey_unless_one_image_has_colour(modes: tuple[str, ...], channels: int, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for number in range(30):
        picture(number, 16, 16).convert(modes[number % len(modes)]).save(tmp_path / "a" / f"{number}.png")
    assert every(tmp_path, "a").shape == (30, channels, 16, 16)


def test_what_is_transparent_becomes_white(tmp_path: Path) -> None:
    pictures(tmp_path / "a", size=(8, 8))
    Image.new("RGBA", (8, 8), (200, 10, 10, 0)).save(tmp_path / "a" / "clear.png")
    assert bytes([255] * 192) in rows(every(tmp_path, "a"))


def test_a_picture_taken_upright_is_turned(tmp_path: Path) -> None:
    pictures(tmp_path / "a", size=(8, 8))
    drawn, exif = picture(99, 8, 8), Image.Exif()
    exif[0x0112] = 6  # orientation: turn clockwise to see it upright
    drawn.save(tmp_path / "a" / "turned.png", exif=exif)
    assert np.rot90(np.asarray(drawn), -1).transpose(2, 0, 1).tobytes() in rows(every(tmp_path, "a"))


def test_class_folders_are_numbered_by_name_and_other_files_do_not_count(tmp_path: Path) -> None:
    pictures(tmp_path / "a" / "roses", count=20, size=(8, 8))
    pictures(tmp_path / "a" / "asters", count=20, size=(8, 8), first=20)
    (tmp_path / "a" / "LICENSE.txt").write_text("free")
    (tmp_path / "a" / ".cache").mkdir()
    (tmp_path / "a" / "roses" / ".hidden.png").write_text("not an image")
    asters = {np.asarray(picture(number, 8, 8)).transpose(2, 0, 1).tobytes() for number in range(20, 40)}
    splits = datasets.load("folder:a", tmp_path)
    assert splits.classes == 2
    for part in splits:
        for image, label in zip(((part.images + 1) * 127.5).round().byte().numpy(), part.labels, strict=True):
            assert (image.tobytes() in asters) == (label == 0)


def test_equal_images_count_once(tmp_path: Path) -> None:
    pictures(tmp_path / "a", size=(8, 8))
    picture(3, 8, 8).save(tmp_path / "a" / "copy.webp", lossless=True)
    assert len(every(tmp_path, "a")) == 30


def refused(root: Path) -> str:
    with pytest.raises(DatasetUnavailable) as refusal:
        datasets.load("folder:a", root)
    return str(refusal.value)


def test_a_folder_that_is_no_dataset_says_why(tmp_path: Path) -> None:
    assert "there is no folder" in refused(tmp_path)
    (tmp_path / "a" / "empty").mkdir(parents=True)
    assert str(tmp_path / "a" / "empty") in refused(tmp_path)
    pictures(tmp_path / "a", count=19)
    assert "both images and folders" in refused(tmp_path)
    (tmp_path / "a" / "empty").rmdir()
    assert "19 different images" in refused(tmp_path)


def claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be so large."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(9000, 9000), (10_000, 10_000), (60_000, 60_000)])
def test_an_image_that_claims_to_be_huge_is_refused_unread(size: tuple[int, int], tmp_path: Path) -> None:
    pictures(tmp_path / "a")
    (tmp_path / "a" / "bomb.png").write_bytes(claiming(*size))
    assert str(tmp_path / "a" / "bomb.png") in refused(tmp_path)


def test_an_image_of_16_bits_is_refused(tmp_path: Path) -> None:
    pictures(tmp_path / "a")
    Image.fromarray(np.full((32, 32), 40_000, np.uint16)).save(tmp_path / "a" / "deep.png")
    message = refused(tmp_path)
    assert str(tmp_path / "a" / "deep.png") in message
    assert "8 bits" in message


def test_a_file_of_another_format_is_refused_whatever_its_name(tmp_path: Path) -> None:
    pictures(tmp_path / "a")
    picture(1, 8, 8).save(tmp_path / "a" / "vector.png", "PCX")
    assert str(tmp_path / "a" / "vector.png") in refused(tmp_path)

"""Tiny data sets in the original formats, for tests: idx, CIFAR's records, SVHN's `.mat`, CelebA's pictures."""

import gzip
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import numpy as np
from PIL import Image
from scipy.io import savemat


def random(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def idx(values: np.ndarray) -> bytes:
    """uint8 values as an idx file."""
    return bytes((0, 0, 8, values.ndim)) + b"".join(size.to_bytes(4, "big") for size in values.shape) + values.tobytes()


def fashion_mnist(root: Path, suffix: str = ".gz") -> tuple[np.ndarray, np.ndarray]:
    """60 training images and 20 test images; returns the test images and their labels."""
    folder = root / "fashion-mnist"
    folder.mkdir(parents=True)
    for seed, (part, count) in enumerate({"train": 60, "t10k": 20}.items()):
        images = random(seed).integers(0, 256, (count, 28, 28), np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        for name, values in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            content = idx(values)
            (folder / f"{name}{suffix}").write_bytes(gzip.compress(content) if suffix else content)
    return images, labels


def cifar10(root: Path) -> np.ndarray:
    """Five files of 12 records and a test file of 20; returns its records."""
    folder = root / "cifar10" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for seed, name in enumerate((*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")):
        count = 20 if name == "test_batch" else 12
        records = random(seed).integers(0, 256, (count, 3073), np.uint8)
        records[:, 0] = np.arange(count) % 10
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    return records


def svhn(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """60 training and 20 test images; returns the test images as the file has them and its labels."""
    folder = root / "svhn"
    folder.mkdir(parents=True)
    for seed, (part, count) in enumerate({"train": 60, "test": 20}.items()):
        images, labels = random(seed).integers(0, 256, (32, 32, 3, count), np.uint8), (np.arange(count, dtype=np.uint8) % 10 + 1)[:, None]
        savemat(folder / f"{part}_32x32.mat", {"X": images, "y": labels}, do_compression=True)
    return images, labels


def picture(seed: int, width: int, height: int, mode: str = "RGB") -> Image.Image:
    """A random picture."""
    bands = len(Image.new(mode, (1, 1)).getbands())
    values = random(seed).integers(0, 256, (height, width, bands), np.uint8)
    return Image.fromarray(values.squeeze(-1) if bands == 1 else values)


def celeba(root: Path, *, packed: bool = False, listed: bool = True) -> None:
    """40 faces, as a folder or an archive; the list gives the first 28 to train, then 4 and 8."""
    here = root / "celeba"
    here.mkdir(parents=True)
    files = {}
    for number in range(40):
        file = BytesIO()
        picture(number, 178, 218).save(file, "JPEG")
        files[f"{number + 1:06}.jpg"] = file.getvalue()
    if packed:
        with ZipFile(here / "img_align_celeba.zip", "w") as archive:
            for name, content in files.items():
                archive.writestr(f"img_align_celeba/{name}", content)
    else:
        (here / "img_align_celeba").mkdir()
        for name, content in files.items():
            (here / "img_align_celeba" / name).write_bytes(content)
    if listed:
        parts = [0] * 28 + [1] * 4 + [2] * 8
        (here / "list_eval_partition.txt").write_text("".join(f"{name} {part}\n" for name, part in zip(files, parts, strict=True)))


def pictures(folder: Path, *, count: int = 30, size: tuple[int, int] = (32, 32), mode: str = "RGB", first: int = 0) -> None:
    """Random pictures, `0.png` and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        picture(number, *size, mode).save(folder / f"{number}.png")

"""What holds for every dataset: four parts that share no image, in [-1, 1], the same each time; and what each file format brings."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models import datasets
from models.datasets import DatasetUnavailable, Splits
from tests.models.datasets import originals


def flowers(root: Path) -> None:
    originals.pictures(root / "flowers")


SOURCES: dict[str, Callable[[Path], object]] = {  # what lays out the files of a name
    "celeba": originals.celeba,
    "celeba:30": originals.celeba,
    "cifar10": originals.cifar10,
    "fashion-mnist": originals.fashion_mnist,
    "folder:flowers": flowers,
    "folder:flowers:16": flowers,
    "svhn": originals.svhn,
}
BROUGHT = sorted(set(datasets.names()) - {name.partition(":")[0] for name in SOURCES})  # by packages, or computed
WITHOUT = ("cifar10", "digits", "fashion-mnist", "mnist", "svhn")


def loaded(name: str, root: Path) -> Splits:
    """A dataset from tiny files."""
    if name in SOURCES:
        SOURCES[name](root)
    return datasets.load(name, root)


@pytest.mark.parametrize("name", [*SOURCES, *BROUGHT])
def test_every_dataset_keeps_the_contract(name: str, tmp_path: Path) -> None:
    splits, again = loaded(name, tmp_path), datasets.load(name, tmp_path)
    seen: set[int] = set()
    for part, same in zip(splits, again, strict=True):
        assert part.images.dtype == torch.float32
        assert part.images.is_contiguous()
        assert part.labels.dtype == torch.int64
        assert len(part.images) == len(part.labels) > 0
        assert part.images.shape[1:] == splits.train.images.shape[1:]
        assert -1 <= part.images.min() < part.images.max() <= 1
        assert torch.equal(part.images, same.images)
        assert torch.equal(part.labels, same.labels)
        own = {hash(image.tobytes()) for image in part.images.numpy()}
        assert not own & seen
        seen |= own
    assert min(int(part.labels.min()) for part in splits) >= 0


@pytest.mark.parametrize("name", [*SOURCES, *BROUGHT])
def test_an_outline_says_what_the_files_hold(name: str, tmp_path: Path) -> None:
    splits, outline = loaded(name, tmp_path), datasets.outline(name)
    shape = tuple(splits.train.images.shape[1:])
    if name.startswith("folder:"):
        assert all(real <= most for real, most in zip(shape, outline.image_shape, strict=True)), "the largest that they may be"
        assert (outline.classes, outline.images) == (None, 0)
        return
    assert (shape, splits.classes) == (outline.image_shape, outline.classes)
    if name in BROUGHT:
        assert outline.images == sum(len(part.images) for part in splits)


@pytest.mark.parametrize("name", WITHOUT)
def test_a_class_left_out_is_in_test_and_evaluator_only(name: str, tmp_path: Path) -> None:
    splits, rest = loaded(name, tmp_path), datasets.load(f"{name}:without-3", tmp_path)
    for part in ("train", "validation"):
        whole, cut = getattr(splits, part), getattr(rest, part)
        assert torch.equal(cut.images, whole.images[whole.labels != 3])
        assert torch.equal(cut.labels, whole.labels[whole.labels != 3])
    for part in ("test", "evaluator"):
        assert torch.equal(getattr(rest, part).images, getattr(splits, part).images)
    assert 3 in rest.test.labels
    assert rest.classes == splits.classes == 10


def sums(images: torch.Tensor) -> list[float]:
    """A number for each image, in order of size."""
    return sorted(images.double().flatten(1).sum(1).tolist())


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_fashion_mnist_tests_on_its_official_images(suffix: str, tmp_path: Path) -> None:
    images, labels = originals.fashion_mnist(tmp_path, suffix)
    splits = datasets.load("fashion-mnist", tmp_path)
    assert [len(part.images) for part in splits] == [50, 4, 20, 6]
    expected = torch.from_numpy(images).float().unsqueeze(1) / 127.5 - 1
    for image, label in zip(expected, labels, strict=True):
        [row] = (splits.test.images == image).flatten(1).all(1).nonzero().flatten().tolist()
        assert splits.test.labels[row] == label


def test_cifar_10_reads_red_green_and_blue_and_the_class(tmp_path: Path) -> None:
    records = originals.cifar10(tmp_path)
    test = datasets.load("cifar10", tmp_path).test
    red = torch.from_numpy(records[7, 1:1025].reshape(32, 32)).float() / 127.5 - 1
    [row] = (test.images[:, 0] == red).flatten(1).all(1).nonzero().flatten().tolist()
    assert test.labels[row] == 7
    assert torch.equal(test.images[row, 2], torch.from_numpy(records[7, 2049:].reshape(32, 32)).float() / 127.5 - 1)


def test_svhn_turns_its_images_and_calls_class_10_the_digit_0(tmp_path: Path) -> None:
    images, labels = originals.svhn(tmp_path)
    test = datasets.load("svhn", tmp_path).test
    assert labels[9] == 10
    green = torch.from_numpy(images[:, :, 1, 9].copy()).float() / 127.5 - 1
    [row] = (test.images[:, 1] == green).flatten(1).all(1).nonzero().flatten().tolist()
    assert test.labels[row] == 0


def test_a_training_image_that_is_in_the_test_set_is_dropped(tmp_path: Path) -> None:
    records = originals.cifar10(tmp_path)
    first = tmp_path / "cifar10" / "cifar-10-batches-bin" / "data_batch_1.bin"
    first.write_bytes(records[:12].tobytes())
    splits = datasets.load("cifar10", tmp_path)
    assert (len(splits.test.images), sum(len(part.images) for part in splits)) == (20, 20 + 48)


@pytest.mark.parametrize("packed", [False, True])
def test_celeba_follows_its_list(packed: bool, tmp_path: Path) -> None:
    originals.celeba(tmp_path, packed=packed)
    splits = datasets.load("celeba", tmp_path)
    assert [len(part.images) for part in splits] == [26, 4, 8, 2]
    assert splits.train.images.shape[1:] == (3, 64, 64)
    assert splits.classes == 1
    (tmp_path / "celeba" / "list_eval_partition.txt").unlink()
    unlisted = datasets.load("celeba", tmp_path)
    assert [len(part.images) for part in unlisted] == [24, 4, 8, 4]
    assert sums(torch.cat([part.images for part in unlisted])) == sums(torch.cat([part.images for part in splits]))


def test_stacked_mnist_has_three_digits_of_one_part_and_their_number() -> None:
    digits, stacked = datasets.load("mnist"), datasets.load("stacked-mnist")
    assert stacked.classes == 1000
    for single, triple in zip(digits, stacked, strict=True):
        label = {image.tobytes(): int(label) for image, label in zip(single.images.numpy(), single.labels, strict=True)}
        for image, number in zip(triple.images[:100].numpy(), triple.labels[:100].tolist(), strict=True):
            assert 100 * label[image[0].tobytes()] + 10 * label[image[1].tobytes()] + label[image[2].tobytes()] == number


@pytest.mark.parametrize("name", ["gaussians-25", "gaussians-8"])
def test_gaussians_are_where_their_modes_are(name: str) -> None:
    points, train = datasets.points(name), datasets.load(name).train
    assert points is not None
    assert train.images.shape[1:] == (1, 1, 2)
    away = (train.images.reshape(-1, 2) * points.scale - torch.tensor(points.centres)[train.labels]) / points.spread
    count, modes = len(away), len(points.centres)
    assert (away.mean(0).abs() < 4 / count**0.5).all()
    assert (away.var(0) - 1).abs().max() < 4 * (2 / count) ** 0.5
    share = train.labels.bincount(minlength=modes) / count
    assert (share - 1 / modes).abs().max() < 4 * (1 / modes * (1 - 1 / modes) / count) ** 0.5


def test_the_swiss_roll_rolls_up() -> None:
    points = datasets.points("swiss-roll")
    assert points is not None
    x, y = (datasets.load("swiss-roll").test.images.reshape(-1, 2) * points.scale).unbind(1)
    radius = torch.hypot(x, y)
    away = torch.remainder(torch.atan2(y, x) - radius + torch.pi, 2 * torch.pi) - torch.pi  # of the angle from that of the spiral
    assert radius.min() > 1.5 * torch.pi - 1.25
    assert radius.max() < 4.5 * torch.pi + 1.25
    assert (away * radius).abs().max() < 6 * 0.25 * (1 + (4.5 * torch.pi) ** 2) ** 0.5


def test_images_have_no_points() -> None:
    assert datasets.points("digits") is None


@pytest.mark.parametrize("name", ["celeba", "cifar10", "folder:flowers", "svhn"])
def test_a_dataset_that_is_not_here_says_where_to_put_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetUnavailable, match=re.escape(str(tmp_path))):
        datasets.load(name, tmp_path)


def test_fashion_mnist_names_the_package_and_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.datasets.fashion_mnist.DEBIAN", tmp_path / "nowhere")
    with pytest.raises(DatasetUnavailable, match=rf"dataset-fashion-mnist.*{re.escape(str(tmp_path / 'fashion-mnist'))}"):
        datasets.load("fashion-mnist", tmp_path)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("fashion-mnist", "fashion-mnist/train-images-idx3-ubyte.gz"),
        ("fashion-mnist", "fashion-mnist/t10k-labels-idx1-ubyte.gz"),
        ("cifar10", "cifar10/cifar-10-batches-bin/data_batch_3.bin"),
        ("svhn", "svhn/test_32x32.mat"),
        ("celeba", "celeba/img_align_celeba/000007.jpg"),
        ("celeba", "celeba/list_eval_partition.txt"),
        ("folder:flowers", "flowers/3.png"),
    ],
)
@pytest.mark.parametrize("damage", ["cut", "other", "empty"])
def test_a_broken_file_is_named(name: str, file: str, damage: str, tmp_path: Path) -> None:
    SOURCES[name](tmp_path)
    path = tmp_path / file
    content = path.read_bytes()
    path.write_bytes({"cut": content[: len(content) // 2 - 1], "other": b"\x00not what it says\n" * 9, "empty": b""}[damage])
    with pytest.raises(DatasetUnavailable, match=re.escape(str(path))):
        datasets.load(name, tmp_path)


@pytest.mark.parametrize("damage", [lambda content: content[:100], lambda content: content.replace(b"\xff\xda", b"\xff\x00")])
def test_a_broken_archive_is_named(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    originals.celeba(tmp_path, packed=True)
    path = tmp_path / "celeba" / "img_align_celeba.zip"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DatasetUnavailable, match=re.escape(str(path))):
        datasets.load("celeba", tmp_path)


NAMES = ["digits", "mnist:without-9", "celeba", "celeba:2000", "folder:my_Flowers-2.0", "folder:flowers:64", "fashion-mnist:without-0"]
OTHERS = ["", "Digits", "digits:", "digits:without-10", "mnist:x", "swiss-roll:1", "folder", "folder:", "folder:..", "folder:.x", "base"]
PATHS = [
    "folder:../x",
    "folder:a/b",
    "folder:/etc",
    "folder:a\\b",
    "folder:a:7",
    "folder:a:257",
    "folder:a\n",
    "digits\n",
    "folder:a:64:64",
]


@pytest.mark.parametrize(("name", "known"), [*((name, True) for name in NAMES), *((name, False) for name in OTHERS + PATHS)])
def test_names_are_checked_before_anything_is_read(name: str, known: bool, tmp_path: Path) -> None:
    assert datasets.is_name(name) is known
    assert (re.fullmatch(datasets.pattern()[1:-1], name) is not None) is known
    if not known:
        with pytest.raises(ValueError, match="mnist:without-CLASS"):
            datasets.load(name, tmp_path)

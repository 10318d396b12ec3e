"""SVHN (Netzer et al. 2011), cropped digits: 99,289 house numbers in colour, 32×32 pixels, from the original `.mat` files.

`X` is (32, 32, 3, images) in bytes; `y` is (images, 1) with the classes 1 to 10, where 10 stands for the digit 0.
"""

from pathlib import Path

from models.datasets import DatasetUnavailable, Outline, Split, Splits
from models.datasets.base import WITHOUT, found, official

OUTLINE = Outline((3, 32, 32), 99_289, 10)
DETAIL = WITHOUT
NAMES = ("train_32x32.mat", "test_32x32.mat")


def load(root: Path, detail: str) -> Splits:
    """(images, 3, 32, 32): of the 73,257 training images 5/6 train, 1/15 validate, 1/10 are the evaluator's; the official test images.

    Raises DatasetUnavailable if the files are missing or broken.
    """
    here = root / "svhn"
    train, test = found("svhn", here, NAMES, f"put {' and '.join(NAMES)} (cropped digits) into {here.absolute()}")
    return official(_split(train), _split(test), detail)


def _split(path: Path) -> Split:
    import numpy as np
    import torch
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=("X", "y"))
        pixels, labels = content["X"], content["y"].reshape(-1)
    except Exception as error:  # of many kinds where a file is broken
        raise DatasetUnavailable(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    if pixels.dtype != np.uint8 or pixels.shape != (32, 32, 3, len(labels)) or not len(labels) or not np.isin(labels, range(1, 11)).all():
        raise DatasetUnavailable(f"{path} is not a file of SVHN's cropped digits")
    images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(3, 2, 0, 1)))
    return Split(images, torch.from_numpy(labels.astype(np.int64) % 10))

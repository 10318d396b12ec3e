"""scikit-learn's `load_digits`: 1,797 handwritten digits of 8×8 pixels (UCI optdigits), scaled to [-1, 1]."""

import torch
from sklearn.datasets import load_digits

from models.datasets import Images, split


def load() -> Images:
    """(images, 1, 8, 8)."""
    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float().unsqueeze(1) / 8 - 1
    return split(images, torch.from_numpy(bunch.target).long())

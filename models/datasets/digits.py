"""scikit-learn's `load_digits`: 1,797 handwritten digits of 8×8 pixels (UCI optdigits), scaled to [-1, 1]."""

from pathlib import Path

from models.datasets import Outline, Splits, split
from models.datasets.base import WITHOUT, without

OUTLINE = Outline((1, 8, 8), 1_797, 10)
DETAIL = WITHOUT


def load(root: Path, detail: str) -> Splits:
    """(images, 1, 8, 8): 897 to train, 300 for each of the other parts."""
    import torch
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float().unsqueeze(1) / 8 - 1
    return without(split(images, torch.from_numpy(bunch.target).long(), validation=300, test=300, evaluator=300), detail)

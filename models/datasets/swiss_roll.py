"""The swiss roll in the plane: (t cos t, t sin t) + 0.25 n, t uniform in [1.5π, 4.5π], n ~ N(0, I); a point's image is its place / 16."""

from math import pi
from pathlib import Path

from models.datasets import Outline, Points, Splits
from models.datasets.base import DRAWN, drawn

OUTLINE = Outline((1, 1, 2), DRAWN, 1)
POINTS = Points(16.0)
NOISE = 0.25


def load(root: Path, detail: str) -> Splits:
    """(points, 1, 1, 2), no classes: 70,000 to train, 5,000 for validation, 15,000 to test, 10,000 for the evaluator."""
    import torch

    random = torch.Generator().manual_seed(0)
    turns = 1.5 * pi * (1 + 2 * torch.rand(DRAWN, 1, generator=random))
    places = turns * torch.cat((turns.cos(), turns.sin()), dim=1) + NOISE * torch.randn(DRAWN, 2, generator=random)
    return drawn(places / POINTS.scale, torch.zeros(DRAWN, dtype=torch.int64))

"""`confidence`: share of draws whose class is certain to .9. `class-distance`: total variation of the classes' shares from the data's."""

import torch
from torch import Tensor

from models.metrics.base import Draws, Reference, log_probabilities_of

CERTAIN = 0.9


def measure(draws: Draws, reference: Reference) -> dict[str, float]:
    """As the reference's extractor classifies both; none where there are no classes."""
    if not reference.classes:
        return {}
    log_probabilities = draws.log_probabilities(reference.extractor)
    real = reference.once("shares of classes", lambda: shares(log_probabilities_of(reference.features, reference.extractor)))
    certain = log_probabilities.exp().amax(1) > CERTAIN
    return {"confidence": float(certain.double().mean()), "class-distance": total_variation(shares(log_probabilities), real)}


def shares(log_probabilities: Tensor) -> Tensor:
    """Share of rows that each class is likeliest for: (rows, classes) to (classes,)."""
    rows, classes = log_probabilities.shape
    return torch.bincount(log_probabilities.argmax(1), minlength=classes).double() / rows


def total_variation(first: Tensor, second: Tensor) -> float:
    """Half the sum of absolute differences of two distributions, each (classes,): 0 for the same, 1 for disjoint ones."""
    return float((first - second).abs().sum() / 2)

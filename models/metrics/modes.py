"""`modes` hit, `mode-kl` of their shares to uniform ones, and on the plane `high-quality`, the share of draws within 3σ of a mode.

As for grids of Gaussians and stacked MNIST in PacGAN (Lin et al. 2018): KL(p_g || uniform) in nats over the classes that draws fall into.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.device import read
from models.extractors.coordinates import Coordinates
from models.metrics.base import Draws, Reference
from models.metrics.classes import shares

WITHIN = 3.0  # standard deviations


def measure(draws: Draws, reference: Reference) -> dict[str, float]:
    """A class counts as a mode; on the plane a draw belongs to the mode it is within 3σ of, elsewhere to its likeliest class."""
    if not reference.classes:
        return {}
    log_probabilities, close = draws.log_probabilities(reference.extractor), {}
    if isinstance(reference.extractor, Coordinates):
        near = within(read(draws.images.flatten(1)), reference.extractor)
        close, log_probabilities = {"high-quality": float(near.double().mean())}, log_probabilities[near]
    if not len(log_probabilities):
        return {"modes": 0.0, **close}
    found = shares(log_probabilities)
    return {"modes": float((found > 0).sum()), "mode-kl": divergence_from_uniform(found), **close}


def within(points: Tensor, extractor: Coordinates) -> Tensor:
    """Whether each point is within 3σ of the nearest mode: (rows, 2) to (rows,)."""
    return torch.cdist(points, extractor.means.to(points.device)).amin(1) <= WITHIN * extractor.spread.to(points.device)


def divergence_from_uniform(found: Tensor) -> float:
    """KL(found || uniform) in nats of shares of classes, (classes,); n draws of m uniform modes have about (m - 1) / 2n."""
    return float((found * (found * len(found)).log()).where(found > 0, 0.0).sum())

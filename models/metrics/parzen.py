"""`parzen`: mean log-likelihood of real images under a Gaussian kernel density of the draws, in nats (Goodfellow et al. 2014, section 5).

log p(x) = log 1/n Σᵢ N(x; xᵢ, σ²I), pixels scaled to [0, 1]; σ is the best for other real images, as in the paper. It is very noisy, and
counts a copy of the training data as perfect.
"""

import math

import torch
from torch import Tensor

from models.metrics.base import Draws, Reference

COMPARED = "pixels"
CENTRES = 10_000  # draws that the density is made of, at most: the paper's number
JUDGED = 1000  # real images, at most; as many others choose σ
ROWS = 100  # real images whose distances are held at once
BANDWIDTHS = torch.logspace(-1.5, 0, 16, dtype=torch.double).tolist()  # σ tried, from 0.03 to 1


def measure(draws: Draws, reference: Reference) -> dict[str, float]:
    """The first half of the reference's images chooses σ, the second half is judged."""
    centres, real = _pixels(draws.images[:CENTRES]), _pixels(reference.images)
    half = min(len(real) // 2, JUDGED)
    if half == 0:
        return {}
    squares, judged = squared_distances(real[:half], centres), squared_distances(real[half : 2 * half], centres)
    likelihoods = {sigma: log_density(squares, sigma, real.shape[1]).mean() for sigma in BANDWIDTHS}
    best = max(likelihoods, key=lambda sigma: float(likelihoods[sigma]))
    return {"parzen": float(log_density(judged, best, real.shape[1]).mean())}


def squared_distances(rows: Tensor, centres: Tensor) -> Tensor:
    """(rows, pixels) and (centres, pixels) to (rows, centres), on the CPU."""
    return torch.cat([torch.cdist(part, centres).square().cpu() for part in rows.split(ROWS)])


def log_density(squares: Tensor, sigma: float, dimensions: int) -> Tensor:
    """log p of rows, (rows,), from squared distances to the centres, (rows, centres)."""
    constant = 0.5 * dimensions * math.log(2 * math.pi * sigma**2) + math.log(squares.shape[1])
    return (-squares / (2 * sigma**2)).logsumexp(1) - constant


def _pixels(images: Tensor) -> Tensor:
    """Images in [-1, 1] to rows of pixels in [0, 1], (rows, pixels)."""
    return (images.flatten(1).double() + 1) / 2

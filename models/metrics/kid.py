"""`kid`: squared maximum mean discrepancy under a cubic kernel of features, without bias (Bińkowski et al. 2018)."""

import warnings

import torch
from torchmetrics.image.kid import KernelInceptionDistance

from models.metrics.base import Draws, Reference
from models.metrics.fid import Passed

SUBSETS = 10
SUBSET = 1000  # images, at most


def measure(draws: Draws, reference: Reference) -> dict[str, float]:
    """The mean over subsets of both, always the same ones."""
    drawn, real = draws.features(reference.extractor), reference.features
    size = min(SUBSET, len(drawn), len(real))
    subsets = 1 if size == len(drawn) == len(real) else SUBSETS  # every subset is the whole then
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*will save all extracted features", UserWarning)
        kid = KernelInceptionDistance(feature=Passed(real.shape[1]), subsets=subsets, subset_size=size, sync_on_compute=False)
    kid.update(real.double(), real=True)
    kid.update(drawn.double(), real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mean, _ = kid.compute()
    return {"kid": float(mean)}

"""Fréchet distance (Heusel et al. 2017) in the features of a classifier of the same dataset."""

from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance

from models.metrics.base import CHUNK, Draws, Reference


def measure(draws: Draws, reference: Reference) -> float:
    """FID of the draws to the reference images."""
    return distance(draws.images, reference)


def distance(images: Tensor, reference: Reference) -> float:
    """FID of images, (rows, channels, height, width) in [-1, 1], to the reference images."""
    fid = FrechetInceptionDistance(feature=reference.evaluator.classifier, normalize=True).to(images.device)
    for batch in reference.images.split(CHUNK):
        fid.update(batch, real=True)
    for batch in images.split(CHUNK):
        fid.update(batch, real=False)
    return float(fid.compute())

"""`fid`: Fréchet distance of Gaussians fitted to features (Heusel et al. 2017), |μ - μ'|² + tr(Σ + Σ' - 2 (ΣΣ')^½)."""

from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from models.metrics.base import Draws, Reference, features_of


class Passed(nn.Identity):
    """Takes features where the library expects a network that makes them."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def measure(draws: Draws, reference: Reference) -> dict[str, float]:
    """FID of the draws to the reference images."""
    return {"fid": of_features(draws.features(reference.extractor), reference.features)}


def distance(images: Tensor, reference: Reference) -> float:
    """FID of images, (rows, channels, height, width) in [-1, 1], to the reference images, in the reference's extractor."""
    return of_features(features_of(images, reference.extractor), reference.features)


def of_features(drawn: Tensor, real: Tensor) -> float:
    """FID of features, (rows, features) each, in double precision."""
    fid = FrechetInceptionDistance(feature=Passed(real.shape[1]), normalize=True, sync_on_compute=False)
    fid.update(real.double(), real=True)
    fid.update(drawn.double(), real=False)
    return float(fid.compute())

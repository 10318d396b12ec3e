"""`reconstruction-mse`: mean squared error a pixel, on the [0, 1] scale, of images that the model infers latents for and decodes again."""

from models.metrics.base import Draws, Reference

COMPARED = "reconstructions"


def measure(draws: Draws, reference: Reference) -> dict[str, float]:
    """Of reconstructions to the images they are of; none for samples."""
    if draws.explained is None:
        return {}
    squares = (draws.images - draws.explained.images).square().mean()
    return {"reconstruction-mse": float(squares / 4)}  # from [-1, 1] to [0, 1] a difference halves

"""An auto-encoder as a critic of images: EBGAN's energy D(x) = |Dec(Enc(x)) - x|  (Zhao et al. 2017, arXiv 1609.03126)."""

import torch
from torch import Tensor, nn


def reconstruction_error(reconstructed: Tensor, images: Tensor) -> Tensor:
    """Euclidean distance over all numbers of an image: two of (rows, ...) -> (rows,)."""
    errors: Tensor = torch.linalg.vector_norm((reconstructed - images).flatten(1), dim=1)
    return errors


class Faithfulness(nn.Module):
    """-D(x), the higher the more real an image looks: (rows, channels, height, width) -> (rows,)."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, images: Tensor) -> Tensor:
        return -reconstruction_error(self.decoder(self.encoder(images)), images)

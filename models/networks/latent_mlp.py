"""The energy correction of LEBM (Pang et al. 2020, appendix): an MLP over latents with GELU."""

from torch import Tensor, nn


class LatentMlp(nn.Module):
    """f of p(z) ∝ exp(f(z)) N(0, I): (rows, latent) -> (rows,)."""

    def __init__(self, latent: int, hidden: int) -> None:
        super().__init__()
        self.latent = latent
        self.layers = nn.Sequential(nn.Linear(latent, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, 1))

    def forward(self, z: Tensor) -> Tensor:
        values: Tensor = self.layers(z).squeeze(1)
        return values

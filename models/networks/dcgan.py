"""The top-down generator of LEBM (Pang et al. 2020, appendix): transposed convolutions, LeakyReLU 0.2, tanh, no BatchNorm."""

from torch import Tensor, nn


def _upsample(inputs: int, outputs: int, small: int, large: int) -> nn.ConvTranspose2d:
    """Doubles a side, or doubles it less one where the larger side is odd."""
    kernel = 4 if large == 2 * small else 3
    return nn.ConvTranspose2d(inputs, outputs, kernel, 2, 1)


class Generator(nn.Module):
    """Latents to square images in [-1, 1]: (rows, latent) -> (rows, channels, side, side)."""

    def __init__(self, latent: int, width: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, side, _ = image_shape
        half, quarter, eighth = (side + 1) // 2, (side + 3) // 4, (side + 7) // 8
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(latent, width, eighth),
            nn.LeakyReLU(0.2),
            _upsample(width, width // 2, eighth, quarter),
            nn.LeakyReLU(0.2),
            _upsample(width // 2, width // 4, quarter, half),
            nn.LeakyReLU(0.2),
            _upsample(width // 4, channels, half, side),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        images: Tensor = self.layers(z[:, :, None, None])
        return images

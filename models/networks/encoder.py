"""The way back from `dcgan.Generator`: strided convolutions and LeakyReLU 0.2, no BatchNorm, so that no image sees its batch."""

from torch import Tensor, nn


class Encoder(nn.Module):
    """Square images to codes: (rows, channels, side, side) -> (rows, code)."""

    def __init__(self, code: int, width: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, side, _ = image_shape
        eighth = (side + 7) // 8
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width // 4, 3, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width // 4, width // 2, 3, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width // 2, width, 3, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(width * eighth * eighth, code),
        )

    def forward(self, images: Tensor) -> Tensor:
        codes: Tensor = self.layers(images)
        return codes

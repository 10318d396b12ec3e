"""The critic of DCGAN (Radford et al. 2016), sized for small images: strided convolutions with BatchNorm, LeakyReLU 0.2."""

from torch import Tensor, nn


class Critic(nn.Module):
    """Images to logits of being real: (rows, channels, height, width) -> (rows,); height and width divisible by 4."""

    def __init__(self, width: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, wide = image_shape
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width // 2, 4, 2, 1),  # no BatchNorm on the images themselves
            nn.LeakyReLU(0.2),
            nn.Conv2d(width // 2, width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(2 * width * (height // 4) * (wide // 4), 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images).squeeze(1)
        return logits

"""What networks cost, by arithmetic alone: so the API can estimate a training run without torch.

A cost is of one row of a batch. Every function describes the network of the same name in `models/networks`; a test holds the two together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

EMBEDDING = 32  # numbers that tell a conditional generator the class
Shape = tuple[int, int, int]  # channels, height, width


class Unsuitable(ValueError):
    """A family cannot be trained on such images, or with such an option; `field` is the field of a request that says so."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field


@dataclass(frozen=True)
class Cost:
    """Of a network, of several, or of a training step."""

    parameters: int = 0
    numbers: int = 0  # put out by layers and kept for the gradient
    operations: int = 0  # floating-point operations, forward

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.parameters + other.parameters, self.numbers + other.numbers, self.operations + other.operations)

    def __rmul__(self, times: int) -> Cost:
        """Of so many passes: the parameters stay as many."""
        return Cost(self.parameters, times * self.numbers, times * self.operations)


def total(*costs: Cost) -> Cost:
    """Of all of them together."""
    return sum(costs, Cost())


def linear(inputs: int, outputs: int) -> Cost:
    return Cost((inputs + 1) * outputs, outputs, 2 * inputs * outputs)


def convolution(inputs: int, outputs: int, kernel: int, positions: int, *, bias: bool = True) -> Cost:
    """`positions` are those of the output; of a transposed one see `transposed`."""
    weights = inputs * outputs * kernel**2
    return Cost(weights + bias * outputs, outputs * positions, 2 * weights * positions)


def transposed(inputs: int, outputs: int, kernel: int, positions: tuple[int, int], *, bias: bool = True) -> Cost:
    """`positions` of the input and of the output."""
    weights, (before, after) = inputs * outputs * kernel**2, positions
    return Cost(weights + bias * outputs, outputs * after, 2 * weights * before)


def batch_norm(channels: int, positions: int) -> Cost:
    return Cost(2 * channels, channels * positions, 0)


def kept(numbers: int) -> Cost:
    """Of a layer without weights."""
    return Cost(0, numbers, 0)


def sngan_generator(latent: int, width: int, image_shape: Shape) -> Cost:
    channels, quarter = _by_four(image_shape)
    first = 2 * width * quarter
    return total(
        linear(latent, first),
        batch_norm(2 * width, quarter),
        kept(first),
        transposed(2 * width, width, 4, (quarter, 4 * quarter), bias=False),
        batch_norm(width, 4 * quarter),
        kept(4 * width * quarter),
        transposed(width, width // 2, 4, (4 * quarter, 16 * quarter), bias=False),
        batch_norm(width // 2, 16 * quarter),
        kept(16 * (width // 2) * quarter),
        convolution(width // 2, channels, 3, 16 * quarter),
        kept(16 * channels * quarter),
    )


def sngan_critic(width: int, image_shape: Shape, *, outputs: int = 1) -> Cost:
    channels, quarter = _by_four(image_shape)
    return total(
        convolution(channels, width // 2, 4, 4 * quarter),
        kept(2 * 4 * (width // 2) * quarter),  # the last activation of each block, and its dropout
        convolution(width // 2, width, 4, quarter),
        kept(2 * width * quarter),
        convolution(width, 2 * width, 3, quarter),
        kept(2 * 2 * width * quarter),
        linear(2 * width * quarter, outputs),
        Cost(parameters=1),  # the scale
    )


def dcgan_critic(width: int, image_shape: Shape) -> Cost:
    channels, quarter = _by_four(image_shape)
    return total(
        convolution(channels, width // 2, 4, 4 * quarter),
        kept(4 * (width // 2) * quarter),
        convolution(width // 2, width, 4, quarter, bias=False),
        batch_norm(width, quarter),
        kept(width * quarter),
        convolution(width, 2 * width, 3, quarter, bias=False),
        batch_norm(2 * width, quarter),
        kept(2 * width * quarter),
        linear(2 * width * quarter, 1),
    )


def dcgan_generator(latent: int, width: int, image_shape: Shape) -> Cost:
    channels, sides = _halvings(image_shape)
    side, half, quarter, eighth = sides
    steps = ((width, width // 2, eighth, quarter), (width // 2, width // 4, quarter, half), (width // 4, channels, half, side))
    ups = [
        transposed(inputs, outputs, 4 if large == 2 * small else 3, (small**2, large**2)) + kept(outputs * large**2)
        for inputs, outputs, small, large in steps
    ]
    return total(transposed(latent, width, eighth, (1, eighth**2)), kept(width * eighth**2), *ups)


def encoder(code: int, width: int, image_shape: Shape) -> Cost:
    channels, (_, half, quarter, eighth) = _halvings(image_shape)
    steps = ((channels, width // 4, half), (width // 4, width // 2, quarter), (width // 2, width, eighth))
    downs = [convolution(inputs, outputs, 3, side**2) + kept(outputs * side**2) for inputs, outputs, side in steps]
    return total(*downs, linear(width * eighth**2, code))


def perceptron(inputs: int, width: int, outputs: int, *, layers: int) -> Cost:
    """Hidden layers of one width."""
    hidden = [linear(size, width) + kept(width) for size in (inputs, *[width] * (layers - 1))]
    return total(*hidden, linear(width, outputs), kept(outputs))


def _by_four(image_shape: Shape) -> tuple[int, int]:
    """Channels, and positions at a quarter of each side."""
    channels, height, width = image_shape
    if height % 4 or width % 4:
        raise Unsuitable("dataset", f"its images are {height}×{width}; this family needs sides that four divides")
    return channels, (height // 4) * (width // 4)


def _halvings(image_shape: Shape) -> tuple[int, tuple[int, int, int, int]]:
    """Channels, and the side with its half, quarter and eighth, rounded up."""
    channels, side, width = image_shape
    if side != width:
        raise Unsuitable("dataset", f"its images are {side}×{width}; this family needs square ones")
    return channels, (side, math.ceil(side / 2), math.ceil(side / 4), math.ceil(side / 8))

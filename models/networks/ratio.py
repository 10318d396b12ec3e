"""Log density ratios composed of other networks: a sum of heads, or a critic's output through a line or a piecewise-linear function."""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class Rescalable(Protocol):
    """A head that takes a line into its own weights."""

    def rescale(self, slope: float, intercept: float) -> None:
        """Makes the output slope · output + intercept; of several outputs the first has the intercept."""
        ...


@torch.no_grad()
def rescale(head: nn.Module, slope: float, intercept: float) -> nn.Module:
    """Makes a head's output slope · output + intercept, in place, within its last layer: it costs nothing more to compute.

    Of several outputs the first has the intercept. Afterwards the output is that of the last layer itself. Raises TypeError where there
    is neither such a layer nor a method `rescale`.
    """
    if isinstance(head, Rescalable):
        head.rescale(slope, intercept)
        return head
    last = last_layer(head)
    last.weight *= slope
    last.bias.mul_(slope)
    last.bias[0] += intercept
    return head


def last_layer(head: nn.Module) -> nn.Linear:
    """The linear layer that a head ends in. Raises TypeError where it ends otherwise."""
    last = list(head.modules())[-1]
    if not isinstance(last, nn.Linear) or last.bias is None:
        raise TypeError(f"{type(head).__name__} must end in a linear layer with a bias, or have a method `rescale`")
    return last


class Sum(nn.Module):
    """The sum of several heads: images, and labels where the heads see them, to log ratios in nats, (rows,)."""

    def __init__(self, heads: Iterable[nn.Module]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, *inputs: Tensor) -> Tensor:
        first, *others = self.heads
        total: Tensor = first(*inputs)
        for head in others:
            total = total + head(*inputs)
        return total


class Recalibrated(nn.Module):
    """A score of images through a function that is linear between its knots: inputs of the score to log ratios in nats, (rows,).

    Where there are two knots it is a line that goes on beyond them; where there are more it is constant beyond the first and last.
    """

    def __init__(self, score: nn.Module, knots: int) -> None:
        super().__init__()
        self.score = score
        self.at: Tensor
        self.register_buffer("at", torch.arange(knots, dtype=torch.float32))  # (knots,) scores
        self.log_ratio: Tensor
        self.register_buffer("log_ratio", torch.arange(knots, dtype=torch.float32))  # (knots,) nats

    def forward(self, *inputs: Tensor) -> Tensor:
        score: Tensor = self.score(*inputs)
        right = torch.searchsorted(self.at, score.detach().contiguous()).clamp(1, len(self.at) - 1)
        left = right - 1
        place = (score - self.at[left]) / (self.at[right] - self.at[left])
        if len(self.at) > 2:
            place = place.clamp(0, 1)
        return self.log_ratio[left] + place * (self.log_ratio[right] - self.log_ratio[left])

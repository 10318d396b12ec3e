"""Keeps feature maps channels-last from the first convolution to the last, where the libraries are fastest: no copies in between.

A linear layer beside an Unflatten or Flatten has its weights put into that order once, so that the outputs stay the same.
"""

import copy
from collections.abc import Sequence
from typing import TypeGuard

import torch
from torch import Tensor, nn


class UnflattenLast(nn.Module):
    """(rows, height · width · channels) -> (rows, channels, height, width), channels-last, without a copy."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.channels, self._shape = channels, (height, width, channels)

    def forward(self, values: Tensor) -> Tensor:
        return values.reshape(len(values), *self._shape).permute(0, 3, 1, 2)


class FlattenLast(nn.Module):
    """(rows, channels, height, width), channels-last -> (rows, height · width · channels), without a copy."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.permute(0, 2, 3, 1).flatten(1)


KEEP_CHANNELS = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.SiLU,
    nn.GELU,
    nn.ELU,
    nn.Softplus,
    nn.BatchNorm2d,
    nn.AvgPool2d,
    nn.MaxPool2d,
)


def channels_last(layers: Sequence[nn.Module]) -> list[nn.Module]:
    """The same layers, with those between rows of numbers and feature maps in channels-last order."""
    kept: list[nn.Module] = []
    for layer in layers:
        before = kept[-1] if kept else None
        if isinstance(layer, nn.Unflatten) and is_plain_linear(before) and layer.dim in (1, -1) and len(layer.unflattened_size) == 3:
            channels, height, width = (int(size) for size in layer.unflattened_size)
            places = torch.arange(channels * height * width).view(channels, height * width).t().flatten()
            kept[-1] = _reordered(before, outputs=places)
            kept.append(UnflattenLast(channels, height, width))
        elif is_plain_linear(layer) and isinstance(before, nn.Flatten) and before.start_dim == 1 and (channels := _channels(kept[:-1])):
            places = torch.arange(layer.in_features).view(channels, -1).t().flatten()
            kept[-1] = FlattenLast()
            kept.append(_reordered(layer, inputs=places))
        else:
            kept.append(layer)
    return kept


def is_plain_linear(layer: nn.Module | None) -> TypeGuard[nn.Linear]:
    """Whether it is an nn.Linear whose weight is its own, neither a subclass nor parametrised."""
    return type(layer) is nn.Linear and isinstance(layer.weight, nn.Parameter)


def _channels(layers: Sequence[nn.Module]) -> int:
    """Channels of the maps that come out of some layers; 0 where that is not known."""
    for layer in reversed(layers):
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            return layer.out_channels
        if isinstance(layer, UnflattenLast):
            return layer.channels
        if type(layer) not in KEEP_CHANNELS:
            return 0
    return 0


def _reordered(linear: nn.Linear, *, outputs: Tensor | None = None, inputs: Tensor | None = None) -> nn.Linear:
    result = copy.deepcopy(linear)
    if outputs is not None:
        result.weight.data = linear.weight.data[outputs]
        if result.bias is not None:
            result.bias.data = linear.bias.data[outputs]
    if inputs is not None:
        result.weight.data = linear.weight.data[:, inputs].contiguous()
    return result

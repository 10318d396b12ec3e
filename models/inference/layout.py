"""Keeps feature maps channels-last from the first convolution to the last, where the libraries are fastest: no copies in between.

A linear layer beside an Unflatten or Flatten has its weights put into that order once, so that the outputs stay the same.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class UnflattenLast(nn.Module):
    """(rows, height · width · channels) -> (rows, channels, height, width), channels-last, without a copy."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self._shape = (height, width, channels)

    def forward(self, values: Tensor) -> Tensor:
        return values.reshape(len(values), *self._shape).permute(0, 3, 1, 2)


class FlattenLast(nn.Module):
    """(rows, channels, height, width), channels-last -> (rows, height · width · channels), without a copy."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.permute(0, 2, 3, 1).flatten(1)


def channels_last(layers: Sequence[nn.Module]) -> list[nn.Module]:
    """The same layers, with those between rows of numbers and feature maps in channels-last order."""
    kept: list[nn.Module] = []
    for layer in layers:
        before = kept[-1] if kept else None
        if isinstance(layer, nn.Unflatten) and isinstance(before, nn.Linear) and len(layer.unflattened_size) == 3:
            channels, height, width = (int(size) for size in layer.unflattened_size)
            places = torch.arange(channels * height * width).view(channels, height * width).t().flatten()
            kept[-1] = _reordered(before, outputs=places)
            kept.append(UnflattenLast(channels, height, width))
        elif isinstance(layer, nn.Linear) and isinstance(before, nn.Flatten) and (channels := _channels(kept)):
            places = torch.arange(layer.in_features).view(channels, -1).t().flatten()
            kept[-1] = FlattenLast()
            kept.append(_reordered(layer, inputs=places))
        else:
            kept.append(layer)
    return kept


def _channels(layers: Sequence[nn.Module]) -> int:
    """Channels of the maps that come out of some layers; 0 where no convolution makes them."""
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    return convolutions[-1].out_channels if convolutions else 0


def _reordered(linear: nn.Linear, *, outputs: Tensor | None = None, inputs: Tensor | None = None) -> nn.Linear:
    result = copy.deepcopy(linear)
    if outputs is not None:
        result.weight.data, result.bias.data = linear.weight.data[outputs], linear.bias.data[outputs]
    if inputs is not None:
        result.weight.data = linear.weight.data[:, inputs].contiguous()
    return result

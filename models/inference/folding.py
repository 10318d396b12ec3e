"""Layers that follow one another, made cheaper together: BatchNorm folded, Dropout left out, maps channels-last, in frozen runs or steady.

What is not recognised stays as it is: other kinds of layers, subclasses, and layers whose weight something else computes.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.inference.frozen_convolution import FrozenConvolution
from models.inference.frozen_run import FrozenLayer, available, frozen
from models.inference.layout import FlattenLast, channels_last, is_plain_linear
from models.inference.steady_linear import steady

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


class Contiguous(nn.Module):
    """The same numbers in torch's usual layout, which the code around may rely on."""

    def forward(self, values: Tensor) -> Tensor:
        return values.contiguous()


def folded(layers: Sequence[nn.Module], device: torch.device) -> nn.Sequential:
    """Layers that compute the same, one after another."""
    kept: list[nn.Module] = []
    for layer in layers:
        if type(layer) is nn.BatchNorm2d and kept and (narrower := _with_norm(kept, layer)):
            kept[-len(narrower) :] = narrower
        elif type(layer) not in (nn.Dropout, nn.Dropout2d):
            kept.append(layer)
    kept = channels_last(kept)
    if any(type(layer) in CONVOLUTIONS for layer in kept) and not isinstance(kept[-1], nn.Linear | nn.Flatten | FlattenLast):
        kept.append(Contiguous())
    if available(device) and any(map(FrozenConvolution.covers, kept)):  # small linear layers alone are slower in runs
        return nn.Sequential(*frozen(kept))
    return nn.Sequential(*(_in_layout(steady(layer, device)) for layer in kept))


def alone(layer: nn.Module, device: torch.device) -> nn.Module:
    """A layer that some network calls by itself: frozen or steady where it can be, its weight and bias still within reach."""
    if available(device) and FrozenConvolution.covers(layer):
        return FrozenLayer(layer)
    return steady(layer, device)


def _with_norm(before: list[nn.Module], norm: nn.BatchNorm2d) -> list[nn.Module]:
    """The last layers with a BatchNorm folded into them; none where it cannot be."""
    if norm.running_mean is None or norm.running_var is None:  # it normalises by the batch at hand
        return []
    last = before[-1]
    if type(last) in CONVOLUTIONS and isinstance(last.weight, nn.Parameter):
        return [fuse_conv_bn_eval(last, norm, transpose=isinstance(last, nn.ConvTranspose2d))]  # type: ignore[type-var]
    if len(before) > 1 and isinstance(last, nn.Unflatten) and is_plain_linear(before[-2]):
        return [_fold_into_linear(before[-2], norm), last]
    return []


def _fold_into_linear(linear: nn.Linear, norm: nn.BatchNorm2d) -> nn.Linear:
    """A linear layer whose outputs are channels by positions, scaled and shifted channel by channel."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    positions = linear.out_features // norm.num_features
    spread = (norm.running_var + norm.eps).sqrt()
    weight = norm.weight if norm.affine else torch.ones_like(spread)
    shift = (norm.bias if norm.affine else 0) - norm.running_mean * weight / spread
    scale, shift = (weight / spread).repeat_interleave(positions), shift.repeat_interleave(positions)
    result = copy.deepcopy(linear)
    result.weight.data = linear.weight * scale.unsqueeze(1)
    result.bias = nn.Parameter(shift if linear.bias is None else linear.bias * scale + shift)
    return result


def _in_layout(layer: nn.Module) -> nn.Module:
    """The layer; a plain convolution's weights channels-last, so that its outputs are too."""
    if type(layer) in CONVOLUTIONS and isinstance(layer.weight, nn.Parameter):
        layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    return layer

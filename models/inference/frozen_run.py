"""Layers that are no longer trained, run as one step of autograd on the CPU: each knows its gradient, activations are made in place.

The operators are those that torch's compiler calls; where they are missing, and on other devices, the plain layers stay.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.device import is_home_to_onednn
from models.inference.frozen_convolution import FrozenConvolution, Layer
from models.inference.layout import FlattenLast, UnflattenLast, is_plain_linear

OPERATORS = ("convolution_pointwise", "convolution_transpose_pointwise", "linear_pointwise")
ORDERS = ("reorder_convolution_weight", "reorder_convolution_transpose_weight", "reorder_linear_weight")
_aten, _library = torch.ops.aten, torch.ops.mkldnn


class Frozen(Protocol):
    """A layer without autograd. Those that work in place are given what nobody else holds."""

    def there(self, inputs: Tensor) -> Tensor:
        """Inputs, (rows, ...), to outputs."""
        ...

    def back(self, gradient: Tensor, outputs: Tensor, shape: Sequence[int]) -> Tensor:
        """The gradient with respect to the outputs to that with respect to the inputs, which were of that shape."""
        ...


def available(device: torch.device) -> bool:
    """Whether the device is a processor that oneDNN is made for, and torch has the operators."""
    return is_home_to_onednn(device) and all(hasattr(_library, f"_{name}") for name in (*OPERATORS, *ORDERS))


def frozen(layers: Sequence[nn.Module]) -> list[nn.Module]:
    """The same layers, as many as possible in runs; each begins with one whose outputs are new, for those after it to overwrite."""
    kept: list[nn.Module] = []
    for layer in layers:
        run = kept[-1] if kept and isinstance(kept[-1], FrozenRun) else None
        if leader := _leader(layer):
            if run is None:
                kept.append(run := FrozenRun())
            run.append(leader)
        elif run is not None and (follower := _follower(layer)):
            run.append(follower)
        else:
            kept.append(layer)
    return kept


def _leader(layer: nn.Module) -> "FrozenLinear | FrozenConvolution | None":
    """What may begin a run."""
    if FrozenConvolution.covers(layer):
        return FrozenConvolution(layer)
    return FrozenLinear(layer) if is_plain_linear(layer) else None


def _follower(layer: nn.Module) -> "InPlace | Rearranged | None":
    """What may follow in a run."""
    if isinstance(layer, UnflattenLast | FlattenLast):
        return Rearranged(layer)
    if isinstance(layer, nn.ReLU):
        return InPlace(torch.relu_, lambda slope, outputs: _aten.threshold_backward.grad_input(slope, outputs, 0, grad_input=slope))
    if isinstance(layer, nn.LeakyReLU) and (below := layer.negative_slope) > 0:
        return InPlace(
            lambda inputs: F.leaky_relu(inputs, below, inplace=True),
            lambda slope, outputs: _aten.leaky_relu_backward.grad_input(slope, outputs, below, True, grad_input=slope),
        )
    if isinstance(layer, nn.Tanh):
        return InPlace(torch.tanh_, lambda slope, outputs: _aten.tanh_backward.grad_input(slope, outputs, grad_input=slope))
    return None


class FrozenRun(nn.Sequential):
    """Layers that are `Frozen`, one after another."""

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = _Run.apply(inputs, tuple(self))  # type: ignore[no-untyped-call]
        return outputs


class FrozenLayer(FrozenRun):
    """A convolution by itself, maps in the layout they came in; what is asked of the layer but a call, the plain one answers."""

    def __init__(self, layer: Layer) -> None:
        super().__init__(FrozenConvolution(layer))
        self._plain = (layer,)  # in a tuple, it is no part of the module: its weights are counted once

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = super().forward(inputs)
        return outputs.contiguous() if inputs.is_contiguous() else outputs

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "_plain":
                raise
            return getattr(self._plain[0], name)


class _Run(torch.autograd.Function):
    """Has a first derivative only."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, layers: Sequence[Frozen]) -> Tensor:
        made: list[Tensor] = []
        ctx.layers, ctx.shapes = layers, []
        for layer in layers:
            ctx.shapes.append(inputs.shape)
            inputs = layer.there(inputs)
            made.append(inputs)
        ctx.save_for_backward(*made)
        return inputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0].clone()  # the next layer's, which may be held elsewhere
        for layer, outputs, shape in zip(reversed(ctx.layers), reversed(ctx.saved_tensors), reversed(ctx.shapes), strict=True):
            gradient = layer.back(gradient, outputs, shape)
        return gradient, None


class FrozenLinear(nn.Module):
    """nn.Linear: (rows, inputs) -> (rows, outputs), weights in the library's order for each way."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        self.register_buffer("_bias", None if linear.bias is None else linear.bias.detach())
        self.register_buffer("_forth", _library._reorder_linear_weight(weight))
        self.register_buffer("_home", _library._reorder_linear_weight(weight.t().contiguous()))

    def there(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = _library._linear_pointwise(inputs, self._forth, self._bias, "none", [], "")
        return outputs

    def back(self, gradient: Tensor, outputs: Tensor, shape: Sequence[int]) -> Tensor:
        slopes: Tensor = _library._linear_pointwise(gradient, self._home, None, "none", [], "")
        return slopes


class InPlace(nn.Module):
    """An activation, in place both ways; its slope is told from its outputs."""

    def __init__(self, apply: Callable[[Tensor], Tensor], slope: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.there, self._slope = apply, slope

    def back(self, gradient: Tensor, outputs: Tensor, shape: Sequence[int]) -> Tensor:
        return self._slope(gradient, outputs)


class Rearranged(nn.Module):
    """Rows of numbers seen as maps, channels-last, or maps as rows."""

    def __init__(self, layer: UnflattenLast | FlattenLast) -> None:
        super().__init__()
        self.there = layer

    def back(self, gradient: Tensor, outputs: Tensor, shape: Sequence[int]) -> Tensor:
        if len(shape) == 2:
            return gradient.permute(0, 2, 3, 1).reshape(*shape)
        rows, channels, height, width = shape
        return gradient.reshape(rows, height, width, channels).permute(0, 3, 1, 2)

"""A convolution that is no longer trained, both ways on the CPU: outputs, and the gradient with respect to the inputs.

The gradient of a convolution is a transposed convolution with the same weights, and the other way round. Weights, (deep, wide, height,
width), lead down from wide, large maps to deep, small ones, or up. The library (oneDNN) has an order of its own for them, which it makes
in every call; here it is made once for each way and size of maps. No sum is split among threads, and none depends on its row's place.
"""

from collections.abc import Sequence
from typing import Protocol, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NARROW = 64  # numbers that one pixel adds to the outputs, channels times kernel, up to which summing columns is faster
ROWS = 64  # the library is asked for its order for that many
REFUSED = (128, 64, 4, 2, 1, 7, 7, 14, 14)  # deep, wide, kernel, stride, padding and sizes: oneDNN skips its fast way for just this one
Layer = nn.Conv2d | nn.ConvTranspose2d
_library = torch.ops.mkldnn


class Way(Protocol):
    """From maps, (rows, channels, height, width), to maps; `size` is that of the outputs where there is a choice."""

    def __call__(self, maps: Tensor, bias: Tensor | None = None, size: Sequence[int] | None = None) -> Tensor: ...


class FrozenConvolution(nn.Module):
    """nn.Conv2d or nn.ConvTranspose2d: maps, (rows, channels, height, width), to maps, channels-last."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        weight, stride, padding = layer.weight.detach(), layer.stride[0], int(layer.padding[0])
        down, up = _way_down(weight, stride, padding), _way_up(weight, stride, padding)
        self._forth, self._home = (up, down) if isinstance(layer, nn.ConvTranspose2d) else (down, up)
        self._weight: Tensor
        self.register_buffer("_weight", weight)
        self._bias: Tensor | None
        self.register_buffer("_bias", None if layer.bias is None else layer.bias.detach())

    @staticmethod
    def covers(layer: nn.Module) -> TypeGuard[Layer]:
        """Whether a layer is a convolution that can be frozen: square, ungrouped, undilated, padded with zeros."""
        if type(layer) not in (nn.Conv2d, nn.ConvTranspose2d) or not isinstance(layer.weight, nn.Parameter):
            return False  # a subclass, or a layer whose weight is computed, may do more than it says
        assert isinstance(layer, Layer)
        if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
            return False
        square = all(len(set(sides)) == 1 for sides in (layer.stride, layer.padding, layer.kernel_size))
        return square and layer.groups == 1 and set(layer.dilation) == {1} and set(layer.output_padding) == {0}

    @property
    def copies(self) -> int:
        """Bytes of its weights in the library's orders: one for each way, as long as maps are of one size."""
        return 2 * self._weight.nbytes

    def there(self, inputs: Tensor) -> Tensor:
        return self._forth(inputs, self._bias)

    def back(self, gradient: Tensor, outputs: Tensor, shape: Sequence[int]) -> Tensor:
        return self._home(gradient, size=shape[2:])


def _way_down(weight: Tensor, stride: int, padding: int) -> Way:
    """The convolution, which with stride 1 is also the transposed one of the weights turned round."""
    turned, beyond = weight.flip(2, 3).transpose(0, 1), weight.shape[2] - 1 - padding
    is_narrow = stride == 1 and beyond >= 0 and turned[0].numel() <= NARROW
    return Columns(turned, 1, beyond) if is_narrow else Down(weight, stride, padding)


def _way_up(weight: Tensor, stride: int, padding: int) -> Way:
    """The transposed convolution."""
    return Columns(weight, stride, padding) if weight[0].numel() <= NARROW else Up(weight, stride, padding)


class Down:
    """The convolution."""

    def __init__(self, weight: Tensor, stride: int, padding: int) -> None:
        self._weight, self._strides, self._paddings = weight, [stride, stride], [padding, padding]
        self._ordered: dict[Sequence[int], Tensor] = {}

    def __call__(self, maps: Tensor, bias: Tensor | None = None, size: Sequence[int] | None = None) -> Tensor:
        settings, shape = (self._paddings, self._strides, [1, 1], 1), maps.shape[1:]
        if shape not in self._ordered:
            self._ordered[shape] = _library._reorder_convolution_weight(self._weight, *settings, [ROWS, *shape])
        outputs: Tensor = _library._convolution_pointwise(maps, self._ordered[shape], bias, *settings, "none", [], "")
        return outputs


class Up:
    """The transposed convolution."""

    def __init__(self, weight: Tensor, stride: int, padding: int) -> None:
        self._weight, self._kernel, self._stride, self._padding = weight, weight.shape[2], stride, padding
        self._ordered: dict[Sequence[int], Tensor] = {}

    def __call__(self, maps: Tensor, bias: Tensor | None = None, size: Sequence[int] | None = None) -> Tensor:
        smallest = enlarged(maps, self._kernel, self._stride, self._padding)
        height, width = size or smallest
        if (*self._weight.shape[:2], self._kernel, self._stride, self._padding, *maps.shape[2:], height, width) == REFUSED:
            outputs = self._transposed(maps, bias, 0, [0, 0])[:, :, self._padding :, self._padding :]
            return outputs[:, :, :height, :width].contiguous(memory_format=torch.channels_last)
        return self._transposed(maps, bias, self._padding, [height - smallest[0], width - smallest[1]])

    def _transposed(self, maps: Tensor, bias: Tensor | None, padding: int, beyond: list[int]) -> Tensor:
        settings, shape = ([padding] * 2, beyond, [self._stride] * 2, [1, 1], 1), maps.shape[1:]
        key = (*shape, *beyond)
        if key not in self._ordered:
            self._ordered[key] = _library._reorder_convolution_transpose_weight(self._weight, *settings, [ROWS, *shape])
        outputs: Tensor = _library._convolution_transpose_pointwise(maps, self._ordered[key], bias, *settings, "none", [], "")
        return outputs


class Columns:
    """The transposed convolution to few channels: what each pixel adds, by a matrix product, summed where it overlaps (col2im)."""

    def __init__(self, weight: Tensor, stride: int, padding: int) -> None:
        self._kernel, self._stride, self._padding = weight.shape[2], stride, padding
        self._columns = Down(weight.flatten(1).t()[:, :, None, None].contiguous(), 1, 0)

    def __call__(self, maps: Tensor, bias: Tensor | None = None, size: Sequence[int] | None = None) -> Tensor:
        size = size or enlarged(maps, self._kernel, self._stride, self._padding)
        columns = self._columns(maps).flatten(2)  # (rows, channels · kernel, pixels)
        outputs = F.fold(columns, tuple(size), self._kernel, padding=self._padding, stride=self._stride)
        return outputs if bias is None else outputs.add_(bias[:, None, None])


def enlarged(maps: Tensor, kernel: int, stride: int, padding: int) -> list[int]:
    """Height and width of the smallest maps that a transposed convolution makes of such ones."""
    return [(side - 1) * stride - 2 * padding + kernel for side in maps.shape[2:]]

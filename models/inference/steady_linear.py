"""A linear layer whose gradient has the same bits on any number of threads and in any row of a batch, on CPUs.

CPU libraries split long sums among threads, so ours are short. Where there are few inputs, 5 to 7 or 9 to 11, the bits of a row's
gradient were seen to depend on whether the row is an even one, so narrow layers are padded to whole vectors.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.device import is_cpu
from models.inference.layout import is_plain_linear

LONGEST = 392  # terms of one sum; from about 784 on they were seen to be split
VECTOR = 16  # float32 numbers in the longest vector registers
NARROW = 2 * VECTOR  # inputs from which on padding is not needed


def steady(layer: nn.Module, device: torch.device) -> nn.Module:
    """The layer itself, or in place of a linear one whose gradient's bits may vary on the device, one with the same outputs."""
    if not (is_cpu(device) and is_plain_linear(layer)):
        return layer
    return SteadyLinear(layer) if _missing(layer.in_features) or layer.out_features > LONGEST else layer


class SteadyLinear(nn.Module):
    """The same outputs as a frozen nn.Linear: (rows, ..., inputs) -> (rows, ..., outputs)."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("weight", linear.weight.detach(), persistent=False)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach(), persistent=False)
        self.register_buffer("padded", F.pad(linear.weight.detach(), (0, _missing(linear.in_features))), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.dim() != 2:
            rows: Tensor = self(inputs.reshape(-1, inputs.shape[-1]))
            return rows.reshape(*inputs.shape[:-1], -1)
        outputs: Tensor = _Steady.apply(inputs, self.weight, self.bias, self.padded)  # type: ignore[no-untyped-call]
        return outputs


class _Steady(torch.autograd.Function):
    """The gradient with respect to the inputs as a sum of sums over blocks of outputs."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, padded: Tensor) -> Tensor:
        ctx.save_for_backward(padded)
        ctx.inputs = inputs.shape[1]
        return F.linear(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (padded,), (gradient,) = ctx.saved_tensors, gradients
        blocks = _blocks(len(padded))
        parts = gradient.reshape(len(gradient), blocks, -1).transpose(0, 1) @ padded.reshape(blocks, -1, padded.shape[1])
        return parts.sum(0)[:, : ctx.inputs].contiguous(), None, None, None  # (blocks, rows, inputs) -> (rows, inputs)


def _blocks(outputs: int) -> int:
    """The fewest equal blocks of at most LONGEST outputs."""
    return next(count for count in range(1, outputs + 1) if outputs % count == 0 and outputs // count <= LONGEST)


def _missing(inputs: int) -> int:
    """Inputs that narrow layers lack to whole vectors."""
    return -inputs % VECTOR if inputs < NARROW else 0

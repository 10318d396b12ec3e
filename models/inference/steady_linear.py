"""A linear layer whose outputs and gradient have the same bits on any number of threads and in any row of a batch, on CPUs.

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
    """The layer itself, or in place of a linear one whose bits may vary on the device, one whose bits do not."""
    if not (is_cpu(device) and is_plain_linear(layer)):
        return layer
    return SteadyLinear(layer) if _missing(layer.in_features) or max(layer.in_features, layer.out_features) > LONGEST else layer


class SteadyLinear(nn.Module):
    """The outputs of a frozen nn.Linear, to rounding where there are many inputs: (rows, ..., inputs) -> (rows, ..., outputs)."""

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
    """Outputs as a sum of sums over blocks of inputs, the gradient with respect to the inputs as one over blocks of outputs."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, padded: Tensor) -> Tensor:
        ctx.save_for_backward(padded)
        ctx.inputs = inputs.shape[1]
        blocks = _blocks(weight.shape[1])
        if blocks == 1:
            return F.linear(inputs, weight, bias)
        parts = inputs.reshape(len(inputs), blocks, -1).transpose(0, 1) @ weight.t().reshape(blocks, -1, len(weight))
        outputs = parts.sum(0)  # (blocks, rows, outputs) -> (rows, outputs)
        return outputs if bias is None else outputs.add_(bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (padded,), (gradient,) = ctx.saved_tensors, gradients
        blocks = _blocks(len(padded))
        parts = gradient.reshape(len(gradient), blocks, -1).transpose(0, 1) @ padded.reshape(blocks, -1, padded.shape[1])
        return parts.sum(0)[:, : ctx.inputs].contiguous(), None, None, None  # (blocks, rows, inputs) -> (rows, inputs)


def _blocks(terms: int) -> int:
    """The fewest equal blocks of at most LONGEST terms."""
    return next(count for count in range(1, terms + 1) if terms % count == 0 and terms // count <= LONGEST)


def _missing(inputs: int) -> int:
    """Inputs that narrow layers lack to whole vectors."""
    return -inputs % VECTOR if inputs < NARROW else 0

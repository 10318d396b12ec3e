"""A linear layer whose gradient has the same bits on any number of threads: libraries split long sums among them; ours are short."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LONGEST = 392  # terms of one sum; from about 784 on they were seen to be split


class WideLinear(nn.Module):
    """The same outputs as a frozen nn.Linear of many outputs: (rows, inputs) -> (rows, outputs)."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("weight", linear.weight.detach(), persistent=False)
        self.register_buffer("bias", linear.bias.detach(), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = _ShortSums.apply(inputs, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return outputs


class _ShortSums(torch.autograd.Function):
    """The gradient with respect to the inputs as a sum of sums over blocks of outputs."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return F.linear(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (weight,), (gradient,) = ctx.saved_tensors, gradients
        blocks = _blocks(len(weight))
        parts = gradient.reshape(len(gradient), blocks, -1).transpose(0, 1) @ weight.reshape(blocks, -1, weight.shape[1])
        return parts.sum(0), None, None  # (blocks, rows, inputs) -> (rows, inputs)


def _blocks(outputs: int) -> int:
    """The fewest equal blocks of at most LONGEST outputs."""
    return next(count for count in range(1, outputs + 1) if outputs % count == 0 and outputs // count <= LONGEST)

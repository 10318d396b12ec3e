"""Several processes that train one model on one joint batch: each has its rows of it, and all have the gradients of the whole.

Alone, every function gives back what it is given. All processes must make the same calls in the same order.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch import distributed as group

from models.device import is_cpu

_alone = False  # while one process computes something of its own


def begin(device: torch.device) -> None:
    """Joins the processes that `torchrun` started; without it, stays alone."""
    if group.is_available() and group.is_torchelastic_launched() and not group.is_initialized():
        group.init_process_group(device_id=None if is_cpu(device) else device)


def end() -> None:
    """From here on every process is alone again."""
    if group.is_available() and group.is_initialized():
        group.barrier()
        group.destroy_process_group()


def ranks() -> int:
    """How many processes share the batch; 1 alone."""
    return group.get_world_size() if group.is_available() and group.is_initialized() and not _alone else 1


def rank() -> int:
    """The number of this process among them, from 0, whatever it does."""
    return group.get_rank() if group.is_available() and group.is_initialized() else 0


@contextmanager
def alone() -> Iterator[None]:
    """What runs in here is this process's own business, and the others need not make the same calls."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def own(rows: Tensor, batches: int = 1) -> Tensor:
    """This process's rows of so many joint batches in a row: (batches · joint, ...) to (batches · joint / ranks, ...)."""
    if ranks() == 1:
        return rows
    return rows.reshape(batches, ranks(), -1, *rows.shape[1:])[:, rank()].flatten(0, 1)


def mean(values: Tensor) -> Tensor:
    """The mean over the processes of a tensor that each has, differentiable any number of times."""
    return values if ranks() == 1 else _apply(_Mean, values)


def gathered(rows: Tensor) -> Tensor:
    """The rows of all processes, (rows, ...) to (joint, ...), for losses that compare rows with one another; differentiable."""
    return rows if ranks() == 1 else _apply(_Gathered, rows)


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replaces gradients by their means over the processes: those of the mean loss over the joint batch."""
    found = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if ranks() == 1 or not found:
        return
    averages = _mean(torch.cat([gradient.flatten() for gradient in found])).split([gradient.numel() for gradient in found])
    for gradient, average in zip(found, averages, strict=True):
        gradient.copy_(average.reshape(gradient.shape))


def agreed(values: Sequence[float]) -> list[float]:
    """What the first process says, on all of them."""
    if ranks() == 1:
        return list(values)
    said = torch.tensor(values, dtype=torch.float64)
    group.broadcast(said, 0)
    return [float(value) for value in said]


def _mean(values: Tensor) -> Tensor:
    total = values.detach().clone().contiguous()
    group.all_reduce(total)
    return total / ranks()


def _apply(function: type[torch.autograd.Function], values: Tensor) -> Tensor:
    result: Tensor = function.apply(values)
    return result


class _Mean(torch.autograd.Function):
    """Every process's loss depends on every process's values: their gradients meet in the mean, as those of the weights do."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        return _mean(values)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return _apply(_Mean, gradients[0])


class _Gathered(torch.autograd.Function):
    """Backwards, the gradients that all processes have for this one's rows add up."""

    @staticmethod
    def forward(context: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(ranks())]
        group.all_gather(parts, rows.detach().contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return own(_apply(_Mean, gradients[0])) * ranks()

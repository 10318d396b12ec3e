"""One step of an optimiser down a loss."""

import torch
from torch import Tensor


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One optimiser step down the loss, (), in the parameters the optimiser holds."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()

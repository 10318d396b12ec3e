"""One step of an optimiser down a loss, on the joint batch where several processes train."""

import torch
from torch import Tensor

from models import joint


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One optimiser step down the loss, (), in the parameters the optimiser holds."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    joint.average_gradients(parameter for group in optimizer.param_groups for parameter in group["params"])
    optimizer.step()

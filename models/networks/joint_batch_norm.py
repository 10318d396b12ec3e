"""BatchNorm (Ioffe & Szegedy 2015) with the statistics of the joint batch of all processes, on any device."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import joint


class JointBatchNorm(nn.Module):
    """Takes the place of a BatchNorm with its parameters, buffers and names; in eval mode it is the same function."""

    def __init__(self, plain: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        super().__init__()
        if plain.running_mean is None or plain.running_var is None or plain.num_batches_tracked is None or plain.momentum is None:
            raise ValueError("a BatchNorm without running averages cannot be shared by several processes")
        self.weight, self.bias, self.eps, self.momentum = plain.weight, plain.bias, plain.eps, plain.momentum
        self.running_mean, self.running_var = nn.Buffer(plain.running_mean), nn.Buffer(plain.running_var)
        self.num_batches_tracked = nn.Buffer(plain.num_batches_tracked)

    def forward(self, inputs: Tensor) -> Tensor:
        """(rows, channels, ...) to the same shape."""
        if not self.training:
            return F.batch_norm(inputs, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        values = inputs.to(torch.promote_types(inputs.dtype, torch.float32)).transpose(1, -1)  # channels last
        others = list(range(values.dim() - 1))
        mean = joint.mean(values.mean(others))  # (channels,)
        variance = joint.mean((values - mean).square().mean(others))
        self._follow(mean.detach(), variance.detach(), joint.ranks() * values.numel() // len(mean))
        outputs = (values - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias
        return outputs.transpose(1, -1).to(inputs.dtype)

    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Moves the running averages; theirs is the unbiased variance."""
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
            self.num_batches_tracked.add_(1)


def share_batch_norm(networks: nn.Module) -> None:
    """Puts a `JointBatchNorm` in the place of every BatchNorm."""
    for module in list(networks.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                setattr(module, name, JointBatchNorm(child))

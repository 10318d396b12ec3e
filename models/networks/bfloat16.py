"""A network run in bfloat16 where the device multiplies it faster than float32: for training, where noise of that size does no harm."""

from torch import Tensor, nn

from models.device import bfloat16


class Bfloat16(nn.Module):
    """The same network under autocast; outputs come back as float32. Elsewhere it changes nothing."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor, *more: Tensor) -> Tensor:
        with bfloat16(inputs.device):
            outputs: Tensor = self.network(inputs, *more)
        return outputs.float()

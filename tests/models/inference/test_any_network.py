"""Preparation recognises what it can in any network and leaves the rest as it is: outputs and gradients stay the same."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from models.inference.frozen_run import FrozenLayer, FrozenRun
from models.inference.prepared import prepare
from models.inference.steady_linear import SteadyLinear

CPU = torch.device("cpu")


class Residual(nn.Module):
    """Two convolutions with BatchNorm beside a shortcut; the first two are called one by one, the others as a sequence."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, out, 3, 1, 1)
        self.norm = nn.BatchNorm2d(out)
        self.rest = nn.Sequential(nn.ReLU(), nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out), nn.Dropout2d(0.5))
        self.shortcut = nn.Conv2d(channels, out, 1)

    def forward(self, maps):
        return F.relu(self.shortcut(maps) + self.rest(self.norm(self.first(maps))))


class Scaled(nn.Conv2d):
    """A convolution with a forward of its own, as equalised learning rates need."""

    def forward(self, maps):
        return 3 * super().forward(maps)


class Doubling(nn.Sequential):
    """A sequence with a forward of its own."""

    def forward(self, values):
        return 2 * super().forward(values)


class Network(nn.Module):
    """Latents to logits through everything that is easy to get wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Sequential(nn.Linear(6, 8 * 16, bias=False), nn.Unflatten(1, (8, 4, 4)), nn.BatchNorm2d(8), nn.ReLU())
        self.blocks = nn.ModuleList([Residual(8, 12), Residual(12, 12)])
        self.inner = nn.Sequential(nn.Conv2d(12, 5, 3, 1, 1), Residual(5, 7), nn.Flatten(), nn.Linear(7 * 16, 20))
        self.nested = nn.Sequential(nn.Sequential(nn.Linear(20, 20), nn.ReLU()), Doubling(nn.Linear(20, 20), nn.ReLU()))
        self.shared = nn.Conv2d(12, 12, 3, 1, 1)
        self.again = self.shared
        self.batchwise = nn.Sequential(nn.Conv2d(12, 12, 1), nn.BatchNorm2d(12, track_running_stats=False))
        self.unaffine = nn.Sequential(nn.Conv2d(12, 12, 1), nn.BatchNorm2d(12, affine=False))
        self.scaled = Scaled(12, 12, 1)
        self.spectral = parametrizations.spectral_norm(nn.Conv2d(12, 12, 1))
        self.grouped = nn.Conv2d(12, 12, 3, 1, 1, groups=3)
        self.tied = nn.Linear(20, 11)
        self.last = nn.Linear(11, 1, bias=False)

    def forward(self, z):
        maps = self.up(z)
        maps = maps.view(len(maps), 8, 4, 4)  # the usual layout, as networks elsewhere rely on it
        for block in self.blocks:
            maps = block(maps)
        maps = self.again(torch.tanh(self.shared(maps))) + F.conv2d(maps, self.shared.weight, self.shared.bias, padding=self.shared.padding)
        maps = self.spectral(self.scaled(self.grouped(self.unaffine(self.batchwise(maps)))))
        values = self.tied(self.nested(self.inner(maps)))
        return self.last(values + F.linear(values @ self.tied.weight, self.tied.weight)).squeeze(1)


class Attention(nn.Module):
    """Rows of tokens, (rows, tokens, features)."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(3, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 24, dropout=0.1, batch_first=True)
        self.leave = nn.Linear(16, 500)

    def forward(self, z):
        return self.leave(self.layer(self.enter(z.unflatten(1, (2, 3))))).square().mean((1, 2))


@pytest.fixture(params=[Network, Attention])
def plain(request):
    torch.manual_seed(0)
    network = request.param()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return nn.ModuleDict({"network": network}).eval()


def results(networks: nn.ModuleDict) -> tuple[torch.Tensor, torch.Tensor]:
    z = torch.randn(5, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
    values = networks["network"](z)
    return values.detach(), torch.autograd.grad(values.sum(), z)[0]


@pytest.mark.parametrize("library", [True, False], ids=["with the library's operators", "with plain layers"])
def test_outputs_and_gradients_stay_the_same(plain, library, monkeypatch):
    if not library:
        monkeypatch.setattr("models.inference.folding.available", lambda device: False)
    ready = prepare(plain, CPU)
    for there, here in zip(results(plain), results(ready), strict=True):
        scale = there.abs().max()
        assert (there - here).abs().max() <= 1e-5 * scale
    assert not any(parameter.requires_grad for parameter in ready.parameters())
    assert not any(module.training for module in ready.modules())


def test_what_is_prepared_is_a_copy(plain):
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    prepare(plain, CPU)
    assert all(torch.equal(tensor, before[name]) for name, tensor in plain.state_dict().items())


def test_what_is_recognised_is_frozen_or_steady_at_any_depth_and_all_else_is_left():
    network = prepare(nn.ModuleDict({"network": Network()}), CPU)["network"]
    lone = [network.blocks[0].first, network.blocks[1].shortcut, network.inner[1].first, network.shared]
    assert all(isinstance(layer, FrozenLayer) for layer in lone)
    assert network.shared is network.again
    assert isinstance(network.up[0], FrozenRun | nn.Linear | SteadyLinear)
    assert isinstance(network.blocks[0].rest[1], FrozenRun)
    assert network.tied.weight.shape == (11, 20)  # the network uses it directly
    assert isinstance(network.last, SteadyLinear)
    assert [type(network.scaled), type(network.grouped), type(network.nested[2])] == [Scaled, nn.Conv2d, Doubling]
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 1 + 3  # of the batch at hand, and of the three blocks, which call theirs by themselves


def test_bytes_count_the_weights_of_a_lone_layer_once():
    layer = nn.Conv2d(8, 8, 3)
    ready = prepare(nn.ModuleDict({"layer": nn.ModuleList([layer])}), CPU)
    assert sum(tensor.nbytes for tensor in ready.state_dict().values()) == sum(tensor.nbytes for tensor in layer.state_dict().values())

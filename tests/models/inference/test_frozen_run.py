"""Frozen runs give what the plain layers give, forwards and backwards, and overwrite nothing that is anybody else's."""

import pytest
import torch
from torch import nn

from models.inference.frozen_run import FrozenRun, available, frozen
from models.inference.layout import channels_last

pytestmark = pytest.mark.skipif(not available(torch.device("cpu")), reason="needs oneDNN's operators")

UP = [nn.Linear(6, 8 * 3 * 3), nn.Unflatten(1, (8, 3, 3)), nn.ReLU(), nn.ConvTranspose2d(8, 5, 4, 2, 1), nn.LeakyReLU(0.2)]
DOWN = [nn.Conv2d(5, 7, 3, 2, 1), nn.LeakyReLU(0.1), nn.Flatten(), nn.Linear(7 * 3 * 3, 2)]
CASES = {
    "up": (UP, (6,)),
    "to pixels": ([*UP, nn.Conv2d(5, 1, 3, 1, 1), nn.Tanh()], (6,)),
    "down": (DOWN, (5, 6, 6)),
    "both": ([*UP, *DOWN], (6,)),
    "activation first": ([nn.ReLU(), nn.Conv2d(5, 4, 3, 1, 1), nn.ReLU()], (5, 6, 6)),
    "one that stays between": ([nn.Conv2d(5, 4, 3, 1, 1), nn.ELU(), nn.Conv2d(4, 3, 1), nn.ReLU(), nn.Linear(6, 2, bias=False)], (5, 6, 6)),
}


def gradient(layers: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    points = inputs.clone().requires_grad_()
    return torch.autograd.grad(layers(points).square().sum(), points)[0]


@pytest.mark.parametrize("case", ["up", "to pixels", "down", "both", "activation first"])
def test_outputs_and_gradients_are_those_of_the_plain_layers(case):
    layers, shape = CASES[case]
    inputs = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0))
    kept, plain, ready = inputs.clone(), nn.Sequential(*layers), nn.Sequential(*frozen(channels_last(layers)))
    torch.testing.assert_close(ready(inputs), plain(inputs), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient(ready, inputs), gradient(plain, inputs), rtol=1e-5, atol=1e-5)
    assert torch.equal(inputs, kept)


def test_layers_go_into_as_few_runs_as_possible():
    assert [type(layer) for layer in frozen(channels_last(CASES["both"][0]))] == [FrozenRun]
    assert [type(layer) for layer in frozen(CASES["activation first"][0])] == [nn.ReLU, FrozenRun]
    assert [type(layer) for layer in frozen(CASES["one that stays between"][0])] == [FrozenRun, nn.ELU, FrozenRun]


def test_a_gradient_that_others_hold_is_not_overwritten():
    run = nn.Sequential(*frozen([nn.Conv2d(5, 4, 3, 1, 1), nn.ReLU()]))
    points = torch.randn(3, 5, 6, 6, requires_grad=True)
    outputs = run(points)
    held = torch.ones_like(outputs)
    torch.autograd.grad(outputs, points, held)
    assert torch.equal(held, torch.ones_like(held))


def test_a_second_derivative_is_refused_rather_than_wrong():
    run = nn.Sequential(*frozen([nn.Conv2d(5, 4, 3, 1, 1), nn.Tanh()]))
    points = torch.randn(3, 5, 6, 6, requires_grad=True)
    (slope,) = torch.autograd.grad(run(points).square().sum(), points, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_a_device_without_the_library_keeps_the_plain_layers():
    assert not available(torch.device("cuda"))
    assert not available(torch.device("meta"))

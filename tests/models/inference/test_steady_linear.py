"""Linear layers with steady gradients: those of the plain layer, and the same bits wherever a row stands."""

import pytest
import torch
from torch import nn

from models.inference.steady_linear import VECTOR, SteadyLinear, steady

CPU = torch.device("cpu")


def gradients(layer: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    points = rows.clone().requires_grad_()
    return torch.autograd.grad(layer(points).square().sum(), points)[0]


@pytest.mark.parametrize(("inputs", "outputs"), [(6, 24), (7, 24), (10, 64), (100, 784), (128, 3136)])
def test_outputs_and_gradients_are_those_of_the_plain_layer(inputs, outputs):
    torch.manual_seed(0)
    plain, rows = nn.Linear(inputs, outputs), torch.randn(12, inputs)
    layer = steady(plain, CPU)
    assert isinstance(layer, SteadyLinear)
    assert torch.equal(layer(rows), plain(rows))
    torch.testing.assert_close(gradients(layer, rows), gradients(plain, rows), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("inputs", [1, 2, 3, 5, 6, 7, 9, 10, 15, 30, 100])
@pytest.mark.parametrize("shift", [1, 2, 3])
def test_a_row_has_the_same_gradient_in_every_slot(inputs, shift):
    torch.manual_seed(inputs)
    layer, rows = steady(nn.Linear(inputs, 64), CPU), torch.randn(64 + shift, inputs)
    assert torch.equal(gradients(layer, rows[:64])[shift:], gradients(layer, rows[shift:])[:-shift])


def test_a_layer_that_is_steady_by_itself_stays_as_it_is():
    plain = nn.Linear(2 * VECTOR, 64)
    assert steady(plain, CPU) is plain
    relu = nn.ReLU()
    assert steady(relu, CPU) is relu


def test_other_devices_keep_the_plain_layer():
    narrow = nn.Linear(5, 64)
    assert steady(narrow, CPU) is not narrow
    assert steady(narrow, torch.device("meta")) is narrow

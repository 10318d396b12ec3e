"""Frozen convolutions, both ways: those of the plain layer, whichever way is taken, and the same bits wherever a row stands."""

import pytest
import torch
from torch import nn

from models.inference.frozen_convolution import REFUSED, Columns, Down, FrozenConvolution, Up
from models.inference.frozen_run import available

pytestmark = pytest.mark.skipif(not available(torch.device("cpu")), reason="needs oneDNN's operators")

LAYERS = [  # and the height and width of their inputs
    (nn.Conv2d(5, 70, 3, 1, 1), 7, 7),
    (nn.Conv2d(33, 18, 4, 2, 1), 14, 14),
    (nn.Conv2d(33, 18, 4, 2, 1, bias=False), 13, 9),
    (nn.Conv2d(16, 20, 3, 2, 1), 8, 11),
    (nn.Conv2d(16, 20, 5, 3, 0), 12, 16),
    (nn.Conv2d(1, 32, 4, 2, 1), 28, 28),
    (nn.Conv2d(1, 32, 4, 2, 1), 15, 11),
    (nn.Conv2d(3, 12, 3, 1, 0), 9, 6),
    (nn.Conv2d(32, 1, 3, 1, 1), 28, 28),
    (nn.Conv2d(7, 2, 3, 1, 1, bias=False), 5, 6),
    (nn.Conv2d(6, 3, 1), 4, 5),
    (nn.Conv2d(6, 1, 3, 1, 4), 4, 5),
    (nn.ConvTranspose2d(128, 64, 4, 2, 1), 7, 7),
    (nn.ConvTranspose2d(128, 64, 4, 2, 1), 7, 5),
    (nn.ConvTranspose2d(64, 32, 4, 2, 1, bias=False), 14, 14),
    (nn.ConvTranspose2d(24, 17, 3, 2, 1), 4, 4),
    (nn.ConvTranspose2d(32, 48, 4), 1, 1),
    (nn.ConvTranspose2d(9, 21, 3, 1, 1), 5, 7),
    (nn.ConvTranspose2d(16, 1, 4, 2, 1), 14, 14),
    (nn.ConvTranspose2d(16, 3, 3, 2, 1), 3, 5),
]


def named(value: object) -> str:
    return str(value).replace("kernel_size", "k").replace("stride", "s")


def rows_for(layer: nn.Module, rows: int, height: int, width: int) -> torch.Tensor:
    maps = torch.randn(rows, layer.in_channels, height, width, generator=torch.Generator().manual_seed(0))
    return maps.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("layer", "height", "width"), LAYERS, ids=named)
def test_outputs_and_gradients_are_those_of_the_plain_layer(layer, height, width):
    assert FrozenConvolution.covers(layer)
    inputs = rows_for(layer, 5, height, width).requires_grad_()
    outputs = layer(inputs)
    gradient = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1))
    frozen = FrozenConvolution(layer)
    with torch.no_grad():
        torch.testing.assert_close(frozen.there(inputs), outputs, rtol=1e-5, atol=1e-5)
        wanted = torch.autograd.grad(outputs, inputs, gradient)[0]
        torch.testing.assert_close(frozen.back(gradient, outputs, inputs.shape), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("layer", "height", "width"), LAYERS, ids=named)
def test_a_row_has_the_same_bits_in_every_slot_of_every_size_on_any_threads(layer, height, width):
    inputs, before, seen = rows_for(layer, 67, height, width), torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            frozen = FrozenConvolution(layer)  # the order of its weights may depend on the threads there were
            with torch.no_grad():
                for size in (64, 4, 12, 32):
                    for first in (0, 1, 3):
                        part = inputs[first : first + size]
                        outputs = frozen.there(part)
                        seen.append((first, outputs, frozen.back(outputs, outputs, part.shape)))
    finally:
        torch.set_num_threads(before)
    _, *expected = seen[0]
    for first, *results in seen:
        for result, whole in zip(results, expected, strict=True):
            assert torch.equal(result[: 64 - first], whole[first : first + len(result)])


def test_few_channels_are_reached_by_columns_and_many_by_the_library():
    def ways(layer):
        frozen = FrozenConvolution(layer)
        return type(frozen._forth), type(frozen._home)

    assert ways(nn.Conv2d(32, 64, 4, 2, 1)) == (Down, Up)
    assert ways(nn.ConvTranspose2d(64, 32, 4, 2, 1)) == (Up, Down)
    assert ways(nn.Conv2d(1, 32, 4, 2, 1)) == (Down, Columns)
    assert ways(nn.Conv2d(32, 1, 3, 1, 1))[0] is Columns
    assert ways(nn.ConvTranspose2d(16, 1, 4, 2, 1)) == (Columns, Down)


def test_the_shape_that_the_library_refuses_is_among_those_tested():
    deep, wide, kernel, stride, padding, height, width = REFUSED[:7]
    shapes = [
        (layer.in_channels, layer.out_channels, layer.kernel_size[0], layer.stride[0], layer.padding[0], *size) for layer, *size in LAYERS
    ]
    assert (deep, wide, kernel, stride, padding, height, width) in shapes


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, (3, 5)),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.ConvTranspose2d(4, 4, 3, 2, 1, output_padding=1),
        nn.Linear(4, 4),
    ],
    ids=named,
)
def test_what_it_does_not_know_it_does_not_cover(layer):
    assert not FrozenConvolution.covers(layer)


def test_the_copies_it_makes_are_counted():
    layer = nn.ConvTranspose2d(64, 32, 4, 2, 1)
    frozen, maps = FrozenConvolution(layer), rows_for(layer, 8, 14, 14)
    with torch.no_grad():
        outputs = frozen.there(maps)
        frozen.back(outputs, outputs, maps.shape)
    ordered = [weight for way in (frozen._forth, frozen._home) for weight in way._ordered.values()]
    assert len(ordered) == 2
    assert frozen.copies == sum(weight.numel() * weight.element_size() for weight in ordered)

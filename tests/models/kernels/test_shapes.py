"""Latents have any shape: on images every kernel does bit for bit what it does on the same numbers in a row."""

import pytest
import torch

from models import sampling
from models.kernels import KERNELS

IMAGE = (1, 4, 4)


class Valley:
    """An energy that is not the same in every direction, over latents of any shape."""

    data = None

    def energy(self, z: torch.Tensor, data: torch.Tensor | None = None) -> torch.Tensor:
        rows = z.flatten(1)
        return (0.5 * torch.linspace(0.2, 2, rows.shape[1]) * rows.square() + 0.1 * rows.roll(1, 1) * rows.cos()).sum(1)


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_gives_the_same_bits_on_images_as_on_rows_of_numbers(name):
    kernel = KERNELS[name](steps=12, step_size=0.3, temperature=0.8)
    start = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    rows, images = (sampling.run(kernel, Valley(), z, random=torch.Generator().manual_seed(1)) for z in (start, start.reshape(5, *IMAGE)))
    assert images.chains.z.shape == (5, *IMAGE)
    assert not torch.equal(rows.chains.z, start)
    assert torch.equal(images.chains.z.flatten(1), rows.chains.z)
    assert torch.equal(images.energies, rows.energies)
    assert torch.equal(images.acceptance, rows.acceptance)

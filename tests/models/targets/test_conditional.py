"""DDLS by class, over (z, z') and at a critic temperature, under linear networks: Gaussians known in closed form, at four standard errors.

G(z, y) = Wz + b_y and d(x, y) = a_y·x + c_y give N(Wᵀa_y, I), G(z) + σz' gives N((Wᵀa, σa), I), and critic temperature β N(βu, I).
"""

import math

import pytest
import torch
from torch import nn

from models.kernels import KERNELS
from models.networks.output_noise import OutputNoise
from models.sampling import run
from models.targets.ddls import Ddls

LATENT, PIXELS, CLASSES, CHAINS = 3, 4, 3, 15_000
SIGMA = 0.7
EXACT = [name for name, kernel in KERNELS.items() if kernel.exact]


def matrix(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) / math.sqrt(columns)


W, A, B = matrix(PIXELS, LATENT, 1), matrix(CLASSES, PIXELS, 2), matrix(CLASSES, PIXELS, 3)


class Images(nn.Module):
    """G(z, y) = Wz + b_y as an image of one row, or Wz where no class is given."""

    def forward(self, z: torch.Tensor, *classes: torch.Tensor) -> torch.Tensor:
        shift = B[classes[0]] if classes else 0
        return (z @ W.T + shift)[:, None, None]


class Logit(nn.Module):
    """d(x, y) = a_y·x, of the first class where none is given."""

    def forward(self, images: torch.Tensor, *classes: torch.Tensor) -> torch.Tensor:
        weights = A[classes[0]] if classes else A[0]
        return (images.flatten(1) * weights).sum(1)


def drawn(kernel: str, target: Ddls, size: int, data: torch.Tensor | None = None, beta: float = 1.0) -> torch.Tensor:
    settings = KERNELS[kernel](steps=60 // KERNELS[kernel](steps=1).ticks, step_size=0.8, beta=beta)
    z = torch.randn(CHAINS, size, generator=torch.Generator().manual_seed(3))
    return run(settings, target, z, random=torch.Generator().manual_seed(4), data=data).chains.z


def assert_normal(draws: torch.Tensor, mean: torch.Tensor) -> None:
    """N(mean, I)."""
    count = len(draws)
    assert ((draws.mean(0) - mean).abs() < 4 / math.sqrt(count)).all()
    error = ((torch.eye(len(mean)) + 1) / count).sqrt()
    assert ((draws.T.cov() - torch.eye(len(mean))).abs() < 4 * error).all()


@pytest.mark.parametrize("kernel", EXACT)
def test_every_class_has_its_own_mean_though_all_are_sampled_together(kernel):
    classes = torch.arange(CHAINS) % CLASSES
    draws = drawn(kernel, Ddls(Images(), Logit(), "class"), LATENT, classes)
    for label in range(CLASSES):
        assert_normal(draws[classes == label], W.T @ A[label])
    assert torch.pdist(A @ W).min() > 20 / math.sqrt(CHAINS)  # classes that could be mistaken for one another would prove nothing


@pytest.mark.parametrize("kernel", EXACT)
def test_latent_and_noise_of_the_image_are_sampled_together(kernel):
    target = Ddls(OutputNoise(Images(), LATENT, SIGMA), Logit())
    assert_normal(drawn(kernel, target, LATENT + PIXELS), torch.cat([W.T @ A[0], SIGMA * A[0]]))


@pytest.mark.parametrize("kernel", EXACT)
@pytest.mark.parametrize("beta", [0.0, 0.4, 2.0])
def test_the_critic_temperature_scales_the_mean(kernel, beta):
    assert_normal(drawn(kernel, Ddls(Images(), Logit()), LATENT, beta=beta), beta * W.T @ A[0])


def test_a_class_over_pairs_at_a_critic_temperature():
    classes = torch.arange(CHAINS) % CLASSES
    draws = drawn("mala", Ddls(OutputNoise(Images(), LATENT, SIGMA), Logit(), "class"), LATENT + PIXELS, classes, beta=0.5)
    for label in range(CLASSES):
        assert_normal(draws[classes == label], 0.5 * torch.cat([W.T @ A[label], SIGMA * A[label]]))

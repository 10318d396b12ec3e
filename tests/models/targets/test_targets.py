"""Targets under linear networks, whose densities are Gaussians known in closed form."""

import math

import pytest
import torch
from torch import nn

from models.kernels import KERNELS
from models.kernels.langevin import Langevin
from models.sampling import run
from models.targets.base import evaluate
from models.targets.ddls import Ddls
from models.targets.latent_ebm import LatentEbm
from models.targets.posterior import Posterior

LATENT, PIXELS, CHAINS = 3, 4, 20_000


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def matrix(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=random(seed)) / math.sqrt(columns)


class Linear(nn.Module):
    """G(z) = Wz as an image of one row, or d(x) = a·x."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        values = inputs.flatten(1) @ self.weight.T
        return values.squeeze(1) if len(self.weight) == 1 else values[:, None, None]


def assert_gaussian(draws: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor) -> None:
    """Mean and covariance at four standard errors."""
    count = len(draws)
    spread = covariance.diagonal()
    assert ((draws.mean(0) - mean).abs() < 4 * (spread / count).sqrt()).all()
    error = ((covariance.square() + spread.outer(spread)) / count).sqrt()
    assert ((draws.T.cov() - covariance).abs() < 4 * error).all()


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_ddls_under_a_linear_critic_is_a_shifted_normal(temperature):
    w, a = matrix(PIXELS, LATENT, 1), matrix(1, PIXELS, 2)
    u = (w.T @ a.T).squeeze(1)
    z = torch.randn(CHAINS, LATENT, generator=random(3))
    kernel = KERNELS["mala"](steps=60, step_size=0.8, temperature=temperature)
    draws = run(kernel, Ddls(Linear(w), Linear(a)), z, random=random(4)).chains.z
    assert_gaussian(draws, u, temperature * torch.eye(LATENT))


def test_a_latent_ebm_with_linear_f_is_a_shifted_normal():
    u = matrix(1, LATENT, 5)
    z = torch.randn(CHAINS, LATENT, generator=random(6))
    draws = run(KERNELS["mala"](steps=60, step_size=0.8), LatentEbm(Linear(u)), z, random=random(7)).chains.z
    assert_gaussian(draws, u.squeeze(0), torch.eye(LATENT))


def posterior() -> tuple[Posterior, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The target, one image, and the mean and covariance of its posterior."""
    w, u, sigma = matrix(PIXELS, LATENT, 8), matrix(1, LATENT, 9), 0.5
    image = torch.randn(PIXELS, generator=random(10))
    covariance = torch.linalg.inv(torch.eye(LATENT) + w.T @ w / sigma**2)
    mean = covariance @ (w.T @ image / sigma**2 + u.squeeze(0))
    return Posterior(Linear(w), Linear(u), sigma), image[None, None, None], mean, covariance


@pytest.mark.parametrize("name", [name for name, kernel in KERNELS.items() if kernel.exact])
def test_the_posterior_of_a_linear_generator_is_the_known_gaussian(name):
    target, image, mean, covariance = posterior()
    kernel = KERNELS[name](steps=200 // KERNELS[name](steps=1).ticks, step_size=0.2)
    z = torch.randn(CHAINS, LATENT, generator=random(11))
    images = image.expand(CHAINS, 1, 1, PIXELS)
    assert_gaussian(run(kernel, target, z, random=random(12), data=images).chains.z, mean, covariance)


def test_k_langevin_steps_on_the_posterior_follow_the_recursion():
    target, image, mean, covariance = posterior()
    epsilon, steps = 0.05, 25
    z = torch.randn(1, LATENT, generator=random(13)).expand(CHAINS, LATENT)
    draws = run(Langevin(steps=steps, step_size=epsilon), target, z, random=random(14), data=image.expand(CHAINS, 1, 1, PIXELS)).chains.z
    a = torch.eye(LATENT) - epsilon / 2 * torch.linalg.inv(covariance)
    expected, spread = mean + torch.linalg.matrix_power(a, steps) @ (z[0] - mean), torch.zeros(LATENT, LATENT)
    for _ in range(steps):
        spread = a @ spread @ a.T + epsilon * torch.eye(LATENT)
    assert_gaussian(draws, expected, spread)


def test_a_posterior_without_an_image_says_so():
    with pytest.raises(ValueError, match="image"):
        evaluate(posterior()[0], torch.zeros(2, LATENT))


def test_langevin_does_not_drop_the_prior_term():
    flat = LatentEbm(Linear(torch.zeros(1, LATENT)))
    z = torch.ones(5, LATENT)
    assert torch.allclose(evaluate(flat, z).gradient, z)

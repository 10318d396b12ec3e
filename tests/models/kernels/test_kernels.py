"""Every kernel on Gaussians whose answers are known in closed form, at four standard errors."""

import math

import pytest
import torch

from models.kernels import KERNELS
from models.kernels.hmc import Hmc
from models.kernels.langevin import Langevin
from models.kernels.local_global import LocalGlobal
from models.kernels.mala import Mala
from models.sampling import run

CHAINS = 20_000
EXACT = [name for name, kernel in KERNELS.items() if kernel.exact]


class Gaussian:
    """N(mean, variance · I): what DDLS has for a target under a linear critic, with mean Wᵀa."""

    def __init__(self, mean: torch.Tensor, variance: float = 1.0) -> None:
        self.mean, self.variance = mean, variance

    def energy(self, z: torch.Tensor, data: torch.Tensor | None = None) -> torch.Tensor:
        return 0.5 * (z - self.mean).square().sum(-1) / self.variance


def random(seed: int = 11) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def prior(chains: int, latent: int, seed: int = 5) -> torch.Tensor:
    return torch.randn(chains, latent, generator=random(seed))


def assert_mean(draws: torch.Tensor, expected: float, variance: float) -> None:
    assert abs(draws.double().mean() - expected) < 4 * math.sqrt(variance / draws.numel())


def assert_variance(draws: torch.Tensor, expected: float) -> None:
    assert abs(draws.double().var() - expected) < 4 * expected * math.sqrt(2 / draws.numel())


@pytest.mark.parametrize(("epsilon", "steps", "share"), [(0.01, 100, 0.3942), (0.16, 20, 0.8113), (0.16, 60, 0.9933)])
def test_langevin_has_the_mean_and_variance_of_the_recursion(epsilon, steps, share):
    target, rho = Gaussian(torch.full((4,), 1.5)), 1 - epsilon / 2
    assert 1 - rho**steps == pytest.approx(share, abs=5e-5)
    draws = run(Langevin(steps=steps, step_size=epsilon), target, prior(CHAINS, 4), random=random()).chains.z
    variance = rho ** (2 * steps) + epsilon * (1 - rho ** (2 * steps)) / (1 - rho**2)
    assert_mean(draws, 1.5 * share, variance)
    assert_variance(draws, variance)


@pytest.mark.parametrize(("epsilon", "inflated"), [(0.16, 1.04167), (0.5, 1.1429), (1.0, 1.3333)])
def test_langevin_is_biased_by_exactly_its_step(epsilon, inflated):
    draws = run(Langevin(steps=200, step_size=epsilon), Gaussian(torch.zeros(2)), prior(CHAINS, 2), random=random()).chains.z
    assert inflated == pytest.approx(1 / (1 - epsilon / 4), abs=1e-4)
    assert_variance(draws, inflated)


@pytest.mark.parametrize(("noise_scale", "temperature"), [(0.5, 1.0), (1.0, 0.25), (2.0, 0.5)])
def test_langevin_samples_at_the_temperature_it_reports(noise_scale, temperature):
    kernel = Langevin(steps=150, step_size=0.1, noise_scale=noise_scale, temperature=temperature)
    draws = run(kernel, Gaussian(torch.zeros(2)), prior(4000, 2), random=random()).chains.z
    assert kernel.effective_temperature == noise_scale**2 * temperature
    assert_variance(draws, kernel.effective_temperature / (1 - 0.1 / 4))


def test_langevin_at_temperature_zero_is_gradient_descent():
    z = prior(10, 3)
    draws = run(Langevin(steps=30, step_size=0.5, temperature=0), Gaussian(torch.zeros(3)), z, random=random()).chains.z
    assert torch.allclose(draws, z * 0.75**30, atol=1e-6)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize(("temperature", "variance"), [(1.0, 1.0), (0.5, 1.0), (2.0, 0.3)])
def test_an_exact_kernel_has_exactly_the_targets_moments(name, temperature, variance):
    steps = 120 // KERNELS[name](steps=1).ticks
    kernel = KERNELS[name](steps=steps, step_size=0.6 * variance, temperature=temperature)
    draws = run(kernel, Gaussian(torch.full((2,), 0.8), variance), prior(CHAINS, 2), random=random()).chains.z
    assert_mean(draws, 0.8, temperature * variance)
    assert_variance(draws, temperature * variance)


def kolmogorov(draws: torch.Tensor) -> float:
    """√n times the largest distance between the empirical distribution and N(0, 1)."""
    ordered = draws.double().flatten().sort().values
    normal = 0.5 * (1 + torch.erf(ordered / math.sqrt(2)))
    count = len(ordered)
    above = (torch.arange(1, count + 1) / count - normal).max()
    below = (normal - torch.arange(count) / count).max()
    return math.sqrt(count) * float(torch.maximum(above, below))


LIMIT = 2.23  # of Kolmogorov's distribution at 4 sigma: 2 exp(-2 x²) = 1e-4, rounded up


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_kernel_started_at_the_target_stays_there(name):
    target, z = Gaussian(torch.zeros(1)), prior(200_000, 1)
    assert kolmogorov(run(KERNELS[name](steps=1, step_size=1.0), target, z, random=random()).chains.z) < LIMIT


def test_an_inexact_kernel_started_at_the_target_is_caught_leaving_it():
    target, z = Gaussian(torch.zeros(1)), prior(200_000, 1)
    assert kolmogorov(run(Langevin(steps=1, step_size=1.0), target, z, random=random()).chains.z) > LIMIT


@pytest.mark.parametrize(("epsilon", "acceptance"), [(0.1, 0.96855), (0.16, 0.93640), (0.5, 0.65949)])
def test_mala_accepts_as_often_as_theory_says(epsilon, acceptance):
    ran = run(Mala(steps=50, step_size=epsilon), Gaussian(torch.zeros(100)), prior(2000, 100), random=random())
    error = ran.acceptance.double().std() / math.sqrt(len(ran.acceptance))
    assert abs(ran.acceptance.double().mean() - acceptance) < 4 * error


@pytest.mark.parametrize("noise_scale", [0.7, 1.3])
def test_malas_noise_scale_changes_the_proposal_and_not_the_density(noise_scale):
    kernel = Mala(steps=150, step_size=0.4, noise_scale=noise_scale)
    assert_variance(run(kernel, Gaussian(torch.zeros(2)), prior(CHAINS, 2), random=random()).chains.z, 1.0)


@pytest.mark.parametrize("name", KERNELS)
def test_a_nan_energy_is_never_hidden(name):
    class Broken(Gaussian):
        def energy(self, z, data=None):
            return super().energy(z).where(z[:, 0] > -0.5, torch.nan)

    ran = run(KERNELS[name](steps=30), Broken(torch.zeros(2)), prior(200, 2), random=random())
    assert ran.chains.energy.isnan().any()


@pytest.mark.parametrize("name", EXACT)
def test_a_wall_of_infinite_energy_is_rejected_and_not_entered(name):
    class Walled(Gaussian):
        def energy(self, z, data=None):
            return super().energy(z).where(z[:, 0] > 0, torch.inf)

    ran = run(KERNELS[name](steps=30, step_size=0.5), Walled(torch.zeros(2)), prior(500, 2).abs(), random=random())
    assert ran.chains.energy.isfinite().all()
    assert (ran.chains.z[:, 0] > 0).all()


def test_hmc_with_one_leapfrog_step_is_mala():
    target, z = Gaussian(torch.full((5,), 0.4), 0.7), prior(300, 5)
    hmc = run(Hmc(steps=40, step_size=0.5, leapfrog_steps=1, temperature=0.8), target, z, random=random())
    mala = run(Mala(steps=40, step_size=0.5, temperature=0.8), target, z, random=random())
    assert torch.equal(hmc.acceptance, mala.acceptance)
    assert torch.allclose(hmc.chains.z, mala.chains.z, atol=1e-4)


class Grid:
    """25 Gaussians seen through G(z) = 2z by a perfect critic: the DDLS target is the mixture itself."""

    means = torch.cartesian_prod(torch.arange(-2.0, 3), torch.arange(-2.0, 3))
    deviation = 0.05

    def energy(self, z: torch.Tensor, data: torch.Tensor | None = None) -> torch.Tensor:
        squares = (2 * z.unsqueeze(1) - self.means).square().sum(-1) / (2 * self.deviation**2)
        data_density = (-squares).logsumexp(1)
        log_ratio = data_density + (2 * z).square().sum(-1) / 8
        return 0.5 * z.square().sum(-1) - log_ratio

    def quality(self, z: torch.Tensor) -> tuple[float, float]:
        """The share of points within three deviations of a mean, and the reverse KL of mode weights from uniform."""
        distance, mode = torch.cdist(2 * z, self.means).min(1)
        share = torch.bincount(mode, minlength=25).double() / len(z)
        return float((distance < 3 * self.deviation).double().mean()), float((share * (share * 25).log()).nansum())


def test_local_global_finds_25_gaussians_and_their_weights():
    count, grid = 4000, Grid()
    good, divergence = grid.quality(run(LocalGlobal(steps=20, step_size=0.0005), grid, prior(count, 2), random=random()).chains.z)
    assert abs(good - 0.9889) < 4 * math.sqrt(0.9889 * 0.0111 / count)
    assert divergence < (24 + 4 * math.sqrt(48)) / (2 * count)  # of 2n KL, which is chi-squared with 24 degrees of freedom


def test_prior_samples_are_mostly_between_the_gaussians():
    good, _ = Grid().quality(prior(4000, 2))
    assert abs(good - 0.045) < 4 * math.sqrt(0.045 * 0.955 / 4000)

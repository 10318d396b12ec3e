"""Targets whose densities are Gaussians known in closed form, and the checks that hold chains to them at four standard errors."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.kernels import Kernel
from models.kernels.langevin import Langevin
from models.networks.conditional import EMBEDDING, ConditionalGenerator, ProjectionCritic
from models.networks.output_noise import OutputNoise
from models.sampling import Ran, run
from models.targets.base import Target
from models.targets.ddls import Ddls
from models.targets.latent_ebm import LatentEbm
from models.targets.pixel import Pixel
from models.targets.posterior import Posterior

LATENT, PIXELS = 3, 4
CHAINS = 20_000
ERRORS = 4  # standard errors that an estimate may be away
KOLMOGOROV = 2.23  # the same for Kolmogorov's statistic: 2 exp(-2 x²) is 1e-4 there


class Gaussian(NamedTuple):
    """N(mean, covariance); the chains of a group are those whose row is the group's modulo their number."""

    mean: Tensor  # (groups, dimensions)
    covariance: Tensor  # (dimensions, dimensions)

    def at(self, temperature: float) -> "Gaussian":
        """The density to the power of 1/T."""
        return self._replace(covariance=temperature * self.covariance)

    def tempered(self, beta: float) -> "Gaussian":
        """The density to the power of β times N(0, I) to the power of 1 - β: N(βu, I) where this one is N(u, I)."""
        identity = torch.eye(len(self.covariance))
        precision = beta * torch.linalg.inv(self.covariance)
        covariance = torch.linalg.inv(precision + (1 - beta) * identity)
        return Gaussian(self.mean @ precision @ covariance, covariance)

    def draw(self, chains: int, device: torch.device | str = "cpu") -> Tensor:
        """Independent points, (chains, dimensions)."""
        values, vectors = torch.linalg.eigh(self.covariance)
        root = vectors * values.clamp(min=0).sqrt()
        normal = torch.randn(chains, len(root), generator=random(5))
        groups, dimensions = self.mean.shape
        return ((normal @ root.T).unflatten(0, (-1, groups)) + self.mean).reshape(chains, dimensions).to(device)


class Problem(NamedTuple):
    """A target, the Gaussian that it is, a step at which MALA accepts most proposals and no trajectory of HMC ends where it began."""

    target: Target
    answer: Gaussian
    step_size: float
    ticks: int  # evaluations that forget the start
    data: Tensor | None = None  # (groups, ...), what the chains of each group are conditioned on
    near: Gaussian | None = None  # where chains begin, if not at the prior

    @property
    def start(self) -> Gaussian:
        return self.near or Gaussian(torch.zeros_like(self.answer.mean), torch.eye(len(self.answer.covariance)))


class Row(NamedTuple):
    """A kernel that takes chains from one Gaussian to another."""

    problem: Problem
    kernel: Kernel
    start: Gaussian
    answer: Gaussian
    chains: int = CHAINS


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def matrix(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=random(seed)) / math.sqrt(columns)


class Affine(nn.Module):
    """Wz + b as an image of one row of pixels."""

    def __init__(self, weight: Tensor, bias: Tensor | float = 0.0) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, z: Tensor) -> Tensor:
        return (z @ self.weight.T + self.bias)[:, None, None]


class Quadratic(nn.Module):
    """a·x - xᵀQx/2 + c of an image or a latent."""

    def __init__(self, a: Tensor, q: Tensor | None = None, c: float = 0.7) -> None:
        super().__init__()
        self.a, self.q, self.c = a, torch.zeros(len(a), len(a)) if q is None else q, c

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(1)
        return rows @ self.a - 0.5 * ((rows @ self.q) * rows).sum(1) + self.c


class Scores(nn.Module):
    """Several linear functions of an image, (rows, functions)."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


class Flat:
    """N(mean, variance · I) written down directly, for kernels alone."""

    data = None

    def __init__(self, mean: Tensor, variance: float = 1.0) -> None:
        self.mean, self.variance = mean, variance

    def energy(self, z: Tensor, data: Tensor | None = None) -> Tensor:
        return 0.5 * (z - self.mean.to(z.device)).square().sum(-1) / self.variance


def plain(mean: Tensor, variance: float = 1.0, step_size: float = 0.8) -> Problem:
    return Problem(Flat(mean, variance), Gaussian(mean.unsqueeze(0), variance * torch.eye(len(mean))), step_size * variance, 80)


def linear_critic() -> Problem:
    """G(z) = Wz + b, d(x) = a·x + c: DDLS is N(Wᵀa, I)."""
    w, a = matrix(PIXELS, LATENT, 1), matrix(PIXELS, 1, 2).squeeze(1)
    target = Ddls(Affine(w, torch.tensor([1.0, -2.0, 0.5, 0.0])), Quadratic(a))
    return Problem(target, Gaussian((w.T @ a).unsqueeze(0), torch.eye(LATENT)), 0.8, 80)


def quadratic_critic() -> Problem:
    """d(G(z)) = u·z - zᵀAz/2 + const: DDLS is N((I + A)⁻¹u, (I + A)⁻¹)."""
    w, b, a = matrix(PIXELS, LATENT, 1), torch.tensor([1.0, -1.0, 0.5, 0.0]), matrix(PIXELS, 1, 3).squeeze(1)
    half = matrix(PIXELS, PIXELS, 4)
    q = half @ half.T
    covariance = torch.linalg.inv(torch.eye(LATENT) + w.T @ q @ w)
    mean = covariance @ w.T @ (a - q @ b)
    return Problem(Ddls(Affine(w, b), Quadratic(a, q)), Gaussian(mean.unsqueeze(0), covariance), 0.55, 120)


def output_noise() -> Problem:
    """G(z) = Wz + b + σz', d(x) = a·x + c: DDLS on (z, z') is N((Wᵀa, σa), I)."""
    w, a, sigma = matrix(PIXELS, LATENT, 11), 2 * matrix(PIXELS, 1, 12).squeeze(1), 0.6
    target = Ddls(OutputNoise(Affine(w, 0.5), LATENT, sigma), Quadratic(a))
    return Problem(target, Gaussian(torch.cat([w.T @ a, sigma * a]).unsqueeze(0), torch.eye(LATENT + PIXELS)), 0.6, 80)


def classes() -> Problem:
    """G(z, y) = Wz + b_y, d(x, y) = (a + a_y)·x: DDLS is N(Wᵀ(a + a_y), I) for a chain of class y, and chains have all four in turn."""
    w, a = matrix(PIXELS, LATENT + EMBEDDING, 13), matrix(1 + 4, PIXELS, 14) * 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(15)
        generator = ConditionalGenerator(Affine(w), 4)
    target = Ddls(generator, ProjectionCritic(Scores(a), 4), data="class")
    return Problem(target, Gaussian((a[0] + a[1:]) @ w[:, :LATENT], torch.eye(LATENT)), 0.8, 80, torch.arange(4))


def latent_ebm() -> Problem:
    """f(z) = u·z: LEBM's prior is N(u, I)."""
    u = 2 * matrix(LATENT, 1, 5).squeeze(1)
    return Problem(LatentEbm(Quadratic(u)), Gaussian(u.unsqueeze(0), torch.eye(LATENT)), 0.8, 80)


def posterior() -> Problem:
    """x = Wz + σe, f(z) = u·z: N(m, S) with S = (I + WᵀW/σ²)⁻¹ and m = S(Wᵀx/σ² + u), for two images in turn."""
    w, u, sigma, images = matrix(PIXELS, LATENT, 8), matrix(LATENT, 1, 9).squeeze(1), 0.5, torch.randn(2, PIXELS, generator=random(10))
    covariance = torch.linalg.inv(torch.eye(LATENT) + w.T @ w / sigma**2)
    mean = (images @ w / sigma**2 + u) @ covariance
    return Problem(Posterior(Affine(w), Quadratic(u), sigma), Gaussian(mean, covariance), 0.2, 200, images[:, None, None])


def pixel() -> Problem:
    """A critic's score -(x - m)ᵀQ(x - m)/2, high well within [-1, 1], where the wall about images is not felt: N(m, (βQ)⁻¹)."""
    half, m, scale = matrix(PIXELS, PIXELS, 16), torch.tensor([0.3, -0.2, 0.0, 0.1]), 40.0
    q = 0.35 * half @ half.T + torch.eye(PIXELS)
    answer = Gaussian(m.unsqueeze(0), torch.linalg.inv(scale * q))
    near = Gaussian(torch.zeros(1, PIXELS), 0.01 * torch.eye(PIXELS))
    return Problem(Pixel(Quadratic(q @ m, q), scale), answer, 0.0145, 100, near=near)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "linear critic": linear_critic,
    "quadratic critic": quadratic_critic,
    "output noise": output_noise,
    "classes": classes,
    "latent EBM": latent_ebm,
    "posterior": posterior,
    "pixel": pixel,
}


def after(kernel: Langevin, answer: Gaussian, start: Gaussian) -> Gaussian:
    """Where K Langevin steps take chains on N(m, S): mean m + Aᴷ(z₀ - m), covariance C ← ACAᵀ + εT·noise_scale²·I, A = I - (ε/2)S⁻¹."""
    identity = torch.eye(len(answer.covariance), dtype=torch.float64)
    a = identity - 0.5 * kernel.step_size * torch.linalg.inv(answer.covariance.double())
    mean, spread = start.mean.double() - answer.mean, start.covariance.double()
    for _ in range(kernel.steps):
        mean, spread = mean @ a.T, a @ spread @ a.T + kernel.step_size * kernel.effective_temperature * identity
    return Gaussian((answer.mean + mean).float(), spread.float())


def ran(row: Row, kernel: Kernel | None = None, device: torch.device | str = "cpu") -> Ran:
    """The chains of a row at their end, under its kernel or another."""
    data = row.problem.data
    each = None if data is None else data.repeat(row.chains // len(data), *(1,) * (data.dim() - 1)).to(device)
    return run(kernel or row.kernel, row.problem.target, row.start.draw(row.chains, device), random=random(11), data=each)


def check(row: Row, kernel: Kernel | None = None) -> None:
    """Runs the chains of a row, under its kernel or another; fails where they are not the Gaussian that they should be."""
    assert_gaussian(ran(row, kernel).chains.z, row.answer)


def assert_gaussian(draws: Tensor, answer: Gaussian) -> None:
    """The mean of each group, the covariance and the shape of independent draws, (chains, dimensions)."""
    grouped = draws.cpu().double().unflatten(0, (-1, len(answer.mean))) - answer.mean  # (chains of a group, groups, dimensions)
    covariance = answer.covariance.double()
    variance = covariance.diagonal()
    assert_near(grouped.mean(0), torch.zeros_like(answer.mean), (variance / len(grouped)).sqrt(), "mean, less the right one")
    centred = grouped.flatten(0, 1)
    error = ((covariance.square() + variance.outer(variance)) / len(centred)).sqrt()
    assert_near(centred.T @ centred / len(centred), covariance, error, "covariance")
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), centred.T, upper=False)
    assert kolmogorov(white) < KOLMOGOROV, f"not normal: Kolmogorov's statistic is {kolmogorov(white):.2f}, and {KOLMOGOROV} at most"


def assert_near(found: Tensor, expected: Tensor | float, error: Tensor | float, what: str) -> None:
    """Fails where an estimate is further away than it may be, or not a number."""
    near = (found - expected).abs() < ERRORS * error
    assert near.all(), f"{what}: found {found.tolist()}, expected {torch.as_tensor(expected).tolist()} ± {torch.as_tensor(error).tolist()}"


def kolmogorov(white: Tensor) -> float:
    """√n times the largest distance between the empirical distribution of n draws and N(0, 1)."""
    ordered = white.double().flatten().sort().values
    normal = 0.5 * (1 + torch.erf(ordered / math.sqrt(2)))
    count = len(ordered)
    above = (torch.arange(1, count + 1) / count - normal).max()
    below = (normal - torch.arange(count) / count).max()
    return math.sqrt(count) * float(torch.maximum(above, below))


def check_acceptance(kernel: Kernel, problem: Problem, expected: float) -> None:
    """Runs chains that begin at their target; fails where they do not accept as often as they should."""
    row = Row(problem, kernel, problem.answer.at(kernel.temperature), problem.answer, chains=1000)
    acceptance = ran(row, kernel).acceptance.double()
    assert_near(acceptance.mean(), expected, acceptance.std() / math.sqrt(len(acceptance)), "acceptance")

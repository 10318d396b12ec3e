"""Every kernel on every target whose density is a Gaussian known in closed form: one table, one check, four standard errors."""

import math
from collections.abc import Iterator

import pytest
import torch

from models import targets
from models.kernels import KERNELS, Chains, Kernel
from models.kernels.hmc import Hmc
from models.kernels.langevin import Langevin
from models.kernels.mala import Mala
from models.sampling import GeneratorNoise, begin, run
from models.targets.base import evaluate
from tests.models.closed_forms import (
    PROBLEMS,
    Gaussian,
    Problem,
    Row,
    after,
    check,
    check_acceptance,
    plain,
    posterior,
    random,
)

EXACT = [name for name, kernel in KERNELS.items() if kernel.exact]
EVALUATIONS = 800_000  # of all chains of a row that begins at the prior


def settled(name: str, problem: Problem, **settings: float) -> Row:
    """From where chains begin to the target, by an exact kernel."""
    steps = problem.ticks // KERNELS[name](steps=1).ticks
    kernel = KERNELS[name].model_validate({"steps": steps, "step_size": problem.step_size} | settings)
    each = sum(kernel.points_per_chain if kernel.is_wide(tick) else 1 for tick in range(kernel.ticks))
    return Row(problem, kernel, problem.start, aim(problem, kernel), chains=EVALUATIONS // each // 4 * 4)


def stayed(name: str, problem: Problem, **settings: float) -> Row:
    """One transition from the target to itself, by an exact kernel with a long step."""
    kernel = KERNELS[name].model_validate({"steps": 1, "step_size": 1.25 * problem.step_size} | settings)
    return Row(problem, kernel, aim(problem, kernel), aim(problem, kernel), chains=40_000)


def aim(problem: Problem, kernel: Kernel) -> Gaussian:
    """What an exact kernel samples, at its β and its temperature."""
    return problem.answer.tempered(kernel.beta).at(kernel.temperature)


def walked(problem: Problem, *, fixed: bool = False, **settings: float) -> Row:
    """K Langevin steps from where chains begin, or from one point, to where the recursion leads."""
    kernel, start = Langevin.model_validate({"step_size": problem.step_size / 8} | settings), problem.start
    if fixed:
        away = torch.linspace(-2, 2, len(start.covariance)) * start.covariance.diagonal().sqrt()
        start = Gaussian(start.mean + away, torch.zeros_like(start.covariance))
    return Row(problem, kernel, start, after(kernel, problem.answer.tempered(kernel.beta), start))


FOUND = {name: build() for name, build in PROBLEMS.items()}
U, ZERO, NARROW = torch.full((4,), 1.5), torch.zeros(2), plain(torch.full((2,), 0.8), variance=0.3)


def exact_rows() -> Iterator[tuple[str, Row]]:
    """Kernels that sample their target at any step size; a new one is in the table by itself."""
    for name in EXACT:
        for of, problem in FOUND.items():
            yield f"{name} finds {of}", settled(name, problem)
            yield f"{name} stays in {of}", stayed(name, problem)
        for t in (0.5, 2.0):
            yield f"{name} finds N(.8, .3) at T={t}", settled(name, NARROW, temperature=t)
            yield f"{name} stays in posterior at T={t}", stayed(name, FOUND["posterior"], temperature=t)
        for beta in (0.0, 2.0):
            yield f"{name} finds linear critic at β={beta}", settled(name, FOUND["linear critic"], beta=beta)
        for of in ("quadratic critic", "classes"):
            yield f"{name} stays in {of} at β=.5, T=2", stayed(name, FOUND[of], beta=0.5, temperature=2.0)
    for scale in (0.7, 1.3):
        yield f"mala finds N(0, 1) with noise_scale={scale}", settled("mala", plain(ZERO), step_size=0.4, noise_scale=scale)
        yield f"mala stays in N(.8, .3) with noise_scale={scale}", stayed("mala", NARROW, noise_scale=scale, temperature=2.0)


def langevin_rows() -> Iterator[tuple[str, Row]]:
    """Langevin, whose mean and variance after any number of steps are known."""
    for of, problem in FOUND.items():
        yield f"langevin walks on {of}", walked(problem, steps=25)
        yield f"langevin walks on {of} from a point", walked(problem, fixed=True, steps=12)
        yield f"langevin walks on {of} at β=2", walked(problem, steps=10, beta=2.0)
    for epsilon, steps in ((0.01, 100), (0.16, 20), (0.16, 60)):
        yield f"langevin walks {steps} steps of ε={epsilon}", walked(plain(U), steps=steps, step_size=epsilon)
    for epsilon in (0.16, 0.5, 1.0):
        yield f"langevin stands with ε={epsilon}", walked(plain(ZERO), steps=round(30 / epsilon), step_size=epsilon)
    yield "langevin stands on N(.8, .3) with ε=.6", walked(NARROW, steps=50, step_size=0.6)
    for scale, t in ((0.5, 1.0), (1.0, 0.25), (2.0, 0.5)):
        kernel = {"steps": 100, "step_size": 0.1, "noise_scale": scale, "temperature": t}
        yield f"langevin with noise_scale={scale} at T={t}", walked(plain(ZERO), **kernel)


ROWS = dict(exact_rows()) | dict(langevin_rows())


@pytest.mark.parametrize("label", ROWS)
def test_the_chains_are_the_gaussian_that_they_should_be(label):
    check(ROWS[label])


def test_the_table_has_rows_for_every_kernel_and_every_target():
    assert {row.kernel.kernel for row in ROWS.values()} == set(KERNELS)
    modules = {type(row.problem.target).__module__.removeprefix("models.targets.").replace("_", "-") for row in ROWS.values()}
    assert modules >= set(targets.names())


ACCEPTANCE = {  # of MALA at stationarity: 2 F(λ₂/λ₁), F the F-distribution's with (d, d), λ₁,₂ = (√(ε⁴/16 + 4ε) ± ε²/4)/2
    "d=100, ε=.1": (Mala(steps=50, step_size=0.1), 100, 1.0, 0.96855),
    "d=100, ε=.16": (Mala(steps=50, step_size=0.16), 100, 1.0, 0.93640),
    "d=100, ε=.5": (Mala(steps=50, step_size=0.5), 100, 1.0, 0.65949),
    "d=128, ε=.5416": (Mala(steps=50, step_size=0.5416), 128, 1.0, 0.57396),
    "variance .4": (Mala(steps=50, step_size=0.2), 100, 0.4, 0.65949),  # only ε/v counts
    "temperature 2": (Mala(steps=50, step_size=0.5, temperature=2.0), 100, 1.0, 0.65949),  # T does not
    "variance .4, temperature .3": (Mala(steps=50, step_size=0.2, temperature=0.3), 100, 0.4, 0.65949),
    "hmc of one leapfrog step": (Hmc(steps=50, step_size=0.5, leapfrog_steps=1), 100, 1.0, 0.65949),
    "hmc, temperature 2": (Hmc(steps=50, step_size=0.5, leapfrog_steps=1, temperature=2.0), 100, 1.0, 0.65949),
}


@pytest.mark.parametrize("label", ACCEPTANCE)
def test_mala_accepts_as_often_as_theory_says(label):
    kernel, dimensions, variance, expected = ACCEPTANCE[label]
    check_acceptance(kernel, plain(torch.full((dimensions,), 0.3), variance), expected)


class Fixed(GeneratorNoise):
    """The same number for every normal."""

    def __init__(self, like: torch.Tensor, value: float) -> None:
        super().__init__(like, random(0))
        self._normals = torch.full_like(like, value).unsqueeze(1)


def stationary_variance(kernel: Kernel, variance: float) -> float:
    """Of z' = rz + sn on N(0, v): s²/(1 - r²), with r and s read off one step from 1 without noise and one from 0 with it."""

    def step(z: float, noise: float) -> float:
        chains: Chains = begin(kernel, plain(torch.zeros(1), variance).target, torch.full((1, 1), z, dtype=torch.float64))
        return float(kernel.propose(chains, Fixed(chains.z, noise)))

    return step(0.0, 1.0) ** 2 / (1 - step(1.0, 0.0) ** 2)


@pytest.mark.parametrize(
    ("epsilon", "variance", "expected"),
    [
        (0.01, 1, 1.0025),
        (0.16, 1, 1.04167),
        (0.5, 1, 1.1429),
        (1, 1, 1.3333),
        (0.5, 0.5, 2 / 3),
        (1.9, 0.5, 10),
        (0.3, 2, 2 / (1 - 0.0375)),
    ],
)
def test_langevin_is_biased_by_exactly_its_step(epsilon, variance, expected):
    assert expected == pytest.approx(variance / (1 - epsilon / (4 * variance)), rel=5e-5)
    assert stationary_variance(Langevin(step_size=epsilon), variance) == pytest.approx(expected, rel=5e-5)


@pytest.mark.parametrize(("epsilon", "stable"), [(3.98, True), (1.98, True), (2.02, False), (3.9, False)])
def test_langevin_is_stable_up_to_four_times_the_smallest_variance(epsilon, stable):
    variance = 1.0 if epsilon == 3.98 else 0.5
    end = run(
        Langevin(steps=400, step_size=epsilon, temperature=0), plain(ZERO, variance).target, torch.ones(1, 2), random=random(1)
    ).chains.z
    assert bool((end.abs() < 0.1).all()) == stable


def test_langevin_on_a_posterior_is_stable_up_to_four_over_the_largest_curvature():
    problem = posterior()
    limit = 4 / float(torch.linalg.eigvalsh(torch.linalg.inv(problem.answer.covariance)).max())
    starts = problem.answer.mean + 1
    for share, stable in ((0.98, True), (1.02, False)):
        kernel = Langevin(steps=400, step_size=share * limit, temperature=0)
        end = run(kernel, problem.target, starts, random=random(1), data=problem.data).chains.z
        assert bool(((end - problem.answer.mean).norm(dim=1) < 1e-3).all()) == stable


@pytest.mark.parametrize(("epsilon", "steps", "share"), [(0.01, 100, 0.3942), (0.16, 20, 0.8113), (0.16, 60, 0.9933)])
def test_the_recursion_gives_the_known_mean_and_variance(epsilon, steps, share):
    problem, rho = plain(U), 1 - epsilon / 2
    expected = after(Langevin(steps=steps, step_size=epsilon), problem.answer, problem.start)
    assert expected.mean[0].tolist() == pytest.approx([1.5 * share] * 4, abs=1.5 * 5e-5)
    variance = rho ** (2 * steps) + epsilon * (1 - rho ** (2 * steps)) / (1 - rho**2)
    assert torch.allclose(expected.covariance, variance * torch.eye(4), atol=1e-6)


def test_langevin_at_temperature_zero_is_gradient_descent():
    z = torch.randn(10, 3, generator=random(5))
    draws = run(Langevin(steps=30, step_size=0.5, temperature=0), plain(torch.zeros(3)).target, z, random=random(11)).chains.z
    assert torch.allclose(draws, z * 0.75**30, atol=1e-6)


def test_hmc_with_one_leapfrog_step_is_mala():
    target, z = plain(torch.full((5,), 0.4), 0.7).target, torch.randn(300, 5, generator=random(5))
    hmc = run(Hmc(steps=40, step_size=0.5, leapfrog_steps=1, temperature=0.8), target, z, random=random(11))
    mala = run(Mala(steps=40, step_size=0.5, temperature=0.8), target, z, random=random(11))
    assert torch.equal(hmc.acceptance, mala.acceptance)
    assert torch.allclose(hmc.chains.z, mala.chains.z, atol=1e-4)


def steps_to_the_mean(kernel: Kernel, chains: int) -> int:
    """Steps from the prior of 128 dimensions until the mean is 99 % of one that is 3 away.

    The same chains on N(0, I), whose mean stays 0, are subtracted: most of their noise is the same.
    """
    direction = torch.full((128,), 1 / math.sqrt(128))
    means: list[list[torch.Tensor]] = []
    for mean in (3 * direction, 0 * direction):
        means.append([])
        z = torch.randn(chains, 128, generator=random(5))
        run(kernel, plain(mean).target, z, random=random(11), watch=lambda now: means[-1].append((now.z @ direction).mean()))
    return 1 + next(step for step, (moved, still) in enumerate(zip(*means, strict=True)) if moved - still >= 0.99 * 3)


def test_mala_reaches_the_mean_in_25_steps_where_langevins_small_step_needs_919():
    assert steps_to_the_mean(Langevin(steps=950, step_size=0.01), 10) == 919
    assert abs(steps_to_the_mean(Mala(steps=40, step_size=0.5416), 4000) - 25) <= 1


@pytest.mark.parametrize("name", KERNELS)
def test_a_nan_energy_is_never_hidden(name):
    class Broken:
        data = None

        def energy(self, z, data=None):
            return (0.5 * z.square().sum(-1)).where(z[:, 0] > -0.5, torch.nan)

    end = run(KERNELS[name](steps=30), Broken(), torch.randn(200, 2, generator=random(5)), random=random(11))
    assert end.chains.energy.isnan().any()


@pytest.mark.parametrize("name", EXACT)
def test_a_wall_of_infinite_energy_is_rejected_and_not_entered(name):
    class Walled:
        data = None

        def energy(self, z, data=None):
            return (0.5 * z.square().sum(-1)).where(z[:, 0] > 0, torch.inf)

    end = run(KERNELS[name](steps=30, step_size=0.5), Walled(), torch.randn(500, 2, generator=random(5)).abs(), random=random(11))
    assert end.chains.energy.isfinite().all()
    assert (end.chains.z[:, 0] > 0).all()


def test_a_posterior_without_an_image_says_so():
    with pytest.raises(ValueError, match="image"):
        evaluate(posterior().target, torch.zeros(2, 3))

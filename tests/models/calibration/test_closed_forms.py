"""Two normal distributions whose log density ratio is known: N(1, 1) against N(0, 1), d* = x - 1/2."""

import math

import pytest
import torch

from models.calibration.assessment import z_score
from models.calibration.evidence import Moments, effective_share, frechet, weights_of
from models.calibration.isotonic import fit_knots
from models.calibration.logistic import fit_line
from models.calibration.proportions import SHRINKAGE, tilt
from models.calibration.reliability import BINS, Reliability

COUNT = 50_000


def scores(seed: int, count: int = COUNT) -> tuple[torch.Tensor, torch.Tensor]:
    """d* of real and of generated points."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, generator=random) + 0.5, torch.randn(count, generator=random) - 0.5


@pytest.mark.parametrize(("temperature", "offset"), [(1, 0), (2, 0.3), (0.25, -1), (-1.5, 0.5)])
def test_the_logistic_fit_undoes_a_scale_and_a_shift(temperature, offset):
    real, fake = scores(1)
    line = fit_line(temperature * real + offset, temperature * fake + offset)
    assert line.slope == pytest.approx(1 / temperature, rel=0.03)
    assert line.intercept == pytest.approx(-offset / temperature, abs=0.03 * max(1, abs(offset / temperature)))
    held_real, held_fake = scores(2)
    served = [line.slope * (temperature * part + offset) + line.intercept for part in (held_real, held_fake)]
    assert abs(z_score(*served)) < 2


def test_the_z_test_can_fail():
    real, fake = scores(3)
    assert abs(z_score(real, fake)) < 2
    assert abs(z_score(real + 0.2, fake + 0.2)) > 2  # an intercept of 0.2
    assert abs(z_score(real - 0.2, fake - 0.2)) > 2
    assert abs(z_score(real, fake[:10_000])) < 2  # the sizes of the samples make no difference


def test_scores_that_do_not_overlap_have_a_finite_slope():
    line = fit_line(torch.linspace(1, 2, 50), torch.linspace(-2, -1, 50))
    assert math.isfinite(line.slope)
    assert line.slope > 5


def test_scores_that_say_nothing_have_slope_zero():
    line = fit_line(torch.ones(50), torch.ones(70))
    assert line.slope == pytest.approx(0, abs=1e-6)
    assert line.intercept == pytest.approx(0, abs=1e-6)


def test_the_isotonic_fit_finds_the_ratio_behind_any_increasing_score():
    real, fake = scores(4)
    knots = fit_knots(real**3, fake**3)  # d* = cube root of the score
    assert (knots.scores.diff() > 0).all()
    assert (knots.log_ratios.diff() >= 0).all()
    inner = slice(2, -2)
    expected = knots.scores.sign() * knots.scores.abs() ** (1 / 3)
    assert (knots.log_ratios - expected)[inner].abs().max() < 0.25
    assert len(knots.scores) <= 100


def test_the_isotonic_fit_never_says_for_certain():
    knots = fit_knots(torch.linspace(1, 2, 500), torch.linspace(-2, -1, 500))
    assert len(knots.scores) >= 2
    assert knots.log_ratios.isfinite().all()
    nothing = fit_knots(torch.zeros(50), torch.zeros(50))
    assert nothing.log_ratios.tolist() == pytest.approx([0, 0])


def test_the_means_of_the_ratio_and_of_its_inverse_are_one():
    real, fake = scores(5)
    # The variance of exp(d*) under the generator is e - 1.
    assert float(fake.exp().mean()) == pytest.approx(1, abs=4 * math.sqrt((math.e - 1) / COUNT))
    assert float((-real).exp().mean()) == pytest.approx(1, abs=4 * math.sqrt((math.e - 1) / COUNT))


def test_weights_give_the_mean_of_the_data_and_have_the_known_effective_share():
    _, fake = scores(6, 200_000)
    x = fake + 0.5
    weights = weights_of(fake)
    assert float(weights.sum()) == pytest.approx(1)
    # E w²(x - 1)² = e^{-1} E e^{2x}(x - 1)² = e (1 + 1)
    assert float(weights @ x.double()) == pytest.approx(1, abs=4 * math.sqrt(2 * math.e / len(x)))
    assert effective_share(fake) == pytest.approx(math.exp(-1), rel=0.1)


def test_an_honest_ratio_is_on_the_diagonal_and_a_sharpened_one_is_not():
    real, fake = scores(7)
    honest, sharp = Reliability.of(real, fake), Reliability.of(3 * real, 3 * fake)
    assert ((honest.said - honest.true).abs() < 4 * honest.error).all()
    assert honest.weight.tolist() == pytest.approx([1 / BINS] * BINS, rel=1e-3)
    assert honest.calibration_error < 0.01
    assert sharp.calibration_error > 0.1
    assert honest.png("honest").startswith(b"\x89PNG")
    assert honest.png("honest") == honest.png("honest")


def test_the_distance_of_two_normals_is_the_known_one():
    random = torch.Generator().manual_seed(8)
    first, second = torch.randn(1000, 3, generator=random), 2 * torch.randn(2000, 3, generator=random) + 1
    assert frechet(Moments.of(first), Moments.of(first)) == pytest.approx(0, abs=1e-6)
    # Commuting covariances: |μ - μ'|² + Σ (σ - σ')² = 3 + 3
    assert frechet(Moments.of(first), Moments.of(second)) == pytest.approx(6, rel=0.1)


def test_equal_weights_are_no_weights():
    features = torch.randn(100, 4, generator=torch.Generator().manual_seed(9))
    plain, weighted = Moments.of(features), Moments.of(features, weights_of(torch.full((100,), 3.0)))
    assert torch.allclose(plain.mean, weighted.mean)
    assert torch.allclose(plain.covariance, weighted.covariance)
    assert torch.allclose(plain.covariance, features.double().T.cov())


def test_a_tilt_gives_a_normal_the_wanted_mean():
    # N(0, 1) tilted by exp(bx) is N(b, 1).
    x = torch.randn(COUNT, generator=torch.Generator().manual_seed(10))
    other = torch.randn(COUNT, generator=torch.Generator().manual_seed(11))
    slopes = tilt(torch.zeros(COUNT), torch.stack([3 * x, other], 1), torch.tensor([3 * 0.7, 0.0]))
    assert float(3 * slopes[0]) == pytest.approx(0.7, abs=0.7 * SHRINKAGE + 4 * math.sqrt(math.exp(0.49) / COUNT))
    assert float(slopes[1]) == pytest.approx(0, abs=4 * math.sqrt(math.exp(0.49) / COUNT))
    already = tilt(0.7 * x, (3 * x).unsqueeze(1), torch.tensor([3 * 0.7]))
    assert float(already[0]) == pytest.approx(0, abs=4 * math.sqrt(math.exp(0.49) / COUNT))

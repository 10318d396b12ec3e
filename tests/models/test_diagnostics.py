"""ESS and R-hat against arviz, against chains whose answers are known in closed form, and against chains that stand still."""

import math

import arviz
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.diagnostics import MIN_DRAWS, convergence, nested_r_hat, normal_scores

FIGURES = ("ess_bulk", "ess_tail", "r_hat", "nested_r_hat")


def autoregressive(correlation: float, chains: int, draws: int, seed: int = 3) -> np.ndarray:
    random = np.random.default_rng(seed)
    noise = random.normal(size=(chains, draws)) * np.sqrt(1 - correlation**2)
    values = np.empty((chains, draws))
    values[:, 0] = random.normal(size=chains)
    for step in range(1, draws):
        values[:, step] = correlation * values[:, step - 1] + noise[:, step]
    return values


def rejecting(values: np.ndarray, seed: int) -> np.ndarray:
    """The same chains with seven in ten moves rejected, so that many draws are equal."""
    kept, values = np.random.default_rng(seed).random(values.shape) < 0.7, values.copy()
    for step in range(1, values.shape[1]):
        values[:, step] = np.where(kept[:, step], values[:, step - 1], values[:, step])
    return values


@settings(max_examples=100, deadline=None)
@given(
    chains=st.integers(1, 8),
    draws=st.integers(MIN_DRAWS, 150),
    correlation=st.floats(-0.9, 0.98),
    shape=st.sampled_from([lambda values: values, np.exp, lambda values: values + np.arange(len(values))[:, np.newaxis]]),
    rejects=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_figures_are_those_of_arviz(chains, draws, correlation, shape, rejects, seed):
    values = shape(autoregressive(correlation, chains, draws, seed))
    values = (rejecting(values, seed) if rejects else values).astype(np.float32)
    if (values == values[:, :1]).all():
        return  # arviz takes as many draws as there are for independent
    found, values = convergence(values), values.astype(np.float64)
    assert found.ess_bulk == pytest.approx(float(arviz.ess(values, method="bulk")), rel=1e-6)
    if found.ess_tail is None:
        assert found.reasons["ess_tail"] == "too many draws are equal"
    else:
        assert found.ess_tail == pytest.approx(float(arviz.ess(values, method="tail")), rel=1e-6)
    halved = (values == values[:, :1])[:, : draws // 2].all() and (values == values[:, -1:])[:, -(draws // 2) :].all()
    if chains > 1 and not halved:  # arviz divides by 0, or by what rounding leaves of it
        assert found.r_hat == pytest.approx(float(arviz.rhat(values, method="rank")), rel=1e-6)


def test_a_long_sample_has_the_figures_of_arviz():
    values = autoregressive(0.97, chains=64, draws=1000)
    found = convergence(values)
    assert found.ess_bulk == pytest.approx(float(arviz.ess(values, method="bulk")), rel=1e-6)
    assert found.ess_tail == pytest.approx(float(arviz.ess(values, method="tail")), rel=1e-6)
    assert found.r_hat == pytest.approx(float(arviz.rhat(values, method="rank")), rel=1e-6)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_ess_of_an_autoregressive_chain_is_known(correlation):
    draws = autoregressive(correlation, chains=16, draws=20_000)
    share = convergence(draws).ess_bulk / draws.size
    assert share == pytest.approx((1 - correlation) / (1 + correlation), rel=0.1)


def test_normal_scores_are_those_of_their_ranks():
    random = np.random.default_rng(0)
    draws = np.exp(20 * random.normal(size=(4, 50_000)))
    assert abs(normal_scores(draws).std() - 1) < 1e-3
    assert np.array_equal(normal_scores(np.array([[3.0, 1.0, 3.0]]))[0, [0, 2]], normal_scores(np.array([[2.0, 1.0, 2.0]]))[0, [0, 2]])


def test_r_hat_of_shifted_chains_is_known():
    draws = np.random.default_rng(5).normal(size=(2, 50_000))
    assert convergence(draws).r_hat == pytest.approx(1.0, abs=1e-3)
    draws[1] += (shift := 2.0)  # for one superchain each, B is shift²/2 and W is 1
    error = 4 * math.sqrt(2 / 50_000) * shift / 2 / math.sqrt(1 + shift**2 / 2)
    assert abs(convergence(draws).nested_r_hat - math.sqrt(1 + shift**2 / 2)) < error + 0.01


def test_chains_that_differ_only_in_scale_show_in_folded_r_hat():
    draws = np.random.default_rng(5).normal(size=(4, 5000)) * np.array([[1.0], [1], [1], [5]])
    assert convergence(draws).r_hat > 1.1


def test_a_single_chain_that_drifts_shows_in_its_halves():
    drift = np.linspace(0, 3, 1000) + np.random.default_rng(1).normal(size=(1, 1000))
    found = convergence(drift)
    assert found.r_hat > 1.2
    assert found.nested_r_hat is None
    assert found.reasons == {"nested_r_hat": "one chain has no other to differ from"}


def test_nested_r_hat_of_stationary_chains_holds_the_noise_of_a_mean():
    draws = np.random.default_rng(2).normal(size=(4000, 1, 20))
    squares = nested_r_hat(draws) ** 2 - 1  # of 20 independent draws a chain
    assert abs(squares - 1 / 20) < 4 * (1 / 20) * math.sqrt(2 / 4000 + 2 / (4000 * 19))


def test_nested_r_hat_sees_superchains_that_remember_their_start():
    random = np.random.default_rng(2)
    starts = random.normal(size=(4000, 1, 1))
    draws = starts + random.normal(size=(4000, 16, 10))
    between, within = 1 + 1 / 160, 1 + 1 / 10  # W holds the variance of chains' means, too
    assert abs(nested_r_hat(draws) ** 2 - 1 - between / within) < 4 * between / within * math.sqrt(2 / 4000)


def test_grouping_chains_that_started_independently_would_flatter():
    random = np.random.default_rng(2)
    unconverged = 3 * random.normal(size=(64, 1, 1)) + random.normal(size=(64, 1, 20))
    assert nested_r_hat(unconverged) > 3
    assert nested_r_hat(unconverged.reshape(4, 16, 20)) < 1.1


@pytest.mark.parametrize("draws", [3, 4, 151, 1000])
def test_chains_that_never_moved_have_no_ess_and_an_infinite_r_hat(draws):
    still = np.repeat(np.random.default_rng(1).normal(size=(5, 1)), draws, axis=1)
    found = convergence(still)
    assert (found.ess_bulk, found.ess_tail) == (None, None)
    if draws < MIN_DRAWS:
        assert set(found.reasons) == set(FIGURES)
        assert "3 draws" in found.reasons["r_hat"]
    else:
        assert found.reasons["ess_bulk"] == found.reasons["ess_tail"] == "no chain moved, and equal draws are no sample"
        assert (found.r_hat, found.nested_r_hat) == (math.inf, math.inf)


def test_a_single_chain_that_never_moved_has_no_figures_and_says_why():
    found = convergence(np.full((1, 151), 13.4))
    assert [getattr(found, name) for name in FIGURES] == [None] * 4
    assert set(found.reasons) == set(FIGURES)


def test_chains_that_stand_still_beside_others_cost_the_sample_nearly_everything():
    draws = np.random.default_rng(1).normal(size=(8, 200))
    moving = convergence(draws)
    draws[4:] = draws[4:, :1]
    found = convergence(draws)
    assert found.ess_bulk < 0.05 * moving.ess_bulk
    assert found.r_hat > 1.1


@pytest.mark.parametrize("chains", [1, 2, 16])
def test_every_figure_is_there_or_says_why_not(chains):
    for draws in range(1, 40):
        found = convergence(np.random.default_rng(draws).normal(size=(chains, draws)))
        assert set(found.reasons) == {name for name in FIGURES if getattr(found, name) is None}
        assert all(math.isfinite(getattr(found, name)) for name in FIGURES if name not in found.reasons)

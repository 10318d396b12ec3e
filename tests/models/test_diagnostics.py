"""ESS and R-hat against chains whose answers are known in closed form."""

import numpy as np
import pytest

from models.diagnostics import effective_sample_size, r_hat


def autoregressive(correlation: float, chains: int, draws: int) -> np.ndarray:
    random = np.random.default_rng(3)
    noise = random.normal(size=(chains, draws)) * np.sqrt(1 - correlation**2)
    values = np.empty((chains, draws))
    values[:, 0] = random.normal(size=chains)
    for step in range(1, draws):
        values[:, step] = correlation * values[:, step - 1] + noise[:, step]
    return values


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_ess_of_an_autoregressive_chain_is_known(correlation):
    draws = autoregressive(correlation, chains=16, draws=20_000)
    share = effective_sample_size(draws) / draws.size
    assert share == pytest.approx((1 - correlation) / (1 + correlation), rel=0.1)


def test_r_hat_of_shifted_chains_is_known():
    draws = np.random.default_rng(5).normal(size=(2, 50_000))
    assert r_hat(draws) == pytest.approx(1.0, abs=1e-3)
    shift = 2.0  # four half-chains, two at each end: between-variance shift²/3, where two whole chains would have shift²/2
    draws[1] += shift
    assert r_hat(draws) == pytest.approx(np.sqrt(1 + shift**2 / 3), rel=0.01)


def test_a_drifting_chain_shows_in_split_r_hat():
    drift = np.linspace(0, 3, 1000) + np.random.default_rng(1).normal(size=(1, 1000))
    assert r_hat(drift) > 1.2


def test_constant_chains_have_an_answer():
    assert r_hat(np.ones((2, 100))) == 1.0
    assert r_hat(np.stack([np.ones(100), np.zeros(100)])) == float("inf")
    assert effective_sample_size(np.ones((2, 100))) == 200

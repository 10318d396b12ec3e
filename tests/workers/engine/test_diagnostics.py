"""What a job says of its samples: every figure or the reason why there is none, and a warning where a reader would be misled."""

import json
import math

import numpy as np
import pytest
import torch

from models.checkpoints import Store
from models.kernels import KERNELS
from models.kernels.langevin import Langevin
from models.kernels.local_global import LocalGlobal
from tests.tiny_models import publish_tiny
from tests.workers.engine.engines import engine, job, prior, run
from workers.engine import runs
from workers.engine.runs import NULLABLE
from workers.jobs import Diagnostics, GenerateJob


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("checkpoints"), tmp_path_factory.mktemp("nothing-shipped"))
    publish_tiny(store, "sngan", "gan")
    return store


@pytest.fixture(scope="module")
def busy(store):
    return engine(store)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    return engine(Store(tmp_path_factory.mktemp("checkpoints")))


def told(busy, wanted) -> Diagnostics:
    busy.admit("job", wanted, None)
    return run(busy)["job"].diagnostics


def sampled(store, kernel, images=4, **settings):
    return job(store, "gan", images=images).model_copy(update={"mcmc": KERNELS[kernel](**settings)})


def lebm(busy, images=4, mcmc=None, seed=1):
    card = busy._checkpoints._store.card("mnist-lebm")
    names = {"model": card.name, "version": card.version, "digest": card.digest, "sampler": "latent-ebm"}
    return GenerateJob(**names, mcmc=mcmc or card.samplers["latent-ebm"], num_images=images, seed=seed)


def reversibility_warnings(said):
    return [warning for warning in said.warnings if "the step is too long: MALA" in warning]


def test_a_step_that_ruins_the_samples_warns(shipped):
    right = told(shipped, lebm(shipped, 16, {"kernel": "mala", "steps": 200, "step_size": 0.3})).energy_last
    said = told(shipped, lebm(shipped, mcmc={"kernel": "langevin", "steps": 120, "step_size": 3.5}))
    assert said.energy_last > 3 * right
    assert said.mala_acceptance < 0.1
    assert len(reversibility_warnings(said)) == 1


@pytest.mark.parametrize(("images", "seed"), [(1, 1), (1, 2), (16, 3)])
def test_the_step_of_the_card_does_not_warn_and_its_figures_are_there(shipped, images, seed):
    asked = lebm(shipped, images, seed=seed)
    said, draws = told(shipped, asked), asked.mcmc.steps + 1 - (asked.mcmc.steps + 1) // 2
    assert said.mala_acceptance > 0.6
    assert said.warnings == ()
    assert said.draws == draws
    assert 0 < said.ess_bulk < draws * images * math.log10(draws * images)
    assert 0.9 < said.r_hat < 2.5
    assert (said.nested_r_hat is None) == (images == 1)


def test_chains_that_never_move_say_so_and_their_r_hat_survives_json(shipped):
    said = told(shipped, lebm(shipped, 3, {"kernel": "mala", "steps": 300, "step_size": 3.9}))
    assert said.acceptance == 0
    assert said.stuck_chains == 3
    assert (said.draws, said.ess_bulk, said.ess_tail) == (151, None, None)
    assert said.r_hat == said.nested_r_hat == "Infinity"
    assert any("3 of 3 chains never moved" in warning for warning in said.warnings)
    assert any("0.00% of the proposals" in warning for warning in said.warnings)

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    sent = json.loads(said.model_dump_json(), parse_constant=refuse)
    assert float(sent["r_hat"]) == math.inf
    assert Diagnostics.model_validate_json(said.model_dump_json()) == said
    assert {"type": "number"} in Diagnostics.model_json_schema()["properties"]["r_hat"]["anyOf"]


def test_a_chain_that_stands_still_is_marked(shipped):
    shipped.admit("job", lebm(shipped, 2, {"kernel": "mala", "steps": 20, "step_size": 3.9}), None)
    shipped.admit("other", lebm(shipped, 1, {"kernel": "mala", "steps": 20, "step_size": 0.1}), None)
    outcomes = run(shipped)
    assert [chain.moved for chain in outcomes["job"].chains] == [False, False]
    assert [chain.moved for chain in outcomes["other"].chains] == [True]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("steps", [1, 4, 9])
def test_every_field_that_is_null_has_its_reason(busy, store, kernel, images, steps):
    said = told(busy, sampled(store, kernel, images, steps=steps))
    assert set(said.reasons) == {name for name in NULLABLE if getattr(said, name) is None}
    assert all(said.reasons.values())
    assert said.draws == steps + 1 - (steps + 1) // 2
    assert (said.ess_bulk is None) == (said.draws < 4)


def test_prior_has_no_figures_and_says_why(busy, store):
    said = told(busy, prior(store, "gan"))
    assert said.reasons == dict.fromkeys(NULLABLE, "`prior` runs no chain")
    assert all(getattr(said, name) is None for name in NULLABLE)


def test_gradient_descent_has_no_acceptance(busy, store):
    said = told(busy, sampled(store, "langevin", steps=10, temperature=0))
    assert said.mala_acceptance is None
    assert "gradient descent" in said.reasons["mala_acceptance"]


def test_long_chains_use_their_last_draws(busy, store, monkeypatch):
    monkeypatch.setattr(runs, "MOST_DRAWS", 12)
    assert told(busy, sampled(store, "langevin", 1, steps=40)).draws == 12


def test_jumps_are_counted_over_all_chains_and_steps(busy, store, monkeypatch):
    seen, update = [], LocalGlobal.update.__func__

    def watched(cls, *given):
        info = update(cls, *given)
        seen.append(info.jumped.clone())
        return info

    monkeypatch.setattr(LocalGlobal, "update", classmethod(watched))
    said = told(busy, sampled(store, "local-global", 5, steps=12, mala_steps=2))
    assert said.jump_rate == pytest.approx(torch.stack(seen).sum().item() / (5 * 12))
    assert 0 < said.jump_rate < 1
    assert 0 < said.acceptance <= 1


def test_malas_acceptance_is_the_mean_over_the_last_half_of_the_moves(busy, store, monkeypatch):
    seen, log_ratio = [], Langevin.log_ratio.__func__
    monkeypatch.setattr(Langevin, "log_ratio", classmethod(lambda cls, *given: seen.append(log_ratio(cls, *given)) or seen[-1]))
    said = told(busy, sampled(store, "langevin", 3, steps=21, step_size=0.8, temperature=0.5))
    late = torch.stack(seen).double().numpy()[10:]
    assert said.mala_acceptance == pytest.approx(np.exp(-np.abs(late) / 0.5).mean())

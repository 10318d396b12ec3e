"""Chains of different classes and critic temperatures share a batch: each has a density of its own, and the bits that it has alone."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.checkpoints import Store
from models.inference.prepared import load as load_prepared
from models.kernels import KERNELS
from models.targets.ddls import Ddls
from tests.models.targets.test_conditional import CLASSES, LATENT, A, Images, Logit, W
from tests.tiny_models import publish_tiny
from tests.workers.engine.engines import alone, engine, prior, run
from tests.workers.engine.engines import job as plain_job
from workers.engine import checkpoint_cache
from workers.engine.engine import Engine
from workers.jobs import ClassData


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("checkpoints"), tmp_path_factory.mktemp("nothing-shipped"))
    publish_tiny(store, "sngan", "gan", conditional=True)
    publish_tiny(store, "sngan", "noisy", conditional=True, output_noise=0.2)
    return store


def job(store, *labels, kernel="mala", model="gan", beta=1.0, **rest):
    mcmc = KERNELS[kernel](steps=rest.pop("steps", 6), step_size=0.3, beta=beta)
    return plain_job(store, model, **rest).model_copy(update={"mcmc": mcmc, "data": ClassData(labels=labels)})


def of_prior(store, *labels, **rest):
    return prior(store, "gan", **rest).model_copy(update={"data": ClassData(labels=labels)})


@pytest.mark.parametrize(("kernel", "model"), [*((kernel, "gan") for kernel in KERNELS), ("mala", "noisy")])
def test_jobs_of_different_classes_share_a_batch_and_have_the_bits_of_each_alone(store, kernel, model):
    wanted = {"3": job(store, 3, kernel=kernel, model=model, images=3), "7": job(store, 7, kernel=kernel, model=model, images=3)}
    wanted["turns"] = job(store, 3, 9, kernel=kernel, model=model, images=3, steps=9)
    wanted["beta"] = job(store, 3, kernel=kernel, model=model, images=3, beta=0.5)
    expected = {name: alone(store, one) for name, one in wanted.items()}
    busy = engine(store, capacity=64)
    for name, one in wanted.items():
        busy.admit(name, one, None)
    outcomes = run(busy)
    for name, one in expected.items():
        assert np.array_equal(outcomes[name].images, one.images)
        assert outcomes[name].chains == one.chains
    assert len({one.chains for one in expected.values()}) == 4
    assert not np.array_equal(expected["3"].images, expected["7"].images)
    assert outcomes["beta"].diagnostics.warnings[-1].endswith("with β = 0.5, not p(z)")


@pytest.mark.parametrize("make", [job, of_prior])
def test_an_image_does_not_depend_on_the_classes_of_the_others_of_its_job(store, make):
    turns, same = alone(store, make(store, 3, 9, images=4)), alone(store, make(store, 3, images=4))
    assert np.array_equal(turns.images[[0, 2]], same.images[[0, 2]])
    assert not np.array_equal(turns.images[1], same.images[1])


def test_priors_of_different_classes_are_decoded_together_to_the_bits_of_each_alone(store):
    wanted = {str(label): of_prior(store, label, images=5) for label in range(10)}
    busy = engine(store, capacity=64)
    for name, one in wanted.items():
        busy.admit(name, one, None)
    busy.admit("chains", job(store, 4, images=5), None)
    outcomes = run(busy)
    for name, one in wanted.items():
        assert np.array_equal(outcomes[name].images, alone(store, one).images)
    assert len({outcome.images.tobytes() for outcome in outcomes.values()}) == 11


@pytest.mark.parametrize("sampler", ["ddls", "prior"])
@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (None, "needs classes below 10, the job brings no data"),
        (ClassData(labels=(3, 10)), "needs classes below 10, the job brings class 10"),
    ],
)
def test_classes_that_the_model_has_not_fail_their_own_job(store, data, detail, sampler):
    unfit = (job(store, 1) if sampler == "ddls" else of_prior(store, 1)).model_copy(update={"data": data})
    busy, sound = engine(store), job(store, 2)
    busy.admit("unfit", unfit, None)
    busy.admit("sound", sound, None)
    outcomes = run(busy)
    assert outcomes["unfit"].problem.reason == "unavailable"
    assert detail in outcomes["unfit"].problem.detail
    assert np.array_equal(outcomes["sound"].images, alone(store, sound).images)


def test_a_batch_of_linear_models_has_the_mean_of_each_class_and_temperature(store, monkeypatch):
    def load(*asked):
        prepared = load_prepared(*asked)
        space = replace(prepared.spaces["ddls"], shape=(LATENT,), decode=lambda z, classes: z.new_zeros(len(z), 1, 8, 8), classes=CLASSES)
        return replace(prepared, targets={"ddls": Ddls(Images(), Logit(), "class")}, spaces={"prior": space, "ddls": space})

    latents, finish = {}, Engine._finish
    monkeypatch.setattr(checkpoint_cache, "load", load)
    monkeypatch.setattr(Engine, "_finish", lambda self, one, pixels: latents.update({one.run.job_id: one.z}) or finish(self, one, pixels))
    busy = engine(store, capacity=256)
    wanted = {(beta, seed): job(store, 0, 1, 2, images=240, steps=25, seed=seed, beta=beta) for beta in (1.0, 0.5) for seed in range(8)}
    for name, one in wanted.items():
        busy.admit(str(name), one, None)
    assert len(run(busy)) == 16
    for beta in (1.0, 0.5):
        drawn = torch.cat([latents[str((beta, seed))].unflatten(0, (80, CLASSES)) for seed in range(8)])  # (chains, classes, latent)
        assert ((drawn.mean(0) - beta * A @ W).abs() < 4 / math.sqrt(len(drawn))).all()
    assert (A @ W).abs().max() > 16 / math.sqrt(len(drawn))

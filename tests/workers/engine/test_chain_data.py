"""A job's image or class reaches the energy of its own chains; what does not fit its target fails that job alone."""

from base64 import b64encode
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from models.checkpoints import Store
from models.inference.prepared import load as load_prepared
from models.kernels import KERNELS
from models.targets.posterior import Posterior
from tests.tiny_models import publish_tiny
from tests.workers.engine.engines import alone, engine, loaded, prior, run
from tests.workers.engine.engines import job as plain_job
from workers.engine import checkpoint_cache
from workers.jobs import ClassData, ImageData

LATENT, SIGMA = 6, 0.4


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("checkpoints"), tmp_path_factory.mktemp("nothing-shipped"))
    publish_tiny(store, "lebm", "ebm")
    return store


def image(seed, shape=(1, 8, 8)):
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return ImageData(shape=shape, pixels=b64encode(pixels.tobytes()).decode())


def job(store, data, sampler="posterior", kernel="mala", **rest):
    mcmc = KERNELS[kernel](steps=rest.pop("steps", 8), step_size=rest.pop("step_size", 0.02))
    return plain_job(store, "ebm", **rest).model_copy(update={"sampler": sampler, "mcmc": mcmc, "data": data})


@pytest.mark.parametrize("kernel", KERNELS)
def test_jobs_with_different_images_share_a_batch_and_have_the_bits_of_each_alone(store, kernel):
    wanted = {str(seed): job(store, image(seed), kernel=kernel, images=3) for seed in (1, 2)}
    expected = {name: alone(store, one) for name, one in wanted.items()}
    busy = engine(store, capacity=64)
    for name, one in wanted.items():
        busy.admit(name, one, None)
    busy.admit("other", job(store, None, "latent-ebm"), None)
    outcomes = run(busy)
    for name, one in expected.items():
        assert np.array_equal(outcomes[name].images, one.images)
        assert outcomes[name].chains == one.chains
    assert not np.array_equal(expected["1"].images, expected["2"].images)  # of the same seed: the image makes the difference


@pytest.mark.parametrize(
    ("data", "sampler", "detail"),
    [
        (None, "posterior", "needs an image of shape (1, 8, 8), the job brings no data"),
        (image(1, (3, 8, 8)), "posterior", "needs an image of shape (1, 8, 8), the job brings image data of shape (3, 8, 8)"),
        (ClassData(labels=(3,)), "posterior", "needs an image of shape (1, 8, 8), the job brings class data"),
        (image(1), "latent-ebm", "needs no data, the job brings image data"),
        (image(1), "prior", "needs no data, the job brings image data"),
        (None, "ddls", "has no target 'ddls'; choices: latent-ebm, posterior"),
    ],
)
@pytest.mark.parametrize("warm", [False, True])
def test_data_that_the_target_cannot_use_fails_its_own_job_before_it_joins(store, data, sampler, detail, warm):
    busy, sound = engine(store), job(store, image(2))
    if warm:
        busy.admit("before", sound, None)
        run(busy)
    unfit = prior(store, "ebm").model_copy(update={"data": data}) if sampler == "prior" else job(store, data, sampler, images=2)
    busy.admit("unfit", unfit, None)
    busy.admit("sound", sound, None)
    outcomes = run(busy)
    assert outcomes["unfit"].problem.reason == "unavailable"
    assert detail in outcomes["unfit"].problem.detail
    assert np.array_equal(outcomes["sound"].images, alone(store, sound).images)
    assert busy.free == 16


class Linear(nn.Module):
    """Wz as an image, or u·z."""

    def __init__(self, weight):
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, z):
        values = z @ self.weight.T
        return values.squeeze(1) if len(self.weight) == 1 else values.reshape(-1, 1, 8, 8)


def test_the_posterior_of_a_linear_model_has_the_mean_known_in_closed_form(store, monkeypatch):
    random = torch.Generator().manual_seed(0)
    w, u = torch.randn(64, LATENT, generator=random) / 20, torch.randn(1, LATENT, generator=random) / 2

    decoded = []

    def decode(z):
        decoded.append(z[z.any(1)])  # without the padding
        return Linear(w)(z)

    def load(*asked):
        prepared = load_prepared(*asked)
        spaces = {name: replace(space, decode=decode) for name, space in prepared.spaces.items()}
        return replace(prepared, targets={"posterior": Posterior(Linear(w), Linear(u), SIGMA)}, spaces=spaces)

    monkeypatch.setattr(checkpoint_cache, "load", load)
    busy, data = engine(store, capacity=256), image(4)
    wanted = job(store, data, images=250, steps=40, step_size=0.3)
    for seed in range(8):
        busy.admit(str(seed), wanted.model_copy(update={"seed": seed}), None)
    loaded(busy)
    decoded.clear()
    assert len(run(busy)) == 8
    latents = torch.cat(decoded)
    covariance = torch.linalg.inv(torch.eye(LATENT) + w.T @ w / SIGMA**2)
    mean = covariance @ (w.T @ torch.from_numpy(data.array()).flatten() / SIGMA**2 + u.squeeze(0))
    assert len(latents) == 2000
    assert ((latents.mean(0) - mean).abs() < 4 * (covariance.diagonal() / len(latents)).sqrt()).all()
    assert (mean.abs() > 20 * (covariance.diagonal() / len(latents)).sqrt()).any()  # far from the prior's

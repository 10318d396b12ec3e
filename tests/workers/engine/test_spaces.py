"""Chains that move among images, and start from a network: same bits in any company, and as among the same numbers in a row."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from models.checkpoints import Store
from models.families.base import Space
from models.inference.prepared import load as load_prepared
from models.kernels import KERNELS
from tests.tiny_models import publish_tiny
from tests.workers.engine.engines import engine, job, prior, run
from workers.engine import checkpoint_cache

IMAGE = (1, 8, 8)


@dataclass(frozen=True)
class Pixels:
    """A critic's energy of images, given as such or in rows of numbers."""

    critic: nn.Module
    data = None

    def energy(self, z: torch.Tensor, data: torch.Tensor | None = None) -> torch.Tensor:
        return 4 * z.flatten(1).square().sum(1) - self.critic(z.reshape(-1, *IMAGE))


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store of one model with two more samplers: `pixel`, and `flat`, which is the same with its points in rows."""
    store = Store(tmp_path)
    publish_tiny(store, "sngan", "gan")

    def load(*asked):
        prepared = load_prepared(*asked)
        target, make = Pixels(prepared.networks["critic"]), prepared.spaces["prior"].decode
        spaces = {
            "pixel": Space(IMAGE, make, lambda points: points.tanh()),
            "flat": Space((64,), lambda normals: make(normals).flatten(1), lambda points: points.reshape(-1, *IMAGE).tanh()),
        }
        return replace(prepared, targets=prepared.targets | dict.fromkeys(spaces, target), spaces=prepared.spaces | spaces)

    monkeypatch.setattr(checkpoint_cache, "load", load)
    return store


def wanted(store, sampler, kernel, **rest):
    mcmc = KERNELS[kernel](steps=6, step_size=0.05)
    return job(store, "gan", **rest).model_copy(update={"sampler": sampler, "mcmc": mcmc})


@pytest.mark.parametrize("kernel", KERNELS)
def test_chains_among_images_have_the_bits_of_chains_among_rows_and_their_own_in_any_company(store, kernel):
    busy, alone = engine(store), engine(store)
    for number, other in enumerate(KERNELS):
        busy.admit(other, wanted(store, "pixel", other, images=2, seed=10 + number), None)
    busy.admit("images", wanted(store, "pixel", kernel, images=3), None)
    busy.admit("rows", wanted(store, "flat", kernel, images=3), None)
    alone.admit("images", wanted(store, "pixel", kernel, images=3), None)
    together, apart = run(busy), run(alone)["images"]
    assert np.array_equal(together["images"].images, apart.images)
    assert together["images"].chains == together["rows"].chains == apart.chains
    assert np.array_equal(together["images"].images, together["rows"].images)
    assert len(np.unique(apart.images.reshape(3, -1), axis=0)) == 3


@pytest.mark.parametrize("family", ["ebgan", "wgan-gp"])
@pytest.mark.parametrize("kernel", ["langevin", "mala"])
def test_chains_on_the_critics_energy_begin_at_the_generators_images_and_keep_their_bytes_in_any_company(tmp_path, family, kernel):
    store = Store(tmp_path, tmp_path / "none")
    card = publish_tiny(store, family, "critic")
    few = KERNELS[kernel](steps=5, step_size=1e-4)
    pixel = job(store, "critic", images=3).model_copy(update={"sampler": "pixel", "mcmc": few})
    busy, alone = engine(store), engine(store)
    busy.admit("ddls", job(store, "critic", images=2, seed=7), None)
    busy.admit("others", pixel.model_copy(update={"seed": 8, "num_images": 4}), None)
    busy.admit("pixel", pixel, None)
    alone.admit("pixel", pixel, None)
    alone.admit("prior", prior(store, "critic", images=3), None)
    together, apart = run(busy)["pixel"], run(alone)
    assert together.images.shape == (3, 8, 8, card.image_shape[0])
    assert np.array_equal(together.images, apart["pixel"].images)
    assert together.chains == apart["pixel"].chains
    moved = np.abs(together.images.astype(int) - apart["prior"].images)
    assert 0 < moved.mean() < 16  # five short steps from the generator's images


def test_a_remark_of_the_card_is_a_warning_of_its_samplers_results(tmp_path):
    store = Store(tmp_path, tmp_path / "none")
    publish_tiny(store, "ebgan", "plain")
    card = store.card("plain").model_copy(update={"name": "flat", "remarks": {"pixel": "the critic is nearly flat"}})
    store.publish(card, store.weights(store.card("plain")), b"")
    pixel = job(store, "flat").model_copy(update={"sampler": "pixel", "mcmc": KERNELS["mala"](steps=2, step_size=1e-4)})
    only = engine(store)
    only.admit("pixel", pixel, None)
    only.admit("ddls", job(store, "flat"), None)
    warnings = {name: outcome.diagnostics.warnings for name, outcome in run(only).items()}
    assert "the critic is nearly flat" in warnings["pixel"]
    assert "the critic is nearly flat" not in warnings["ddls"]


def test_samplers_that_decode_alike_share_one_decoder(store):
    busy = engine(store)
    busy.admit("one", job(store, "gan"), None)
    run(busy)
    cached = busy._checkpoints.use(job(store, "gan"))
    assert cached.decoder("prior") is cached.decoder("ddls") is cached.starter("pixel")
    assert cached.decoder("pixel") is not cached.decoder("ddls")

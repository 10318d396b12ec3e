"""An accelerator rehearsed without one: on `meta` tensors that refuse to mix with the host's, and that only `models.device.read` reads."""

from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorDeviceMismatchError,
    FakeTensorMode,
    unset_fake_temporarily,
)

from models import device
from models.checkpoints import Store
from models.families import family
from models.families.base import Size
from models.inference.prepared import assembled, prepare
from models.kernels import KERNELS
from models.kernels.mala import Mala
from tests.workers.engine.engines import Heard
from workers.engine.buckets import Table
from workers.engine.checkpoint_cache import CachedCheckpoint, Version
from workers.engine.decoder import Decoder
from workers.engine.engine import Engine, EngineSettings
from workers.engine.lane import Lane, LaneName
from workers.jobs import GenerateJob, ImageData, Problem
from workers.messages import Finished

META = torch.device("meta")
LANES = [("gan", "ddls"), ("ebm", "latent-ebm"), ("ebm", "posterior")]
IMAGE = ImageData(shape=(1, 8, 8), pixels=b64encode(bytes(64)).decode())


@pytest.fixture
def reads(monkeypatch):
    """The tensors that are read; each gives ones."""
    reads = []

    def read(tensor):
        reads.append(tensor)
        with unset_fake_temporarily():
            ones = torch.ones(tensor.shape, dtype=tensor.dtype).numpy()
        return SimpleNamespace(numpy=lambda: ones)  # a tensor of the host's would be refused here too

    monkeypatch.setattr(device, "read", read)
    return reads


def job(store, model, sampler, kernel="mala", **rest):
    card = store.card(model)
    mcmc = None if sampler == "prior" else {"kernel": kernel} | {"steps": rest.pop("steps", 5)}
    data = IMAGE if sampler == "posterior" else None
    return GenerateJob.model_validate(
        {"model": model, "version": card.version, "digest": card.digest, "sampler": sampler, "mcmc": mcmc, "data": data, "seed": 1}
        | {"num_images": 2}
        | rest
    )


def faked(networks: nn.ModuleDict) -> nn.ModuleDict:
    """Networks on `meta`, their weights of the present FakeTensorMode."""
    for module in networks.modules():
        for held in (module._parameters, module._buffers):
            held |= {name: torch.empty_strided(old.shape, old.stride(), device=META) for name, old in held.items() if old is not None}
    return networks


@contextmanager
def rehearsal(store: Store) -> Iterator[Engine]:
    """An engine on `meta` with both models in memory, and their lanes."""
    networks = {}
    for model in ("gan", "ebm"):
        card = store.card(model)
        networks[model] = prepare(family(card.family).build(Size.model_validate(card.networks)), META)
    with FakeTensorMode():
        engine = Engine(store, EngineSettings(capacity=16, device="meta"), Heard())
        table = Table(16, 16, dict.fromkeys((4, 8, 16), 0.001), dict.fromkeys((4, 8, 16), 0))
        for model in ("gan", "ebm"):
            card = store.card(model)
            prepared = assembled(card, faked(networks[model]), META)
            functions = {function for space in prepared.spaces.values() for function in (space.start, space.decode)}
            decoders = {function: Decoder(function, table) for function in functions}
            engine._checkpoints._held[Version(model, card.version, card.digest)] = CachedCheckpoint(prepared, decoders, 0)
            for sampler in prepared.targets:
                starter = decoders[prepared.spaces[sampler].start]
                engine._lanes._ready[LaneName(model, card.version, card.digest, sampler)] = Lane(prepared, sampler, starter, table)
        yield engine


def test_a_batch_of_all_kernels_runs_without_host_tensors_and_is_read_only_where_chains_end(store, reads):
    with rehearsal(store) as engine:
        quiet, outcomes, parked = 0, {}, 0
        for tick in range(300):
            if tick == 0:
                engine.admit("long", job(store, "gan", "ddls", "hmc", steps=30, num_images=3, caller="ann"), None)
                engine.admit("unwanted", job(store, "gan", "ddls", "langevin", steps=4000, num_images=3, caller="ann"), None)
            if tick < 12 and tick % 3 == 0:
                model, sampler = LANES[tick // 3 % len(LANES)]
                for kernel in KERNELS:
                    engine.admit(f"{tick} {kernel}", job(store, model, sampler, kernel, steps=3 + tick, num_images=1), None)
            if tick == 20:
                engine.admit("prior", job(store, "gan", "prior"), None)
                engine.end_early("unwanted", Problem(reason="canceled", detail=""))
            before = len(reads)
            ended = engine.tick()
            parked = max(parked, sum(len(lane._parked) for lane in engine._lanes.values()))
            outcomes |= {outcome.job_id: outcome for outcome in ended}
            quiet += len(reads) == before
        assert not engine.busy
    assert parked > 0
    assert quiet > 100
    assert all(isinstance(outcome, Finished) for name, outcome in outcomes.items() if name != "unwanted")
    assert len(outcomes) == 3 + 4 * len(KERNELS)
    assert outcomes["long"].images.shape == (3, 8, 8, 1)


class Reading(Mala):
    """Asks the device for a number."""

    @classmethod
    def propose(cls, chains, noise):
        return super().propose(chains, noise) if chains.energy.max().item() < 1e9 else chains.z


class Branching(Mala):
    """Picks rows by what is on the device."""

    @classmethod
    def propose(cls, chains, noise):
        return chains.z[chains.energy > 0]


class Mixing(Mala):
    """Adds numbers of the host."""

    @classmethod
    def propose(cls, chains, noise):
        return super().propose(chains, noise) + torch.zeros(chains.z.shape)


@pytest.mark.parametrize(
    ("kernel", "error"),
    [(Reading, DataDependentOutputException), (Branching, DynamicOutputShapeException), (Mixing, FakeTensorDeviceMismatchError)],
)
def test_a_kernel_that_reads_branches_or_mixes_devices_is_caught(store, reads, kernel, error):
    with rehearsal(store) as engine:
        engine.admit("faulty", job(store, "gan", "ddls").model_copy(update={"mcmc": kernel(steps=3)}), None)
        engine.tick()
        with pytest.raises(error):
            engine.tick()

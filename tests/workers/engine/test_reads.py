"""What the host reads from the device: nothing on ticks where no chain ends, but for a look at the energies every 16 ticks."""

import math

import numpy as np
import pytest
import torch

from models import device
from models.checkpoints import Store
from models.kernels import KERNELS
from tests.tiny_models import publish_tiny
from tests.workers.engine.engines import alone, engine, job, loaded, loading_decodes_by, prior, run
from workers.engine import lane as lane_module
from workers.engine.lane_pool import LOOK_EVERY


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("checkpoints"), tmp_path_factory.mktemp("nothing-shipped"))
    for seed, name in enumerate(("a", "b")):
        publish_tiny(store, "sngan", name, seed)
    return store


@pytest.fixture
def reads(monkeypatch):
    """The tensors that were read."""
    reads, read = [], device.read
    monkeypatch.setattr(device, "read", lambda tensor: reads.append(tensor) or read(tensor))
    return reads


def of(store, kernel, **rest):
    mcmc = KERNELS[kernel](**{"steps": rest.pop("steps", 200)})
    return job(store, **rest).model_copy(update={"mcmc": mcmc})


def test_ticks_without_ends_read_once_in_sixteen_for_all_lanes_and_joins_read_nothing(store, reads):
    busy = engine(store, capacity=64)
    for name in ("a", "b"):
        for kernel in KERNELS:
            busy.admit(f"{name} {kernel}", of(store, kernel, model=name), None)
    loaded(busy)
    counts = []
    for tick in range(4 * LOOK_EVERY):
        if tick % 3 == 0:
            busy.admit(f"joins at {tick}", of(store, list(KERNELS)[tick % len(KERNELS)]), None)
        before = len(reads)
        assert busy.tick() == []
        counts.append(len(reads) - before)
    assert sorted(counts) == [0] * 4 * (LOOK_EVERY - 1) + [1] * 4
    assert np.diff(np.flatnonzero(counts)).tolist() == [LOOK_EVERY] * 3


def test_all_chains_that_end_on_a_tick_are_read_together_and_decoded_together(store, reads, monkeypatch):
    decoded = []
    loading_decodes_by(monkeypatch, lambda decode, z: decoded.append(len(z)) or decode(z))
    busy = engine(store, capacity=64)
    wanted = {f"{kernel} {seed}": of(store, kernel, steps=5, images=3, seed=seed) for kernel in ("langevin", "mala") for seed in (1, 2)}
    expected = {name: alone(store, one) for name, one in wanted.items()}
    for name, one in wanted.items():
        busy.admit(name, one, None)
    loaded(busy)
    for _ in range(4):
        assert busy.tick() == []
    busy.admit("prior", prior(store, "a", 3), None)
    del decoded[:], reads[:]
    outcomes = {outcome.job_id: outcome for outcome in busy.tick()}
    assert decoded == [16]  # 15 latents, padded
    assert len(reads) == 3  # chains, whether images are finite, pixels
    assert outcomes.keys() == {*wanted, "prior"}
    for name, one in expected.items():
        assert np.array_equal(outcomes[name].images, one.images)
        assert outcomes[name].chains == one.chains


def test_memory_and_images_that_fail_in_a_common_call_fail_only_their_own_job(store, monkeypatch):
    wanted = {name: of(store, "mala", steps=5, images=2, seed=seed) for seed, name in enumerate(("greedy", "sound", "ugly"))}
    seen, latents, images = [], {}, {}
    loading_decodes_by(monkeypatch, lambda decode, z: seen.append(z) or decode(z))
    for name, one in wanted.items():
        images[name] = alone(store, one).images
        latents[name] = seen[-1][:2]

    def fragile(decode, z):
        greedy, ugly = ((z.unsqueeze(1) == latents[name]).all(2).any(1) for name in ("greedy", "ugly"))
        if greedy.any():
            raise torch.OutOfMemoryError("out of memory")
        return decode(z).where(~ugly[:, None, None, None], torch.nan)

    loading_decodes_by(monkeypatch, fragile)
    busy = engine(store)
    for name, one in wanted.items():
        busy.admit(name, one, None)
    outcomes = run(busy)
    assert outcomes["greedy"].problem.reason == "unavailable"
    assert "out of memory" in outcomes["greedy"].problem.detail
    assert (outcomes["ugly"].problem.reason, "not finite" in outcomes["ugly"].problem.detail) == ("diverged", True)
    assert np.array_equal(outcomes["sound"].images, images["sound"])


class Breaking:
    """An evaluation whose energy for one chain's points is not finite from some call on, or in one call alone."""

    def __init__(self, monkeypatch, at, value, row):
        self.calls, self.at, self.value, self.row = 0, at, value, row
        self._evaluate = lane_module.evaluate
        monkeypatch.setattr(lane_module, "evaluate", self)

    def __call__(self, target, z, data=None):
        points = self._evaluate(target, z, data)
        self.calls += 1
        if self.calls == self.at:
            points.energy[self.row] = self.value
        return points


@pytest.mark.parametrize(("at", "step"), [(1, 0), (2, 1), (9, 8), (31, 30)])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_energy_that_was_not_finite_once_fails_its_job_with_the_step_and_within_sixteen_ticks(store, monkeypatch, at, step, value):
    sound = of(store, "langevin", steps=60, images=2, seed=5)
    expected, busy = alone(store, sound), engine(store)
    busy.admit("warm", of(store, "langevin", steps=1), None)
    run(busy)
    busy.admit("unsound", of(store, "langevin", steps=60, images=2), None)
    busy.admit("sound", sound, None)
    Breaking(monkeypatch, at, value, row=1)
    outcomes, ticks = {}, 0
    while "unsound" not in outcomes:
        outcomes |= {outcome.job_id: outcome for outcome in busy.tick()}
        ticks += 1
    assert at <= ticks <= at + LOOK_EVERY
    problem = outcomes["unsound"].problem
    assert (problem.reason, problem.detail) == ("diverged", f"the chain of image 1 diverged at step {step}: its energy is {value}")
    outcomes |= run(busy)
    assert np.array_equal(outcomes["sound"].images, expected.images)
    assert outcomes["sound"].chains == expected.chains


def test_a_chain_that_broke_just_before_its_end_gives_no_image(store, monkeypatch):
    busy = engine(store)
    busy.admit("warm", of(store, "langevin", steps=1), None)
    run(busy)
    busy.admit("unsound", of(store, "langevin", steps=5, images=2), None)
    Breaking(monkeypatch, 5, math.nan, row=0)
    (outcome,) = run(busy).values()
    assert outcome.problem.detail == "the chain of image 0 diverged at step 4: its energy is nan"

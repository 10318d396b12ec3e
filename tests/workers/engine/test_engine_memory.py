"""The engine and memory: what does not fit is not tried, memory that runs out costs no job, and files tell with which size they agree."""

import json

import numpy as np
import pytest
import torch

from models.checkpoints import Store
from models.images import read_text
from tests.tiny_models import publish_tiny
from tests.workers.engine.engines import Heard, alone, engine, job, loaded, loading_decodes_by, run
from workers.engine import lane as lane_module
from workers.engine.buckets import REFERENCE
from workers.engine.engine import Engine, EngineSettings
from workers.generation.encoding import encode
from workers.messages import Finished


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("checkpoints"), tmp_path_factory.mktemp("nothing-shipped"))
    for name in ("a", "b"):
        publish_tiny(store, "sngan", name)
    return store


class SmallMemory:
    """Stands in for a device that holds so many rows and no more."""

    def __init__(self, monkeypatch, evaluate, rows, error):
        self.rows, self.error, self._evaluate, self.refused = rows, error, evaluate, 0
        monkeypatch.setattr(lane_module, "evaluate", self)

    def __call__(self, target, z, *rest):
        if len(z) > self.rows:
            self.refused += 1
            raise self.error
        return self._evaluate(target, z, *rest)


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 800000000000 bytes"),
]


@pytest.mark.parametrize("error", ERRORS, ids=["device", "cpu"])
@pytest.mark.parametrize("after", [0, 4])
def test_memory_that_runs_out_halves_the_bucket_and_changes_no_bit(store, monkeypatch, error, after):
    wanted = {f"{number}": job(store, steps=9, images=5, seed=number) for number in range(3)}
    expected = {job_id: alone(store, one) for job_id, one in wanted.items()}
    busy, evaluate = engine(store), lane_module.evaluate
    for job_id, one in wanted.items():
        busy.admit(job_id, one, None)
    if after:
        loaded(busy)
        for _ in range(after - 1):
            busy.tick()
        memory = SmallMemory(monkeypatch, evaluate, 4, error)
    else:
        memory = SmallMemory(monkeypatch, evaluate, 8, error)
    outcomes = run(busy)
    assert memory.refused >= 1
    for job_id, one in expected.items():
        assert np.array_equal(outcomes[job_id].images, one.images)
        assert outcomes[job_id].chains == one.chains
        assert (outcomes[job_id].contract == one.contract) == (after > 0)  # at first memory does not suffice for the reference
    (lane,) = busy._lanes.values()
    assert max(lane.table.seconds) <= memory.rows


def encoded(store, wanted, capacity):
    only = engine(store, capacity=capacity)
    only.admit("only", wanted, None)
    outcome = run(only)["only"]
    return encode(wanted, outcome.images, outcome.diagnostics, outcome.contract)


@pytest.mark.parametrize("sampler", ["ddls", "prior"])
def test_files_of_workers_of_any_capacity_from_the_reference_on_are_the_same(store, sampler):
    wanted = job(store, images=3)
    if sampler == "prior":
        wanted = wanted.model_copy(update={"sampler": "prior", "mcmc": None})
    assert encoded(store, wanted, REFERENCE) == encoded(store, wanted, 4 * REFERENCE)


def test_a_file_of_a_smaller_worker_says_with_which_batch_size_it_agrees(store):
    told = json.loads(read_text(encoded(store, job(store), 20)["0.png"])["contract"])
    assert (told["sampling_reference"], told["decoding_reference"]) == (16, 16)
    assert (told["device"], told["torch"], told["reproducible"]) == ("cpu", torch.__version__, True)


@pytest.mark.parametrize("sampler", ["ddls", "prior"])
def test_a_file_that_its_neighbours_may_have_changed_says_so(store, sampler, monkeypatch):
    def by_pairs(decode, z):  # as matrix libraries do with few columns
        images = decode(z)
        images[1::2] = images[1::2].nextafter(torch.ones(()))
        return images

    loading_decodes_by(monkeypatch, by_pairs)
    wanted = job(store)
    if sampler == "prior":
        wanted = wanted.model_copy(update={"sampler": "prior", "mcmc": None})
    told = json.loads(read_text(encoded(store, wanted, 20)["0.png"])["contract"])
    assert told["reproducible"] is False


class Scarce:
    """Memory of which a row takes a byte."""

    def __init__(self, free):
        self.bytes = free

    def free(self):
        return self.bytes

    def peak(self, call, batch):
        call(batch)
        return len(batch)


def test_no_more_chains_run_than_memory_was_measured_to_have_room_for(store):
    busy = Engine(store, EngineSettings(capacity=64), Heard(), Scarce(21))
    busy.admit("first", job(store, steps=5, images=20, caller="ann"), None)
    assert (busy.capacity, busy.free) == (64, 44)
    loaded(busy)
    assert (busy.capacity, busy.free) == (16, 0)  # the checkpoint came in when its chains did
    run(busy)
    assert (busy.capacity, busy.free) == (64, 64)
    wanted, most = job(store, steps=5, images=40, caller="ann"), 0
    busy.admit("second", wanted, None)
    while not (outcomes := busy.tick()):
        most = max(most, sum(len(lane.batch()) for lane in busy._lanes.values()))
    assert most == 16
    assert outcomes[0].contract.sampling_reference == 16
    assert np.array_equal(outcomes[0].images, alone(store, wanted).images)


def test_a_checkpoint_that_memory_has_less_room_for_does_not_bound_the_others(store):
    busy = Engine(store, EngineSettings(capacity=64), Heard(), scarce := Scarce(21))
    busy.admit("large", job(store, "a"), None)
    run(busy)
    scarce.bytes = 1000
    busy.admit("small", job(store, "b", images=40), None)
    loaded(busy)
    assert (busy.capacity, busy.free) == (64, 24)


def test_images_that_memory_does_not_suffice_for_are_decoded_in_smaller_buckets(store, monkeypatch):
    wanted = job(store, images=15)
    expected = alone(store, wanted)
    busy = engine(store)
    busy.admit("first", job(store), None)
    run(busy)
    decoder = busy._checkpoints.use(wanted).decoder("ddls")
    decode = decoder._function

    def small(z):
        if len(z) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(z)

    monkeypatch.setattr(decoder, "_function", small)
    busy.admit("wanted", wanted, None)
    assert np.array_equal(run(busy)["wanted"].images, expected.images)


def test_a_model_too_large_for_any_memory_fails_its_own_jobs_alone(store, monkeypatch):
    busy, evaluate = engine(store), lane_module.evaluate
    busy.admit("too large", job(store, "a", steps=5000, images=3), None)
    busy.admit("sound", job(store, "b", steps=9), None)
    loaded(busy)
    large = busy._checkpoints.use(job(store, "a")).prepared.targets["ddls"]

    def refusing(target, z, *rest):
        if target is large:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return evaluate(target, z, *rest)

    monkeypatch.setattr(lane_module, "evaluate", refusing)
    outcomes = run(busy)
    assert outcomes["too large"].problem.reason == "unavailable"
    assert "out of memory, even for 4 chains at a time" in outcomes["too large"].problem.detail
    assert isinstance(outcomes["sound"], Finished)
    busy.admit("again", job(store, "a"), None)
    assert run(busy)["again"].problem.reason == "unavailable"


def test_another_error_is_not_taken_for_a_lack_of_memory(store, monkeypatch):
    busy, evaluate = engine(store), lane_module.evaluate
    SmallMemory(monkeypatch, evaluate, 0, RuntimeError("shapes do not match"))
    busy.admit("any", job(store), None)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run(busy)

"""The engine under pressure: callers take turns, cancels are prompt, checkpoints share a budget, and memory that runs out costs no job."""

import json

import numpy as np
import pytest
import torch

from models.checkpoints import Store
from models.images import read_text
from tests.tiny_models import publish_tiny
from workers import lane as lane_module
from workers.buckets import REFERENCE
from workers.encoding import encode
from workers.engine import Engine, EngineSettings, Finished
from workers.jobs import GenerateJob, Problem


class Deaf:
    """An observer that remembers what was loaded."""

    def __init__(self):
        self.loads = []

    def stepped(self, *seen):
        pass

    def retired(self, *seen):
        pass

    def loaded(self, model, version, seconds):
        self.loads.append((model, version))

    def warmed(self, model, sampler, buckets):
        pass


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("checkpoints"), tmp_path_factory.mktemp("nothing-shipped"))
    for name in ("a", "b", "c"):
        publish_tiny(store, "sngan", name)
    return store


def engine(store, **settings):
    return Engine(store, EngineSettings(**{"capacity": 16} | settings), Deaf())


def job(store, model="a", *, steps=5, images=1, version=None, **rest):
    card = store.card(model, version)
    mcmc = {"kernel": "hmc", "steps": steps, "leapfrog_steps": 1}  # hmc remembers its way: a tick done twice would show
    return GenerateJob(
        model=model, version=card.version, digest=card.digest, sampler="ddls", mcmc=mcmc, num_images=images, **{"seed": 1} | rest
    )


def run(engine, limit=3000):
    outcomes = {}
    for _ in range(limit):
        if not engine.busy:
            return outcomes
        outcomes |= {outcome.job_id: outcome for outcome in engine.tick()}
    raise AssertionError("the engine does not come to an end")


def alone(store, wanted):
    only = engine(store)
    only.admit("only", wanted, None)
    return run(only)["only"]


def test_a_hundred_large_jobs_of_one_caller_delay_anothers_chain_by_nothing(store):
    busy = engine(store)
    for number in range(100):
        busy.admit(f"ann {number}", job(store, steps=5000, images=256, caller="ann"), None)
    for _ in range(3):
        busy.tick()
    assert busy.free == 0
    assert {flow.caller for flow in busy.waiting} == {"ann"}
    wanted = job(store, steps=5, caller="bob")
    busy.admit("bob", wanted, None)
    ticks = [outcome.job_id for _ in range(6) for outcome in busy.tick()]
    assert ticks == ["bob"]  # five steps, after the tick that evaluates where it starts
    busy.admit("bob again", wanted, None)
    outcomes = [outcome for _ in range(6) for outcome in busy.tick()]
    assert np.array_equal(outcomes[0].images, alone(store, wanted).images)


def test_the_caller_and_the_priority_do_not_change_a_bit(store):
    wanted = job(store, images=3)
    other = wanted.model_copy(update={"caller": "bob", "priority": "low"})
    assert np.array_equal(alone(store, wanted).images, alone(store, other).images)


@pytest.mark.parametrize("ticks", [0, 1, 2, 7])
def test_cancel_takes_effect_within_two_ticks_and_its_neighbours_keep_their_bits(store, ticks):
    wanted = job(store, steps=12, images=5, seed=2)
    busy = engine(store)
    busy.admit("wanted", wanted, None)
    busy.admit("unwanted", job(store, steps=5000, images=40, seed=3), None)
    for _ in range(ticks):
        busy.tick()
    busy.cancel("unwanted", Problem(reason="canceled", detail="by its owner"))
    assert [outcome.job_id for outcome in busy.tick()] == ["unwanted"]
    assert np.array_equal(run(busy)["wanted"].images, alone(store, wanted).images)


def test_checkpoints_leave_when_the_budget_is_used_up_the_longest_unused_first(store):
    one = engine(store)
    one.admit("a", job(store, "a"), None)
    run(one)
    size = one._checkpoints.size
    assert size > 0
    two = engine(store, checkpoint_bytes=int(2.5 * size))
    for model in ("a", "b", "a", "c", "a", "b"):
        two.admit(model, job(store, model), None)
        assert isinstance(run(two)[model], Finished)
        assert two._checkpoints.size <= 2.5 * size
    assert two._observer.loads == [("a", 1), ("b", 1), ("c", 1), ("b", 1)]
    assert {name.model for name in two._lanes} == {"a", "b"}


def test_a_checkpoint_whose_chains_run_stays_whatever_the_budget(store):
    tight = engine(store, checkpoint_bytes=1)
    wanted = [job(store, model, steps=20, images=3) for model in ("a", "b", "c")]
    for one in wanted:
        tight.admit(one.model, one, None)
    tight.tick()
    assert tight._observer.loads == [("a", 1), ("b", 1), ("c", 1)]
    outcomes = run(tight)
    assert tight._observer.loads == [("a", 1), ("b", 1), ("c", 1)]
    assert all(np.array_equal(outcomes[one.model].images, alone(store, one).images) for one in wanted)


def test_a_new_version_serves_beside_the_old_one_whose_jobs_end_as_they_began(store):
    old = publish_tiny(store, "sngan", "renewed", seed=1)
    busy = engine(store)
    before = job(store, "renewed", steps=30, images=4)
    busy.admit("before", before, None)
    busy.tick()
    new = publish_tiny(store, "sngan", "renewed", seed=2)
    after = job(store, "renewed", steps=5, images=4)
    assert (before.version, after.version) == (old.version, new.version) == (1, 2)
    busy.admit("after", after, None)
    outcomes = run(busy)
    assert np.array_equal(outcomes["before"].images, alone(store, before).images)
    assert np.array_equal(outcomes["after"].images, alone(store, after).images)
    assert not np.array_equal(outcomes["before"].images, outcomes["after"].images)


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
        for _ in range(after):
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
    assert (told["device"], told["torch"]) == ("cpu", torch.__version__)


def test_images_that_memory_does_not_suffice_for_are_decoded_in_smaller_buckets(store, monkeypatch):
    wanted = job(store, images=15)
    expected = alone(store, wanted)
    busy = engine(store)
    busy.admit("first", job(store), None)
    run(busy)
    prepared = busy._checkpoints.use(wanted).prepared
    decode = type(prepared).decode

    def small(self, z):
        if len(z) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(self, z)

    monkeypatch.setattr(type(prepared), "decode", small)
    busy.admit("wanted", wanted, None)
    assert np.array_equal(run(busy)["wanted"].images, expected.images)


def test_a_model_too_large_for_any_memory_fails_its_own_jobs_alone(store, monkeypatch):
    busy, evaluate = engine(store), lane_module.evaluate
    busy.admit("too large", job(store, "a", steps=50, images=3), None)
    busy.admit("sound", job(store, "b", steps=9), None)
    busy.tick()
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

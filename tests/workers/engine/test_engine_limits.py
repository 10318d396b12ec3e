"""The engine under pressure: callers take turns, cancels are prompt, and checkpoints share a budget."""

import numpy as np
import pytest

from models.checkpoints import Store
from tests.tiny_models import publish_tiny
from tests.workers.engine.engines import alone, engine, job, loaded, run
from workers.jobs import Problem
from workers.messages import Finished


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("checkpoints"), tmp_path_factory.mktemp("nothing-shipped"))
    for name in ("a", "b", "c"):
        publish_tiny(store, "sngan", name)
    return store


def test_a_hundred_large_jobs_of_one_caller_delay_anothers_chain_by_nothing(store):
    busy = engine(store)
    for number in range(100):
        busy.admit(f"ann {number}", job(store, steps=5000, images=256, caller="ann"), None)
    loaded(busy)
    assert busy.free == 0
    assert {flow.caller for flow in busy.waiting} == {"ann"}
    wanted = job(store, steps=5, caller="bob")
    busy.admit("bob", wanted, None)
    ticks = [outcome.job_id for _ in range(6) for outcome in busy.tick()]
    assert ticks == ["bob"]  # five steps, after the tick that evaluates where it starts
    busy.admit("bob again", wanted, None)
    outcomes = [outcome for _ in range(6) for outcome in busy.tick()]
    assert np.array_equal(outcomes[0].images, alone(store, wanted).images)


def test_a_quick_job_waits_for_nobody_and_those_who_gave_way_keep_their_bits(store):
    busy, long = engine(store), [job(store, steps=400, images=8, seed=seed) for seed in range(4)]
    for number, one in enumerate(long):
        busy.admit(f"long {number}", one, None)
    outcomes = loaded(busy)
    for number in range(20):
        outcomes |= {outcome.job_id: outcome for _ in range(9) for outcome in busy.tick()}
        assert busy.quick >= 16
        quick = job(store, steps=10, images=4, seed=number)
        busy.admit(f"quick {number}", quick, None)
        ended = {outcome.job_id: outcome for _ in range(11) for outcome in busy.tick()}  # ten steps, after the start's evaluation
        assert np.array_equal(ended.pop(f"quick {number}").images, alone(store, quick).images)
        assert ended == {}
    assert busy.progress()["long 0"].done > 0
    outcomes |= run(busy)
    for number, one in enumerate(long):
        apart = alone(store, one)
        assert np.array_equal(outcomes[f"long {number}"].images, apart.images)
        assert outcomes[f"long {number}"].chains == apart.chains


@pytest.mark.parametrize("left", [44, 20, 8, 3, 1])
def test_a_quick_job_waits_for_nobody_where_the_long_ones_are_about_to_end_together(store, left):
    busy, long = engine(store), [job(store, steps=400, images=8, seed=seed) for seed in range(4)]  # twice what fits
    for number, one in enumerate(long):
        busy.admit(f"long {number}", one, None)
    loaded(busy)
    for _ in range(400 - left):
        assert busy.tick() == []
    assert busy.quick == 100
    busy.admit("quick", job(store, steps=10), None)
    ticks = [{outcome.job_id for outcome in busy.tick()} for _ in range(15)]
    assert any("quick" in ended for ended in ticks)  # in eleven, but for the four in which it is not worth while
    outcomes = run(busy)
    assert np.array_equal(outcomes["long 3"].images, alone(store, long[3]).images)


def test_parked_chains_leave_with_their_job(store):
    busy = engine(store)
    busy.admit("long", job(store, steps=400, images=16), None)
    loaded(busy)
    busy.tick()
    busy.admit("quick", job(store, steps=10, images=16), None)
    busy.tick()
    assert busy.progress()["long"].done == 16
    busy.end_early("long", Problem(reason="canceled", detail="by its owner"))
    assert set(run(busy)) == {"long", "quick"}
    assert busy.free == 16


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
    for tick in range(ticks):
        busy.tick() if tick else loaded(busy)
    busy.end_early("unwanted", Problem(reason="canceled", detail="by its owner"))
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
    assert two._observe.loads == [("a", 1), ("b", 1), ("c", 1), ("b", 1)]
    assert {name.model for name in two._lanes} == {"a", "b"}


def test_a_checkpoint_whose_chains_run_stays_whatever_the_budget(store):
    tight = engine(store, checkpoint_bytes=1)
    wanted = [job(store, model, steps=500, images=3) for model in ("a", "b", "c")]
    for one in wanted:
        tight.admit(one.model, one, None)
    assert loaded(tight) == {}
    assert tight._observe.loads == [("a", 1), ("b", 1), ("c", 1)]
    outcomes = run(tight)
    assert tight._observe.loads == [("a", 1), ("b", 1), ("c", 1)]
    assert all(np.array_equal(outcomes[one.model].images, alone(store, one).images) for one in wanted)


def test_a_new_version_serves_beside_the_old_one_whose_jobs_end_as_they_began(store):
    old = publish_tiny(store, "sngan", "renewed", seed=1)
    busy = engine(store)
    before = job(store, "renewed", steps=30, images=4)
    busy.admit("before", before, None)
    loaded(busy)
    new = publish_tiny(store, "sngan", "renewed", seed=2)
    after = job(store, "renewed", steps=5, images=4)
    assert (before.version, after.version) == (old.version, new.version) == (1, 2)
    busy.admit("after", after, None)
    outcomes = run(busy)
    assert np.array_equal(outcomes["before"].images, alone(store, before).images)
    assert np.array_equal(outcomes["after"].images, alone(store, after).images)
    assert not np.array_equal(outcomes["before"].images, outcomes["after"].images)

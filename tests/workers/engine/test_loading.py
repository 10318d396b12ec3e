"""What a job needs from disk comes in between the ticks of the others, and whatever happens meanwhile is its own affair."""

import shutil
import time

import numpy as np
import pytest
import torch

from models.checkpoints import Store
from tests.tiny_models import publish_tiny
from tests.workers.engine.engines import Evaluations, alone, engine, job, loaded, prior, run, steps, ticks_until
from workers.engine import lane as lane_module
from workers.jobs import Problem
from workers.messages import Finished, Loaded, Warmed

CANCELED = Problem(reason="canceled", detail="by its owner")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("checkpoints"), tmp_path_factory.mktemp("nothing-shipped"))
    for seed, name in enumerate(("a", "b", "c")):
        publish_tiny(store, "sngan", name, seed)
    return store


@pytest.fixture
def evaluations(monkeypatch):
    return Evaluations(monkeypatch)


@pytest.fixture
def stepping(store):
    """An engine where chains of `a` run for long."""
    busy = engine(store)
    busy.admit("long", job(store, "a", steps=5000, images=4), None)
    loaded(busy)
    return busy


def ended_beside_the_long_one(busy):
    """The outcomes of all other jobs, as they end."""
    return [outcome for outcomes in ticks_until(busy, lambda: busy.progress().keys() == {"long"}) for outcome in outcomes]


def test_chains_step_on_while_another_model_loads_an_evaluation_a_tick(store, evaluations, stepping):
    stepping.admit("other", job(store, "b", steps=3), None)
    stepped, made, shares = steps(stepping, "a"), evaluations.made, []
    while not steps(stepping, "b"):
        stepping.tick()
        shares.append(evaluations.made - made)
        made = evaluations.made
    assert steps(stepping, "a") - stepped == len(shares) > 50
    assert max(shares[:-1]) == 2  # the chains', and one of the loading's
    assert shares[-1] <= 3


def test_chains_have_half_of_the_time_though_an_evaluation_of_the_loading_takes_as_long_as_many_of_theirs(store, evaluations, stepping):
    evaluations.cost = lambda target: 1 if target is stepping._checkpoints.use(job(store, "a")).prepared.targets["ddls"] else 8
    stepping.admit("other", job(store, "b", steps=3), None)
    begun, stepped = evaluations.made, steps(stepping, "a")
    ticks_until(stepping, lambda: steps(stepping, "b"))
    assert (evaluations.made - begun) / (steps(stepping, "a") - stepped) == pytest.approx(2, rel=0.1)


def test_where_no_chain_steps_a_tick_loads_for_a_twentieth_of_a_second(store, evaluations):
    idle, shares = engine(store), []
    idle.admit("only", job(store, "a"), None)
    while not steps(idle, "a"):
        made = evaluations.made
        idle.tick()
        shares.append(evaluations.made - made)
    assert shares[0] == 5
    assert max(shares) <= 6


def test_what_loads_beside_others_gives_the_same_bytes_as_alone(store):
    busy, wanted = engine(store), {"a": job(store, "a", steps=300, images=5), "b": job(store, "b", steps=9, images=3)}
    busy.admit("a", wanted["a"], None)
    loaded(busy)
    busy.admit("b", wanted["b"], None)
    outcomes = run(busy)
    for name, one in wanted.items():
        apart = alone(store, one)
        assert np.array_equal(outcomes[name].images, apart.images)
        assert outcomes[name].chains == apart.chains
        assert outcomes[name].contract == apart.contract


def test_two_models_load_one_after_the_other_as_they_were_asked_for(store, stepping):
    stepping.admit("c", job(store, "c"), None)
    stepping.admit("prior of b", prior(store, "b"), None)
    stepping.admit("b", job(store, "b"), None)
    ended = ended_beside_the_long_one(stepping)
    heard = stepping._observe
    assert [model for model, _ in heard.loads] == ["a", "b", "c"]  # priors come first
    assert sorted((event.model, event.sampler) for event in heard.of(Warmed)) == [(model, "ddls") for model in "abc"]
    assert [outcome.job_id for outcome in ended if isinstance(outcome, Finished)] == ["prior of b", "c", "b"]  # whose lane came last
    assert all(event.seconds > 0 for event in heard.of(Loaded))


@pytest.mark.parametrize("kind", ["chains", "prior"])
@pytest.mark.parametrize("ticks", [1, 2, 20])
def test_a_job_canceled_while_it_waits_is_out_at_the_next_tick_and_the_loading_goes_on(store, evaluations, stepping, kind, ticks):
    free = stepping.free
    stepping.admit("other", job(store, "b", images=5) if kind == "chains" else prior(store, "b"), None)
    for _ in range(ticks):
        assert stepping.tick() == []
    assert stepping.free == (free - 5 if kind == "chains" else free)
    assert stepping.progress()["other"].done == 0
    stepping.end_early("other", CANCELED)
    assert [(outcome.job_id, outcome.problem) for outcome in stepping.tick()] == [("other", CANCELED)]
    assert stepping.free == free
    stepping.end_early("long", CANCELED)
    run(stepping)
    assert stepping._observe.loads == [("a", 1), ("b", 1)]
    stepping.admit("again", job(store, "b"), None)
    assert isinstance(run(stepping)["again"], Finished)
    assert stepping._observe.loads == [("a", 1), ("b", 1)]


def test_a_deadline_passes_while_a_job_waits_for_its_checkpoint(store, evaluations, stepping, monkeypatch):
    stepping.admit("late", job(store, "b", deadline_s=1), time.time() + 1000)
    for _ in range(3):
        assert stepping.tick() == []
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1001)
    assert [(outcome.job_id, outcome.problem.reason) for outcome in stepping.tick()] == [("late", "expired")]


@pytest.mark.parametrize("kind", ["chains", "prior"])
def test_a_damaged_checkpoint_fails_alone_beside_chains_that_run(store, stepping, kind):
    card = publish_tiny(store, "sngan", f"damaged for {kind}".replace(" ", "-"))
    (store.folder(card) / "weights.safetensors").write_bytes(b"not these")
    before = steps(stepping, "a")
    stepping.admit("damaged", job(store, card.name) if kind == "chains" else prior(store, card.name), None)
    stepping.admit("sound", job(store, "b"), None)
    ended = ended_beside_the_long_one(stepping)
    assert [outcome.job_id for outcome in ended] == ["damaged", "sound"]
    assert ended[0].problem.reason == "unavailable"
    assert isinstance(ended[1], Finished)
    assert steps(stepping, "a") > before


def test_a_version_that_hides_a_shipped_one_of_its_number_is_another_though_that_one_is_in_memory(tmp_path):
    shipped, other, hiding = (tmp_path / name for name in ("shipped", "other", "hiding"))
    publish_tiny(Store(shipped), "sngan", "a", 0)
    publish_tiny(Store(other), "sngan", "a", 1)
    store = Store(hiding, shipped)
    busy, old = engine(store), job(store, "a", steps=5000)
    busy.admit("long", old, None)
    loaded(busy)
    shutil.copytree(other / "a" / "1", hiding / "a" / "1")
    new = job(store, "a")
    assert (new.version, new.digest == old.digest) == (old.version, False)
    busy.admit("new", new, None)
    (ended,) = ended_beside_the_long_one(busy)
    assert np.array_equal(ended.images, alone(store, new).images)
    assert busy._observe.loads == [("a", 1), ("a", 1)]


@pytest.mark.parametrize("first", ["sound", "unsound"])
@pytest.mark.parametrize("late", [False, True])
def test_a_job_that_names_other_weights_fails_by_itself(store, stepping, first, late):
    jobs = {"sound": job(store, "b"), "unsound": job(store, "b").model_copy(update={"digest": "f" * 64})}
    ended = {}
    for name in sorted(jobs, reverse=first == "unsound"):
        stepping.admit(name, jobs[name], None)
        ended |= {outcome.job_id: outcome for _ in range(3 * late) for outcome in stepping.tick()}
    ended |= {outcome.job_id: outcome for outcome in ended_beside_the_long_one(stepping)}
    assert stepping._observe.loads == [("a", 1), ("b", 1)]
    assert isinstance(ended["sound"], Finished)
    stepping.admit("again", jobs["unsound"], None)
    ended |= {outcome.job_id: outcome for outcome in ended_beside_the_long_one(stepping)}
    for name in ("unsound", "again"):
        assert ended[name].problem.reason == "unavailable"
        assert "the job asks for" in ended[name].problem.detail


def test_a_lane_that_memory_does_not_suffice_for_fails_its_own_job(store, stepping, monkeypatch):
    fits, evaluate = stepping._checkpoints.use(job(store, "a")).prepared.targets["ddls"], lane_module.evaluate

    def refusing(target, z, *rest):
        if target is not fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return evaluate(target, z, *rest)

    monkeypatch.setattr(lane_module, "evaluate", refusing)
    stepping.admit("too large", job(store, "b"), None)
    (failed,) = ended_beside_the_long_one(stepping)
    assert failed.problem.reason == "unavailable"
    assert "even for 4 chains at a time" in failed.problem.detail
    stepping.admit("images", prior(store, "b"), None)
    assert [outcome.job_id for outcome in stepping.tick()] == ["images"]  # its checkpoint is there


def test_images_of_a_prior_wait_for_their_checkpoint_and_those_of_another_do_not_wait_for_them(store, evaluations, stepping):
    stepping.admit("waits", prior(store, "b", 3), None)
    before = steps(stepping, "a")
    assert stepping.tick() == []
    for number in range(5):
        stepping.admit(f"at once {number}", prior(store, "a"), None)
        assert [outcome.job_id for outcome in stepping.tick()] == [f"at once {number}"]
    ticks = ticks_until(stepping, lambda: stepping.progress().keys() == {"long"})
    assert [outcome.job_id for outcome in ticks[-1]] == ["waits"]
    assert steps(stepping, "a") - before == 6 + len(ticks)


def test_chains_that_wait_for_their_lane_give_way_to_quick_ones_and_keep_their_bits(store, evaluations):
    busy, long = engine(store), job(store, "b", steps=400, images=16)
    busy.admit("first", job(store, "a"), None)
    run(busy)
    busy.admit("long", long, None)
    assert busy.tick() == []
    assert (busy.free, busy.quick) == (0, 100)
    busy.admit("quick", job(store, "a", steps=10, images=3), None)
    for _ in range(10):
        assert busy.tick() == []
        assert busy._lanes.points == 16
    assert [outcome.job_id for outcome in busy.tick()] == ["quick"]  # ten steps, after the start's evaluation
    assert steps(busy, "b") == 0
    assert np.array_equal(run(busy)["long"].images, alone(store, long).images)
    assert busy.free == 16


def test_parked_before_they_began_chains_leave_with_their_job(store, evaluations):
    busy = engine(store)
    busy.admit("first", job(store, "a"), None)
    run(busy)
    busy.admit("long", job(store, "b", steps=400, images=16), None)
    busy.tick()
    busy.admit("quick", job(store, "a", steps=10, images=3), None)
    busy.tick()
    busy.end_early("long", CANCELED)
    assert set(run(busy)) == {"long", "quick"}
    assert busy.free == 16


def test_under_a_tight_budget_nothing_leaves_before_it_was_used(store):
    tight = engine(store, checkpoint_bytes=1, prior_chains_per_tick=4)
    for model in ("a", "b", "c"):
        tight.admit(f"prior of {model}", prior(store, model, 3), None)
        tight.admit(f"more of {model}", prior(store, model, 3), None)
        tight.admit(f"chains of {model}", job(store, model, images=3), None)
    outcomes = run(tight)
    assert len(outcomes) == 9
    assert all(isinstance(outcome, Finished) for outcome in outcomes.values())
    assert sorted(tight._observe.loads) == [("a", 1), ("b", 1), ("c", 1)]


def test_checkpoints_for_images_of_a_prior_are_in_memory_one_at_a_time_where_there_is_no_room_for_two(store):
    tight, most = engine(store, checkpoint_bytes=1, prior_chains_per_tick=4), 0
    for number, model in enumerate(("a", "b", "c") * 2):
        tight.admit(f"{model} {number}", prior(store, model, 3), None)
    while tight.busy:
        assert all(isinstance(outcome, Finished) for outcome in tight.tick())
        most = max(most, len(tight._checkpoints._held))
    assert most == 1
    assert tight._observe.loads == [("a", 1), ("b", 1), ("c", 1)]


def test_a_checkpoint_stays_for_images_that_are_left_for_the_next_tick(store):
    tight = engine(store, checkpoint_bytes=1, prior_chains_per_tick=4)
    for number in range(3):
        tight.admit(f"a {number}", prior(store, "a", 3), None)
    tight.admit("b", prior(store, "b"), None)
    assert len(run(tight)) == 4
    assert tight._observe.loads == [("a", 1), ("b", 1)]


def test_a_checkpoint_stays_for_a_job_of_which_some_chains_are_done(store):
    tight = engine(store, capacity=1, checkpoint_bytes=1)
    tight.admit("half done", job(store, "a", images=2, priority="low"), None)
    ticks_until(tight, lambda: tight._runs["half done"].retired)
    tight.admit("between", job(store, "b", priority="high"), None)
    assert [model for model, _ in tight._observe.loads] == ["a"]
    assert list(run(tight)) == ["between", "half done"]
    assert tight._observe.loads == [("a", 1), ("b", 1)]


def test_a_lane_leaves_with_its_checkpoint_as_soon_as_another_is_loaded_in_its_place(store, evaluations):
    tight = engine(store, checkpoint_bytes=1)
    tight.admit("a", job(store, "a"), None)
    run(tight)
    tight.admit("b", job(store, "b"), None)
    tight.tick()
    assert list(tight._lanes) == []
    tight.admit("a again", job(store, "a"), None)  # while b loads
    outcomes = run(tight)
    assert set(outcomes) == {"b", "a again"}
    assert tight._observe.loads == [("a", 1), ("b", 1), ("a", 1)]

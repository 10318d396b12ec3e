"""Admission is fair and never overfills; buckets always hold their rows."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from workers.scheduler import Flow, Scheduler, buckets_for

JOBS = st.lists(st.tuples(st.integers(1, 40), st.sampled_from([1, 1, 1, 10])), min_size=1, max_size=8)
ANN, BOB, EVE = (Flow(name) for name in ("ann", "bob", "eve"))


def started(scheduler, ticks, retiring=1):
    """The jobs whose chains start, tick by tick, where as many chains leave as each tick has room for."""
    return [admitted.job_id for _ in range(ticks) for admitted in scheduler.admit(scheduler.capacity - retiring, {"ann", "bob", "eve"})]


def test_a_small_job_starts_beside_a_large_one():
    scheduler = Scheduler(capacity=8)
    scheduler.add("large", 1000)
    scheduler.add("small", 1)
    assert {(admitted.job_id, admitted.count) for admitted in scheduler.admit(0)} == {("large", 7), ("small", 1)}


def test_chains_are_admitted_one_a_job_in_turn():
    scheduler = Scheduler(capacity=9)
    for job_id in ("a", "b", "c"):
        scheduler.add(job_id, 10)
    assert [admitted.count for admitted in scheduler.admit(0)] == [3, 3, 3]


def test_a_job_that_left_admits_nothing():
    scheduler = Scheduler(capacity=4)
    scheduler.add("a", 10)
    scheduler.add("b", 1)
    scheduler.remove("a")
    assert [admitted.job_id for admitted in scheduler.admit(0)] == ["b"]
    assert scheduler.waiting == 0


def test_a_chain_larger_than_any_batch_runs_alone():
    scheduler = Scheduler(capacity=4)
    scheduler.add("wide", 1, points=10)
    assert scheduler.admit(running=1) == []
    assert [admitted.job_id for admitted in scheduler.admit(running=0)] == ["wide"]


def test_callers_take_turns_however_many_jobs_and_chains_each_has():
    scheduler = Scheduler(capacity=4)
    for number in range(100):
        scheduler.add(f"ann {number}", 256, flow=ANN)
    started(scheduler, 50)
    scheduler.add("bob", 3, flow=BOB)
    scheduler.add("eve", 1, flow=EVE)
    order = [job_id.split()[0] for job_id in started(scheduler, 8)]
    assert order == ["bob", "eve", "ann", "bob", "ann", "bob", "ann", "ann"]


def test_a_caller_who_asks_in_many_small_jobs_gets_no_more_than_one_who_asks_in_a_large_one():
    scheduler, ann = Scheduler(capacity=4), 0
    scheduler.add("ann", 1000, flow=ANN)
    for number in range(100):
        scheduler.add(f"bob {number}", 1, flow=BOB)  # one at a time: his line is empty in between
        ann += started(scheduler, 1).count("ann")
    assert 45 <= ann <= 55


def test_wide_chains_pay_for_their_width():
    scheduler = Scheduler(capacity=10)
    scheduler.add("wide", 1000, points=10, flow=ANN)
    scheduler.add("narrow", 1000, points=1, flow=BOB)
    ticks = [scheduler.admit(0, {"ann", "bob"}) for _ in range(100)]
    chains = Counter({name: sum(a.count for tick in ticks for a in tick if a.job_id == name) for name in ("wide", "narrow")})
    assert 45 <= chains["wide"] <= 55
    assert chains["wide"] * 10 + chains["narrow"] == 1000


def test_priorities_share_four_to_two_to_one_and_nobody_starves():
    scheduler = Scheduler(capacity=4)
    for priority in ("low", "normal", "high"):
        scheduler.add(priority, 1000, flow=Flow("ann", priority))
    assert Counter(started(scheduler, 700)) == Counter(high=400, normal=200, low=100)


def test_a_full_batch_of_long_chains_has_room_for_one_chain_of_a_newcomer():
    scheduler = Scheduler(capacity=16)
    scheduler.add("ann", 300, flow=ANN)
    assert [admitted.count for admitted in scheduler.admit(0)] == [16]
    scheduler.add("ann again", 1, flow=Flow("ann", "high"))
    scheduler.add("bob", 5, flow=BOB)
    assert [(admitted.job_id, admitted.count) for admitted in scheduler.admit(16, {"ann"})] == [("bob", 1)]
    assert scheduler.admit(17, {"ann", "bob"}) == []


def test_those_beside_a_full_batch_are_bounded():
    scheduler = Scheduler(capacity=16)
    for number in range(10):
        scheduler.add(str(number), 1, flow=Flow(f"caller {number}"))
    assert len(scheduler.admit(16, {"ann"})) == 4
    assert scheduler.admit(20, {"ann"}) == []
    assert len(scheduler.flows) == 6


@given(jobs=JOBS, capacity=st.integers(10, 64))
def test_every_chain_starts_once_and_the_batch_is_never_overfull(jobs, capacity):
    scheduler = Scheduler(capacity)
    for number, (chains, points) in enumerate(jobs):
        scheduler.add(str(number), chains, points)
    started: Counter[str] = Counter()
    while scheduler.waiting:
        admitted = scheduler.admit(0)
        assert 0 < sum(a.count * jobs[int(a.job_id)][1] for a in admitted) <= capacity
        for admission in admitted:
            assert admission.first == started[admission.job_id]
            started[admission.job_id] += admission.count
    assert [started[str(number)] for number in range(len(jobs))] == [chains for chains, _ in jobs]


@given(rows=st.integers(1, 500), sizes=st.sets(st.integers(1, 128), min_size=1))
def test_buckets_hold_all_rows(rows, sizes):
    cuts = buckets_for(rows, tuple(sizes))
    assert sum(held for held, _ in cuts) == rows
    assert all(held <= bucket and bucket in sizes for held, bucket in cuts)

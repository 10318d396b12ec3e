"""Admission is fair and never overfills, long chains give way to quick ones and come back in time; buckets always hold their rows."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.capacity import Flow, buckets_for
from workers.engine.scheduler import QUICK, ChainName, Moves, Running, Scheduler

JOBS = st.lists(st.tuples(st.integers(1, 40), st.sampled_from([1, 1, 1, 10])), min_size=1, max_size=8)
ANN, BOB, EVE = (Flow(name) for name in ("ann", "bob", "eve"))


def running(count, flow=ANN, *, left=1000, points=1, job="running"):
    """Chains of one job that run."""
    return [Running(ChainName(job, number), flow, points, left, left) for number in range(count)]


def admitted(scheduler, batch=(), now=0):
    """Jobs and the number of their chains that start."""
    return [(admission.job_id, admission.count) for admission in scheduler.move(batch, now).admitted]


def started(scheduler, ticks, retiring=1):
    """The jobs whose chains start, tick by tick, where as many chains leave as each tick has room for."""
    batch = [Running(ChainName(f"running {n}", 0), flow, 1, 1, 1) for n, flow in enumerate([ANN, BOB, EVE, ANN][: 4 - retiring])]
    return [job_id for _ in range(ticks) for job_id, _ in admitted(scheduler, batch)]


def test_a_small_job_starts_beside_a_large_one():
    scheduler = Scheduler(capacity=8)
    scheduler.add("large", 1000)
    scheduler.add("small", 1)
    assert set(admitted(scheduler)) == {("large", 7), ("small", 1)}


def test_chains_are_admitted_one_a_job_in_turn():
    scheduler = Scheduler(capacity=9)
    for job_id in ("a", "b", "c"):
        scheduler.add(job_id, 10)
    assert admitted(scheduler) == [("a", 3), ("b", 3), ("c", 3)]


def test_a_job_that_left_admits_nothing():
    scheduler = Scheduler(capacity=4)
    scheduler.add("a", 10)
    scheduler.add("b", 1)
    scheduler.remove("a")
    assert admitted(scheduler) == [("b", 1)]
    assert scheduler.waiting == 0


def test_a_chain_larger_than_any_batch_runs_alone():
    scheduler = Scheduler(capacity=4)
    scheduler.add("wide", 1, points=10)
    assert admitted(scheduler, running(1)) == []
    assert admitted(scheduler) == [("wide", 1)]


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
    chains: Counter[str] = Counter()
    for _ in range(100):
        chains.update(dict(admitted(scheduler)))
    assert 45 <= chains["wide"] <= 55
    assert chains["wide"] * 10 + chains["narrow"] == 1000


def test_priorities_share_four_to_two_to_one_and_nobody_starves():
    scheduler = Scheduler(capacity=4)
    for priority in ("low", "normal", "high"):
        scheduler.add(priority, 1000, flow=Flow("ann", priority))
    assert Counter(started(scheduler, 700)) == Counter(high=400, normal=200, low=100)


def test_a_caller_of_several_chains_gives_way_to_one_chain_of_a_newcomer():
    scheduler = Scheduler(capacity=16)
    scheduler.add("ann again", 1, ticks=1000, flow=Flow("ann", "high"))
    scheduler.add("bob", 5, ticks=1000, flow=BOB)
    moves = scheduler.move(running(16), 0)
    assert [(one.job_id, one.count) for one in moves.admitted] == [("bob", 1)]
    assert len(moves.parked) == 1
    assert admitted(scheduler, [*running(15), *running(1, BOB, job="bob")]) == []


def test_nobody_gives_up_an_only_chain_to_a_newcomer_nor_anything_to_a_lower_priority():
    scheduler = Scheduler(capacity=4)
    scheduler.add("one more", 1, ticks=1000, flow=Flow("caller 4"))
    assert admitted(scheduler, [chain for n in range(4) for chain in running(1, Flow(f"caller {n}"), job=str(n))]) == []
    scheduler.add("low", 1, ticks=1, flow=Flow("eve", "low"))
    assert admitted(scheduler, running(4)) == [("one more", 1)]


def test_quick_chains_take_the_places_of_those_that_need_longest_and_are_given_back():
    scheduler = Scheduler(capacity=4)
    scheduler.add("quick", 2, ticks=10, flow=ANN)
    batch = [*running(2, left=QUICK * 10 - 1, job="short"), *running(1, left=50, job="long"), *running(1, left=60, job="longest")]
    moves = scheduler.move(batch, 0)
    assert {name.job_id for name in moves.parked} == {"long", "longest"}
    assert [(one.job_id, one.count) for one in moves.admitted] == [("quick", 2)]
    assert scheduler.waiting == 2
    assert scheduler.move([*batch[:2], *running(2, left=10, job="quick")], 1) == Moves()
    assert {name.job_id for name in scheduler.move(batch[:2], 11).resumed} == {"long", "longest"}
    assert scheduler.waiting == 0


@pytest.mark.parametrize(("left", "longest"), [(1000, 250), (500, 176), (100, 79), (20, 35), (2, 11), (1, 7)])
def test_a_long_chain_gives_way_until_its_end_and_to_ever_shorter_ones(left, longest):
    batch = [one._replace(length=1000) for one in running(4, left=left)]
    for ticks, starts in ((longest, [("quick", 1)]), (longest + 1, [])):
        scheduler = Scheduler(capacity=4)
        scheduler.add("quick", 1, ticks=ticks, flow=ANN)
        assert admitted(scheduler, batch) == starts


def test_a_chain_gives_way_for_no_longer_than_it_is_itself():
    scheduler, now, waited, left = Scheduler(capacity=1), 0, 0, 100
    batch, mine = [Running(ChainName("long", 0), ANN, 1, left, 100)], True
    while left:
        if not scheduler.flows:
            scheduler.add(f"quick {now}", 1, ticks=1, flow=ANN)
        moves = scheduler.move(batch, now)
        mine = (mine and not moves.parked) or bool(moves.resumed)
        left, waited, now = left - mine, waited + (not mine), now + 1
        batch = [Running(ChainName("long", 0), ANN, 1, left, 100)] if mine else []  # a quick one is done in a tick
    assert 50 <= waited <= 101


@pytest.mark.parametrize("gone", ["long", "other"])
def test_a_parked_chain_whose_job_left_does_not_come_back(gone):
    scheduler = Scheduler(capacity=2)
    scheduler.add("quick", 2, ticks=1)
    scheduler.move([*running(1, job="long"), *running(1, job="other")], 0)
    scheduler.remove(gone)
    assert {name.job_id for name in scheduler.move([], 1).resumed} == {"long", "other"} - {gone}


@given(jobs=JOBS, capacity=st.integers(10, 64))
def test_every_chain_starts_once_and_the_batch_is_never_overfull(jobs, capacity):
    scheduler = Scheduler(capacity)
    for number, (chains, points) in enumerate(jobs):
        scheduler.add(str(number), chains, points)
    started: Counter[str] = Counter()
    while scheduler.waiting:
        admissions = scheduler.move([], 0).admitted
        assert 0 < sum(a.count * jobs[int(a.job_id)][1] for a in admissions) <= capacity
        for admission in admissions:
            assert admission.first == started[admission.job_id]
            started[admission.job_id] += admission.count
    assert [started[str(number)] for number in range(len(jobs))] == [chains for chains, _ in jobs]


ARRIVAL = (
    st.integers(0, 30),
    st.integers(1, 9),
    st.sampled_from([1, 1, 10]),
    st.integers(1, 40),
    st.sampled_from("abc"),
    st.sampled_from(["high", "low"]),
)
ARRIVALS = st.lists(st.tuples(*ARRIVAL), max_size=12)


@given(arrivals=ARRIVALS, capacity=st.integers(10, 16))
def test_a_batch_under_way_is_never_overfull_and_every_chain_makes_its_ticks(arrivals, capacity):
    scheduler, batch, parked, made, now = Scheduler(capacity), {}, {}, Counter(), 0
    while now <= 30 or batch or scheduler.waiting:
        for number, (at, chains, points, ticks, caller, priority) in enumerate(arrivals):
            if at == now:
                scheduler.add(str(number), chains, points, ticks, Flow(caller, priority))
        moves = scheduler.move(list(batch.values()), now)
        parked |= {name: batch.pop(name) for name in moves.parked}
        batch |= {name: parked.pop(name) for name in moves.resumed}
        for admission in moves.admitted:
            _, _, points, ticks, caller, priority = arrivals[int(admission.job_id)]
            for chain in range(admission.first, admission.first + admission.count):
                name = ChainName(admission.job_id, chain)
                batch[name] = Running(name, Flow(caller, priority), points, ticks, ticks)
        assert sum(one.points for one in batch.values()) <= capacity
        assert sum(one.points for one in parked.values()) <= scheduler.waiting
        made.update(list(batch))
        batch = {name: one._replace(left=one.left - 1) for name, one in batch.items() if one.left > 1}
        now += 1
        assert now < 10_000
    assert not parked
    assert made == Counter(
        {ChainName(str(n), chain): ticks for n, (_, chains, _, ticks, _, _) in enumerate(arrivals) for chain in range(chains)}
    )


@given(rows=st.integers(1, 500), sizes=st.sets(st.integers(1, 128), min_size=1))
def test_buckets_hold_all_rows(rows, sizes):
    cuts = buckets_for(rows, tuple(sizes))
    assert sum(held for held, _ in cuts) == rows
    assert all(held <= bucket and bucket in sizes for held, bucket in cuts)

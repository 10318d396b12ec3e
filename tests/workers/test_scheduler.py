"""Admission is fair and never overfills; buckets always hold their rows."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from workers.scheduler import Scheduler, buckets_for

JOBS = st.lists(st.tuples(st.integers(1, 40), st.sampled_from([1, 1, 1, 10])), min_size=1, max_size=8)


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

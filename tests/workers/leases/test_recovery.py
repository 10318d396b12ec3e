"""Jobs of dead workers are requeued or failed in one step, and jobs that never reached their worker are requeued without using a retry."""

import time

import pytest
from redis.exceptions import TimeoutError as RedisTimeoutError
from rq import Queue
from rq.job import Job
from rq.registry import StartedJobRegistry

from tests.workers.generation.fake_engine import FakeEngine
from workers.capacity import Room
from workers.jobs import Problem, Status
from workers.leases.leases import Ended, Leases
from workers.leases.recovery import reclaim


@pytest.fixture
def queue(redis):
    return Queue("generate", connection=redis, serializer="json")


@pytest.fixture
def alone(redis):
    return Queue("generate-alone", connection=redis, serializer="json")


def taken(broker, queue, generate_job, name, lease_s=5):
    """A job that a worker of that name has started, and that worker's leases."""
    leases = Leases(broker, name, f"rq:worker:{name}", lease_s)
    broker.submit(generate_job())
    (job,) = take(leases, queue)
    return job, leases


def take(leases, queue):
    return leases.take([queue], Room(64, frozenset()))


def outdated(redis, *jobs):
    for job in jobs:
        redis.zadd(f"rq:wip:{job.queue}", {f"{job.id}:{job.execution_id}": 1})


def test_a_lost_job_goes_back_once_and_then_ends_with_the_reason(redis, broker, queue, generate_job):
    first, leases = taken(broker, queue, generate_job, "one")
    assert reclaim(redis, [queue]).requeued == []  # its lease runs
    outdated(redis, first)
    found = reclaim(redis, [queue])
    assert (found.requeued, found.failed) == ([first.id], [])
    assert redis.lrange("rq:queue:generate", 0, -1) == [first.id.encode()]
    assert leases.beat([first], {}) == [0]
    (again,) = take(leases, queue)
    outdated(redis, again)
    found = reclaim(redis, [queue])
    assert (found.requeued, found.failed) == ([], [first.id])
    view = broker.view(first.id)
    assert (view.status, view.problem.reason) == (Status.FAILED, "abandoned")
    assert [event.name for event in broker.events(first.id)] == ["queued", "started", "queued", "started", "end"]
    assert all(redis.ttl(key) > 0 for key in redis.scan_iter(f"*{first.id}*"))
    assert reclaim(redis, [queue]).failed == []


def lost_twice(redis, broker, queue, generate_job, jobs):
    """That many jobs whose worker died twice while it ran them."""
    leases = Leases(broker, "doomed", "rq:worker:doomed", 5)
    ids = broker.submit_many([generate_job() for _ in range(jobs)])
    for _ in range(2):
        outdated(redis, *take(leases, queue))
        found = reclaim(redis, [queue])
    return ids, found


def test_jobs_lost_twice_together_go_on_each_alone_and_end_only_when_lost_alone(redis, broker, queue, alone, generate_job):
    ids, found = lost_twice(redis, broker, queue, generate_job, jobs=3)
    assert (sorted(found.requeued), found.failed) == (sorted(ids), [])
    assert set(Queue.all(redis, serializer="json")) == {queue, alone}
    assert (queue.count, sorted(alone.job_ids)) == (0, sorted(ids))
    assert sorted(broker.view(job_id).queue_position for job_id in ids) == [0, 1, 2]
    leases = Leases(broker, "heir", "rq:worker:heir", 5)
    (poison,) = leases.take_one(alone)
    outdated(redis, poison)
    found = reclaim(redis, [queue, alone])
    assert (found.requeued, found.failed) == ([], [poison.id])
    assert (
        broker.view(poison.id).problem.detail == "its worker died three times while running it, the last time with no other job beside it"
    )
    job = Job.fetch(poison.id, connection=redis, serializer="json")
    assert (job.origin, job.retries_left, job.get_status()) == ("generate-alone", 0, "failed")
    assert redis.zrange("rq:failed:generate-alone", 0, -1) == [poison.id.encode()]
    (innocent,) = leases.take_one(alone)
    assert len(leases.end([Ended(innocent, Problem(reason="diverged", detail="so"))])) == 1
    assert broker.view(innocent.id).problem.reason == "diverged"
    assert all(redis.ttl(key) > 0 for key in redis.scan_iter(f"*{innocent.id}*"))


def test_what_a_dead_worker_took_last_is_lost_with_the_rest(redis, broker, queue, generate_job):
    first, leases = taken(broker, queue, generate_job, "one")
    broker.submit(generate_job())
    (last,) = take(leases, queue)
    other, _ = taken(broker, queue, generate_job, "two")
    for job in (first, last, other):
        redis.hset(Job.key_for(job.id), "retries_left", 0)
    outdated(redis, first)  # the lease of the last one runs, and it was there all the same
    assert sorted(reclaim(redis, [queue]).requeued) == sorted([first.id, last.id])
    assert sorted(redis.lrange("rq:queue:generate-alone", 0, -1)) == sorted([first.id.encode(), last.id.encode()])
    assert redis.zrange("rq:wip:generate", 0, -1) == [f"{other.id}:{other.execution_id}".encode()]


@pytest.mark.parametrize("off_s", [-3600, 3600])
def test_leases_run_by_the_clock_of_redis(off_s, redis, broker, queue, generate_job, eventually, monkeypatch):
    honest = time.time

    def wrong_clock(is_wrong):
        monkeypatch.setattr(time, "time", lambda: honest() + off_s * is_wrong)

    wrong_clock(True)
    job, leases = taken(broker, queue, generate_job, "one", lease_s=2)
    for looks_wrong in (False, True):
        wrong_clock(looks_wrong)
        assert reclaim(redis, [queue]).requeued == []
        wrong_clock(True)
        assert leases.beat([job], {}) == [1]
    wrong_clock(False)
    assert reclaim(redis, [queue]).requeued == []
    assert eventually(lambda: reclaim(redis, [queue]).requeued, limit_s=5) == [job.id]
    wrong_clock(True)
    assert leases.beat([job], {}) == [0]


def test_it_ends_as_rq_ends_a_job_without_a_worker(redis, broker, queue, generate_job):
    ours, _ = taken(broker, queue, generate_job, "one")
    theirs, _ = taken(broker, queue, generate_job, "two")
    for job in (ours, theirs):
        redis.hset(Job.key_for(job.id), "retries_left", 0)
    outdated(redis, ours)
    reclaim(redis, [queue])
    outdated(redis, theirs)
    StartedJobRegistry(queue=queue).cleanup()
    found, expected = (Job.fetch(job.id, connection=redis, serializer="json") for job in (ours, theirs))
    assert found.get_status() == expected.get_status() == "failed"
    assert (redis.ttl(found.key), redis.zcard("rq:failed:generate"), redis.zcard("rq:wip:generate")) == (redis.ttl(expected.key), 2, 0)
    fields, others = (set(dict(redis.xrange(f"rq:results:{job.id}")[0][1])) for job in (found, expected))
    assert fields == others


def test_a_job_that_another_worker_runs_by_now_is_left_to_it(redis, broker, queue, generate_job):
    first, _ = taken(broker, queue, generate_job, "one")
    outdated(redis, first)
    reclaim(redis, [queue])
    other = Leases(broker, "two", "rq:worker:two", 5)
    (second,) = take(other, queue)
    outdated(redis, first)  # as RQ's own cleanup may leave it behind
    assert reclaim(redis, [queue]).requeued == []
    assert other.beat([second], {}) == [1]


def test_a_job_that_never_reached_its_worker_is_requeued_and_keeps_its_retries(redis, broker, queue, generate_job):
    known, leases = taken(broker, queue, generate_job, "one")
    undelivered = broker.submit(generate_job())
    take(leases, queue)
    assert leases.return_undelivered([known], on_its_way_s=4) == (0, 1)  # it may yet come
    assert broker.view(undelivered).status is Status.RUNNING
    assert leases.return_undelivered([known], on_its_way_s=0) == (1, 0)
    assert broker.view(undelivered).status is Status.QUEUED
    assert redis.hget(Job.key_for(undelivered), "retries_left") == b"1"
    assert redis.zrange("rq:wip:generate", 0, -1) == [f"{known.id}:{known.execution_id}".encode()]
    assert leases.return_undelivered([known], on_its_way_s=0) == (0, 0)


def test_a_worker_whose_call_was_answered_into_the_void_has_its_jobs_soon(broker, start_worker, eventually, generate_job, monkeypatch):
    honest, lost = Leases.take, []

    def answered_into_the_void(self, queues, room, **given):
        found = honest(self, queues, room, **given)
        if found and not lost:
            lost.extend(found)
            raise RedisTimeoutError("the answer was lost")
        return found

    monkeypatch.setattr(Leases, "take", answered_into_the_void)
    ids = broker.submit_many([generate_job() for _ in range(5)])
    start_worker(FakeEngine(), lease_s=60)
    eventually(lambda: all(broker.view(job_id).status is Status.FINISHED for job_id in ids))
    assert len(lost) == 5

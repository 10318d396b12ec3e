"""Jobs without a worker get their next chance or their end in one step, and what was taken unheard goes back without losing a try."""

import pytest
from redis.exceptions import TimeoutError as RedisTimeoutError
from rq import Queue
from rq.job import Job
from rq.registry import StartedJobRegistry

from tests.workers.fake_engine import FakeEngine
from workers.jobs import Status
from workers.rq_bulk import Bulk
from workers.rq_recovery import reclaim, return_unheard
from workers.stepping import Room


@pytest.fixture
def queue(redis):
    return Queue("generate", connection=redis, serializer="json")


def taken(broker, queue, generate_job, name, lease_s=5):
    """A job that a worker of that name has started, and the worker's hands."""
    bulk = Bulk(broker, name, f"rq:worker:{name}", lease_s)
    broker.submit(generate_job())
    (job,) = take(bulk, queue)
    return job, bulk


def take(bulk, queue):
    return bulk.take([queue], Room(64, frozenset()))


def outdated(redis, *jobs):
    for job in jobs:
        redis.zadd("rq:wip:generate", {f"{job.id}:{job.execution_id}": 1})


def test_a_lost_job_goes_back_once_and_then_ends_with_the_reason(redis, broker, queue, generate_job):
    first, bulk = taken(broker, queue, generate_job, "one")
    assert reclaim(redis, [queue]).requeued == []  # its lease runs
    outdated(redis, first)
    found = reclaim(redis, [queue])
    assert (found.requeued, found.failed) == ([first.id], [])
    assert redis.lrange("rq:queue:generate", 0, -1) == [first.id.encode()]
    assert bulk.beat([first], {}) == [0]
    (again,) = take(bulk, queue)
    outdated(redis, again)
    found = reclaim(redis, [queue])
    assert (found.requeued, found.failed) == ([], [first.id])
    view = broker.view(first.id)
    assert (view.status, view.problem.reason) == (Status.FAILED, "abandoned")
    assert [event.name for event in broker.events(first.id)] == ["queued", "started", "queued", "started", "end"]
    assert all(redis.ttl(key) > 0 for key in redis.scan_iter(f"*{first.id}*"))
    assert reclaim(redis, [queue]).failed == []


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
    other = Bulk(broker, "two", "rq:worker:two", 5)
    (second,) = take(other, queue)
    outdated(redis, first)  # as RQ's own cleanup may leave it behind
    assert reclaim(redis, [queue]).requeued == []
    assert other.beat([second], {}) == [1]


def test_what_was_taken_unheard_goes_back_and_keeps_its_tries(redis, broker, queue, generate_job):
    known, bulk = taken(broker, queue, generate_job, "one")
    unheard = broker.submit(generate_job())
    take(bulk, queue)
    assert return_unheard(redis, "one", [f"{known.id}:{known.execution_id}"]) == 1
    assert broker.view(unheard).status is Status.QUEUED
    assert redis.hget(Job.key_for(unheard), "retries_left") == b"1"
    assert redis.zrange("rq:wip:generate", 0, -1) == [f"{known.id}:{known.execution_id}".encode()]
    assert return_unheard(redis, "one", [f"{known.id}:{known.execution_id}"]) == 0


def test_a_worker_whose_call_was_answered_into_the_void_has_its_jobs_soon(broker, start_worker, eventually, generate_job, monkeypatch):
    honest, lost = Bulk.take, []

    def answered_into_the_void(self, queues, room):
        found = honest(self, queues, room)
        if found and not lost:
            lost.extend(found)
            raise RedisTimeoutError("nobody heard the answer")
        return found

    monkeypatch.setattr(Bulk, "take", answered_into_the_void)
    ids = broker.submit_many([generate_job() for _ in range(5)])
    start_worker(FakeEngine(), lease_s=60)
    eventually(lambda: all(broker.view(job_id).status is Status.FINISHED for job_id in ids))
    assert len(lost) == 5

"""The broker against a real Valkey: what is submitted is found again, in its place, until it is over."""

import json
import time

import pytest
from redis import Redis
from rq import Queue
from rq.job import Job

from workers.jobs import Status
from workers.jobs.generate import GENERATE_QUEUES
from workers.queue import keys, routing
from workers.queue.broker import Broker, BrokerError, BrokerLimits, BrokerUnavailable, UnknownJob
from workers.queue.connection import connect


def test_a_submitted_job_is_found_as_it_was_sent(broker, generate_job):
    sent = generate_job(seed=12, num_images=3)
    view = broker.view(broker.submit(sent))
    assert view.job == sent
    assert view.status is Status.QUEUED
    assert abs(view.created_at - time.time()) < 5
    assert (view.queue_position, view.started_at, view.result, view.problem) == (0, None, None, None)


def test_a_training_job_has_its_own_queue(broker, train_job):
    view = broker.view(broker.submit(train_job))
    assert view.job == train_job
    assert {queue.name: queue.depth for queue in broker.queues()} == {
        "generate-high": 0,
        "generate": 0,
        "generate-low": 0,
        "generate-alone": 0,
        "train": 1,
        "calibrate": 0,
    }


def test_the_position_counts_the_queues_that_are_served_first(broker, generate_job):
    normal = broker.submit_many([generate_job() for _ in range(3)])
    low = broker.submit(generate_job(priority="low"))
    broker.submit(generate_job(priority="high"))
    assert [broker.view(job_id).queue_position for job_id in normal] == [1, 2, 3]
    assert broker.view(low).queue_position == 4


def test_everything_rq_could_default_is_set(broker, redis, generate_job, train_job):
    job = Job.fetch(broker.submit(generate_job()), connection=redis, serializer="json")
    assert (job.result_ttl, job.failure_ttl, job.timeout, job.ttl) == (60, 120, 60, None)
    assert (job.retries_left, job.enqueue_at_front_on_retry) == (1, True)
    assert Job.fetch(broker.submit(train_job), connection=redis, serializer="json").timeout == -1
    assert json.loads(job.data)[0] == "workers.jobs.run"  # JSON: nothing to unpickle


def test_the_backlog_follows_what_waits(broker, generate_job):
    def waiting() -> dict[str, int]:
        return {queue.name: queue.backlog_chain_steps for queue in broker.queues() if queue.backlog_chain_steps}

    first = broker.submit(generate_job(num_images=10, mcmc={"kernel": "mala", "steps": 50}))
    broker.submit(generate_job(num_images=3, sampler="prior", mcmc=None, priority="high"))
    assert waiting() == {"generate-high": 3, "generate": 500}
    broker.submit(generate_job(num_images=1, mcmc={"kernel": "langevin", "steps": 7}))
    broker.cancel(first)
    assert waiting() == {"generate-high": 3, "generate": 7}


def test_the_age_of_a_queue_is_that_of_its_head(broker, generate_job):
    broker.submit(generate_job())
    (age,) = [queue.oldest_age_s for queue in broker.queues() if queue.name == "generate"]
    assert 0 <= age < 5


def test_a_queued_job_is_canceled_at_once_and_leaves_nothing_for_ever(broker, redis, generate_job):
    job_id, neighbour = broker.submit_many([generate_job(), generate_job()])
    view = broker.cancel(job_id)
    assert view.status is Status.CANCELED
    assert view.problem is not None
    assert view.problem.reason == "canceled"
    assert view.ended_at is not None
    assert broker.view(neighbour).queue_position == 0
    assert [event.name for event in broker.events(job_id)] == ["queued", "end"]
    assert all(redis.ttl(key) > 0 for key in redis.scan_iter(f"*{job_id}*"))
    assert broker.cancel(job_id) == view


def test_canceling_a_running_job_marks_it_for_whoever_runs_it(broker, redis, generate_job):
    job_id = broker.submit(generate_job())
    redis.lpop("rq:queue:generate")
    redis.hset(Job.key_for(job_id), mapping={"status": "started", "worker_name": "w"})
    with redis.pubsub() as pubsub:
        pubsub.subscribe("rq:pubsub:w")
        pubsub.get_message(timeout=1)
        assert broker.cancel(job_id).status is Status.RUNNING
        command = pubsub.get_message(timeout=1)
    assert json.loads(command["data"]) == {"command": "stop-job", "job_id": job_id}
    assert redis.hget(Job.key_for(job_id), keys.CANCEL_REQUESTED) == b"1"


def test_a_job_past_its_deadline_has_expired_even_if_no_worker_lives(broker, redis, generate_job, eventually):
    job_id = broker.submit(generate_job(deadline_s=0.05))
    view = eventually(lambda: (seen := broker.view(job_id)).status is Status.EXPIRED and seen)
    assert view.problem.reason == "expired"
    assert redis.ttl(Job.key_for(job_id)) > 0


def test_the_same_id_is_enqueued_once(broker, redis, generate_job):
    assert [broker.submit(generate_job(seed=seed), job_id="mine") for seed in (1, 2)] == ["mine", "mine"]
    assert broker.view("mine").job.seed == 1
    assert redis.llen("rq:queue:generate") == 1


def test_recent_jobs_come_newest_first_and_only_so_many(broker, redis, generate_job, monkeypatch):
    monkeypatch.setattr("workers.queue.submissions.RECENT_KEPT", 3)
    ids = [broker.submit(generate_job()) for _ in range(5)]
    assert [view.id for view in broker.recent()] == ids[:1:-1]
    assert [view.id for view in broker.recent(1)] == ids[-1:]
    redis.delete(Job.key_for(ids[-1]))
    assert [view.id for view in broker.recent()] == ids[3:1:-1]


def test_events_resume_after_the_last_one_seen(broker, generate_job):
    job_id = broker.submit(generate_job())
    broker.publish(job_id, "progress", {"done": 3, "total": 20, "unit": "chain-steps"})
    queued, progress = broker.events(job_id)
    assert (queued.name, progress.name, progress.data["done"]) == ("queued", "progress", 3)
    assert broker.events(job_id, after=queued.id) == [progress]
    assert broker.events(job_id, after=progress.id) == []
    end = broker.events(broker.cancel(job_id).id, after=progress.id)
    assert [(event.name, event.data["status"]) for event in end] == [("end", "canceled")]
    assert broker.events(job_id, after=end[0].id) == []
    for strange in ("x", "9" * 20):
        with pytest.raises(BrokerError, match=f"no event has the id '{strange}'"):
            broker.events(job_id, after=strange)


def test_an_unknown_job_says_so(broker):
    for ask in (broker.view, broker.cancel, broker.events):
        with pytest.raises(UnknownJob, match="'nobody'"):
            ask("nobody")


def test_a_job_of_another_release_does_not_hide_the_others(broker, redis, generate_job):
    strange, ours = broker.submit_many([generate_job(), generate_job()])
    data = Queue("generate", connection=redis, serializer="json").create_job("x", kwargs={"job": {"kind": "sculpture"}}).data
    redis.hset(Job.key_for(strange), "data", data)
    assert [view.id for view in broker.recent()] == [ours]
    with pytest.raises(UnknownJob):
        broker.view(strange)


def test_a_lost_redis_says_so_in_every_method(generate_job):
    with connect("redis://127.0.0.1:1/0") as nowhere:
        broker = Broker(nowhere, BrokerLimits())
        calls = [broker.ping, broker.recent, broker.workers, broker.queues, lambda: broker.submit(generate_job())]
        calls += [lambda: broker.view("a"), lambda: broker.cancel("a"), lambda: broker.events("a"), lambda: broker.publish("a", "end", {})]
        for call in calls:
            with pytest.raises(BrokerUnavailable):
                call()


def test_a_lonely_submission_wakes_the_workers(broker, redis: Redis, generate_job):
    with redis.pubsub() as pubsub:
        pubsub.subscribe(keys.SUBMITTED)
        pubsub.get_message(timeout=1)
        broker.submit_many([generate_job(), generate_job()])
        assert pubsub.get_message(timeout=1) is not None
        assert pubsub.get_message(timeout=0.05) is None  # the second found company


def test_every_job_waits_in_a_queue_of_its_kind(generate_job, train_job):
    assert [generate_job(priority=priority).queue for priority in ("high", "normal", "low")] == list(GENERATE_QUEUES)
    assert train_job.queue in routing.FORKED_QUEUES
    assert not set(GENERATE_QUEUES) & set(routing.FORKED_QUEUES)


def test_a_redis_without_room_is_one_that_is_away(broker, redis, generate_job):
    job_id = broker.submit(generate_job())
    redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(BrokerUnavailable, match="has no room"):
            broker.submit(generate_job())
        assert broker.view(job_id).status is Status.QUEUED
    finally:
        redis.config_set("maxmemory", 0)

"""The batch worker on a real Valkey: many jobs in one batch, each with its own fate, and RQ's records true throughout."""

import subprocess
import sys
import time

import pytest
from rq import Queue, Worker
from rq.command import send_stop_execution_command, send_stop_job_command
from rq.job import Job
from rq.registry import FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry

from models.images import read_text
from tests.workers.generation.fake_engine import DIVERGES, FakeEngine, beside, worker_of
from workers.jobs import Status
from workers.leases.leases import Leases
from workers.leases.maintenance import maintain
from workers.queue import keys
from workers.queue.artifacts import Artifacts

LONG = {"kernel": "mala", "steps": 10_000}


def ended(broker, eventually, *job_ids, limit_s=15.0):
    """The views of jobs, once all of them are over."""

    def all_over():
        views = [broker.view(job_id) for job_id in job_ids]
        return all(view.status.over for view in views) and views

    return eventually(all_over, limit_s=limit_s)


def statuses(views):
    return [view.status.value for view in views]


def registries(redis):
    kinds = (StartedJobRegistry, FinishedJobRegistry, FailedJobRegistry)
    return [kind("generate", redis).get_job_count(cleanup=False) for kind in kinds]


def test_jobs_of_different_lengths_share_a_batch_and_end_each_in_its_time(broker, start_worker, eventually, generate_job):
    ids = broker.submit_many([generate_job(num_images=1, mcmc={"kernel": "mala", "steps": 3 * n + 1}) for n in range(12)])
    engine = FakeEngine(tick_s=0.002)
    start_worker(engine)
    views = ended(broker, eventually, *ids)
    assert statuses(views) == ["finished"] * 12
    assert engine.most_running == 12
    ends = [view.ended_at for view in views]
    assert ends[0] < ends[6] < ends[11]


def test_a_result_says_everything_and_its_images_carry_the_request(broker, redis, start_worker, eventually, generate_job):
    job = generate_job(num_images=3, seed=11)
    new = start_worker(FakeEngine())
    (view,) = ended(broker, eventually, broker.submit(job))
    assert (view.result.worker, view.result.device, view.worker) == (new.name, "cpu", new.name)
    assert view.result.artifacts == ("0.png", "1.png", "2.png", "grid.png")
    assert view.created_at <= view.started_at <= view.ended_at
    text = read_text(Artifacts.open("", redis).get(view.id, "2.png"))
    assert (text["seed"], text["image"]) == ("11", "2")
    assert [event.name for event in broker.events(view.id) if event.name != "progress"] == ["queued", "started", "end"]


def test_rq_finds_its_records_as_it_left_them(broker, redis, start_worker, eventually, generate_job):
    ids = broker.submit_many([generate_job() for _ in range(5)] + [generate_job(seed=DIVERGES)])
    new = start_worker(FakeEngine())
    ended(broker, eventually, *ids)
    assert registries(redis) == [0, 5, 1]
    job = Job.fetch(ids[0], connection=redis, serializer="json")
    assert job.is_finished
    assert job.return_value()["kind"] == "generate"
    assert job.worker_name == new.name
    assert Job.fetch(ids[-1], connection=redis, serializer="json").latest_result().exc_string == "diverged: chain 0 at step 1"
    (seen,) = Worker.all(redis, serializer="json")
    assert (seen.successful_job_count, seen.failed_job_count) == (5, 1)
    eventually(lambda: redis.hget(new.key, "state") == b"idle")


def test_a_busy_worker_shows_what_it_runs(broker, redis, start_worker, eventually, generate_job, valkey_url):
    broker.submit_many([generate_job(mcmc=LONG) for _ in range(3)])
    new = start_worker(FakeEngine(tick_s=0.01))
    eventually(lambda: registries(redis)[0] == 3)
    (seen,) = Worker.all(redis, serializer="json")
    assert seen.name == new.name
    assert len(seen.get_current_executions()) == 3
    eventually(lambda: [(w.kind, w.state, w.jobs, w.capacity, w.device) for w in broker.workers()] == [("generate", "busy", 3, 64, "cpu")])
    told = subprocess.run(
        [sys.executable, "-m", "rq.cli", "info", "--url", valkey_url, "--raw"], capture_output=True, text=True, timeout=30, check=True
    )
    assert "worker" in told.stdout
    assert "busy" in told.stdout
    for view in broker.recent():
        broker.cancel(view.id)


def test_every_key_of_a_job_that_is_over_will_vanish(broker, redis, start_worker, eventually, generate_job):
    ids = broker.submit_many([generate_job(), generate_job(seed=DIVERGES), generate_job(deadline_s=0.001)])
    start_worker(FakeEngine())
    assert statuses(ended(broker, eventually, *ids)) == ["finished", "failed", "expired"]
    for job_id in ids:
        of_job = list(redis.scan_iter(f"*{job_id}*"))
        assert len(of_job) >= 3
        assert [key for key in of_job if redis.ttl(key) <= 0] == []


def test_a_job_that_diverges_fails_alone_and_says_why(broker, start_worker, eventually, generate_job):
    ids = broker.submit_many([generate_job(), generate_job(seed=DIVERGES), generate_job()])
    start_worker(FakeEngine())
    views = ended(broker, eventually, *ids)
    assert statuses(views) == ["finished", "failed", "finished"]
    assert (views[1].problem.reason, views[1].problem.detail, views[1].result) == ("diverged", "chain 0 at step 1", None)


def test_a_request_that_cannot_be_read_fails_alone(broker, redis, start_worker, eventually, generate_job):
    queue = Queue("generate", connection=redis, serializer="json")
    strange = queue.enqueue("workers.generation.generate", kwargs={"job": {"kind": "sculpture"}}, failure_ttl=60)
    good = broker.submit(generate_job())
    start_worker(FakeEngine())
    (view,) = ended(broker, eventually, good)
    assert view.status is Status.FINISHED
    eventually(lambda: Job.fetch(strange.id, connection=redis, serializer="json").is_failed)
    assert "cannot be read" in Job.fetch(strange.id, connection=redis, serializer="json").latest_result().exc_string


def test_jobs_that_vanished_or_were_canceled_in_the_queue_are_passed_over(broker, redis, start_worker, eventually, generate_job):
    gone, canceled, good = broker.submit_many([generate_job(seed=seed) for seed in (1, 2, 3)])
    redis.delete(Job.key_for(gone))
    redis.hset(Job.key_for(canceled), "status", "canceled")
    engine = FakeEngine()
    start_worker(engine)
    ended(broker, eventually, good)
    assert [job.seed for job in engine.admitted] == [3]
    assert redis.llen("rq:queue:generate") == 0


@pytest.mark.parametrize("way", ["api", "stop-job", "stop-execution", "unheard"])
def test_canceling_a_running_job_ends_it_alone(way, broker, redis, start_worker, eventually, generate_job, monkeypatch):
    ids = broker.submit_many([generate_job(mcmc=LONG), generate_job(mcmc=LONG), generate_job(mcmc={"kernel": "mala", "steps": 200})])
    if way == "unheard":  # the command came while the worker was not listening: it finds the mark with its next heartbeat
        monkeypatch.setattr("workers.queue.broker.send_command", lambda *args, **kwargs: None)
    start_worker(FakeEngine(tick_s=0.005))
    eventually(lambda: registries(redis)[0] == 3)
    job = Job.fetch(ids[1], connection=redis, serializer="json")
    if way in ("api", "unheard"):
        assert broker.cancel(ids[1]).status in (Status.RUNNING, Status.CANCELED)
    elif way == "stop-job":
        send_stop_job_command(redis, ids[1], serializer="json")
    else:
        send_stop_execution_command(redis, ids[1], eventually(job.get_executions)[0].id)
    (view,) = ended(broker, eventually, ids[1])
    assert (view.status, view.problem.reason) == (Status.CANCELED, "canceled")
    assert statuses(ended(broker, eventually, ids[2])) == ["finished"]
    assert broker.view(ids[0]).status is Status.RUNNING
    assert statuses(ended(broker, eventually, broker.cancel(ids[0]).id)) == ["canceled"]


def test_a_stop_that_comes_before_the_worker_knows_its_job_is_obeyed(broker, redis, start_worker, eventually, generate_job, monkeypatch):
    honest = Leases.take

    def stopped_meanwhile(self, queues, room, **given):
        taken = honest(self, queues, room, **given)
        for job in taken:
            send_stop_job_command(redis, job.id, serializer="json")
        return taken

    monkeypatch.setattr(Leases, "take", stopped_meanwhile)
    start_worker(FakeEngine(tick_s=0.005))
    (view,) = ended(broker, eventually, broker.submit(generate_job(mcmc=LONG)))
    assert view.status is Status.CANCELED


def test_deadlines_hold_in_the_queue_and_while_running(broker, start_worker, eventually, generate_job):
    queued = broker.submit(generate_job(deadline_s=0.01))
    eventually(lambda: broker.view(queued).status is Status.EXPIRED)
    engine = FakeEngine(tick_s=0.005)
    start_worker(engine)
    running = broker.submit(generate_job(deadline_s=0.5, mcmc=LONG))
    late, cut = ended(broker, eventually, queued, running)
    assert statuses((late, cut)) == ["expired", "expired"]
    assert (late.problem.detail, cut.problem.detail) == ("the deadline passed before a worker was free", "the deadline passed while it ran")
    assert len(engine.admitted) == 1


def test_no_more_jobs_are_taken_than_there_is_room_for(broker, redis, start_worker, eventually, generate_job):
    ids = broker.submit_many([generate_job(num_images=4, mcmc={"kernel": "mala", "steps": 30}) for _ in range(9)])
    engine = FakeEngine(capacity=12, tick_s=0.002)
    start_worker(engine)
    eventually(lambda: registries(redis)[0] == 3)
    assert redis.llen("rq:queue:generate") >= 3
    assert statuses(ended(broker, eventually, *ids)) == ["finished"] * 9
    assert engine.most_running == 3


def test_priorities_are_served_in_order(broker, start_worker, eventually, generate_job):
    order = ["low", "normal", "high", "normal", "high", "low"]
    ids = broker.submit_many([generate_job(priority=priority, num_images=1) for priority in order])
    engine = FakeEngine(capacity=1)
    start_worker(engine)
    ended(broker, eventually, *ids)
    assert [job.priority for job in engine.admitted] == ["high", "high", "normal", "normal", "low", "low"]


def test_plain_decoding_never_waits_behind_long_chains(broker, redis, start_worker, eventually, generate_job):
    long = broker.submit_many([generate_job(num_images=8, mcmc=LONG) for _ in range(3)])
    start_worker(FakeEngine(capacity=8, tick_s=0.005))
    eventually(lambda: registries(redis)[0] == 1)
    (view,) = ended(broker, eventually, broker.submit(generate_job(sampler="prior", mcmc=None, num_images=2)))
    assert view.status is Status.FINISHED
    assert [broker.view(job_id).status.value for job_id in long] == ["running", "queued", "queued"]
    assert [broker.view(job_id).queue_position for job_id in long] == [None, 0, 1]
    for job_id in long:
        broker.cancel(job_id)


def test_progress_is_told_while_a_job_runs(broker, start_worker, eventually, generate_job):
    job_id = broker.submit(generate_job(mcmc=LONG))
    start_worker(FakeEngine(tick_s=0.002))
    progress = eventually(lambda: broker.view(job_id).progress)
    assert (progress.total, progress.unit) == (10_000, "chain-steps")
    assert eventually(lambda: broker.view(job_id).progress.done > progress.done)
    assert "progress" in [event.name for event in broker.events(job_id)]
    broker.cancel(job_id)


def test_the_backlog_is_empty_when_the_queue_is(broker, redis, start_worker, eventually, generate_job):
    ids = broker.submit_many([generate_job() for _ in range(4)])
    assert redis.hget(keys.BACKLOG, "generate") == b"80"
    start_worker(FakeEngine())
    ended(broker, eventually, *ids)
    eventually(lambda: redis.hget(keys.BACKLOG, "generate") in (None, b"0"))


def test_images_that_cannot_be_stored_fail_their_job_alone(broker, redis, start_worker, eventually, generate_job, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    bad = broker.submit(generate_job(), job_id="bad")
    (images / "bad").write_bytes(b"a file where the folder of the job should be")
    good = broker.submit(generate_job())
    start_worker(FakeEngine(), artifacts=str(images))
    views = ended(broker, eventually, bad, good)
    assert statuses(views) == ["failed", "finished"]
    assert views[0].problem.reason == "unavailable"
    assert "cannot store images" in views[0].problem.detail
    assert len(list((images / good).glob("*.png"))) == 5


def test_a_job_whose_lease_was_lost_runs_again_to_one_result(broker, redis, start_worker, eventually, generate_job):
    job_id = broker.submit(generate_job(mcmc={"kernel": "mala", "steps": 100}))
    engine = FakeEngine(tick_s=0.005)
    new = start_worker(engine)
    eventually(lambda: registries(redis)[0] == 1)
    (member,) = redis.zrange("rq:wip:generate", 0, -1)
    with redis.pipeline() as pipe:  # as if this worker had been away for longer than its lease, and another had noticed
        pipe.zrem("rq:wip:generate", member)
        pipe.hset(Job.key_for(job_id), "status", "queued")
        pipe.rpush("rq:queue:generate", job_id)
        pipe.execute()
    (view,) = ended(broker, eventually, job_id)
    assert view.status is Status.FINISHED
    assert len(engine.admitted) == 2
    assert registries(redis) == [0, 1, 0]
    assert redis.xlen(f"rq:results:{job_id}") == 1
    assert int(redis.hget(new.key, "successful_job_count")) == 1


def test_a_worker_leaves_when_told_and_says_goodbye(broker, redis, start_worker, eventually, generate_job):
    new = start_worker(FakeEngine())
    eventually(lambda: len(broker.workers()) == 1)
    new.stop()
    eventually(lambda: broker.workers() == [])
    job_id = broker.submit(generate_job())
    assert broker.view(job_id).status is Status.QUEUED


def test_a_suspended_worker_takes_nothing_until_it_may(broker, redis, start_worker, eventually, generate_job):
    from rq.suspension import resume, suspend

    suspend(redis)
    new = start_worker(FakeEngine())
    eventually(lambda: redis.hget(new.key, "state") == b"suspended")
    job_id = broker.submit(generate_job())
    assert broker.view(job_id).status is Status.QUEUED
    resume(redis)
    assert statuses(ended(broker, eventually, job_id)) == ["finished"]


def test_a_canceled_registry_is_emptied_in_time(broker, redis, settings, generate_job):
    job_id = broker.submit(generate_job())
    broker.cancel(job_id)
    assert redis.zscore("rq:canceled:generate", job_id) > time.time()
    redis.zadd("rq:canceled:generate", {job_id: 1})
    with beside(FakeEngine()) as engine:
        maintain(new := worker_of(engine, settings), new._watched)
    assert redis.zscore("rq:canceled:generate", job_id) is None
    new.connection.close()

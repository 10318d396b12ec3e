"""How a worker comes by its jobs, on a real Valkey: what is sent to it runs there or goes back, and is never lost on the way."""

import threading

import pytest
from rq import Queue, suspension
from rq.job import Job

from tests.workers.generation.fake_engine import FakeEngine, beside
from workers.generation.intake import Intake
from workers.jobs import GenerateResult, Status
from workers.leases.quarantine import Quarantine
from workers.queue import keys


def over(broker, *ids):
    return all(broker.view(job_id).status.over for job_id in ids)


def test_a_real_worker_runs_what_it_is_sent(redis, broker, start_worker, eventually, generate_job):
    new = start_worker(FakeEngine())
    for _ in range(20):
        eventually(lambda: redis.zcard(keys.OFFERS) == 1)
        job_id = broker.submit(generate_job())
        assert broker.view(job_id).status is not Status.QUEUED  # it was started as it was submitted
        eventually(lambda job_id=job_id: over(broker, job_id))
        view = broker.view(job_id)
        assert isinstance(view.result, GenerateResult)
        assert view.worker == new.name
        assert [event.name for event in broker.events(job_id) if event.name != "progress"] == ["queued", "started", "end"]
    assert redis.zcard("rq:wip:generate") == 0


def test_jobs_whose_message_was_lost_go_back_and_no_try_is_spent(redis, broker, start_worker, eventually, generate_job, monkeypatch):
    honest, lost = Intake.hear_jobs, []
    monkeypatch.setattr(Intake, "hear_jobs", lambda self, message: honest(self, message) if lost else lost.append(message))
    start_worker(FakeEngine(), lease_s=60)
    eventually(lambda: redis.zcard(keys.OFFERS) == 1)
    job_id = broker.submit(generate_job())
    eventually(lambda: over(broker, job_id))
    assert len(lost) == 1
    assert broker.view(job_id).status is Status.FINISHED
    assert redis.hget(Job.key_for(job_id), "retries_left") == b"1"


def test_a_listener_that_was_cut_off_asks_for_what_it_missed(redis, broker, start_worker, eventually, generate_job, monkeypatch):
    missed = threading.Event()
    honest = Intake.miss_messages
    monkeypatch.setattr(Intake, "miss_messages", lambda self, *given: (honest(self, *given), missed.set()))
    new = start_worker(FakeEngine(), maintenance_s=600)
    eventually(lambda: redis.zcard(keys.OFFERS) == 1)
    redis.client_kill_filter(_type="pubsub")
    eventually(missed.is_set)
    eventually(lambda: redis.pubsub_numsub(keys.assigned(new.name))[0][1] == 1)
    job_id = broker.submit(generate_job())
    eventually(lambda: over(broker, job_id))


def test_a_suspended_worker_is_sent_nothing(redis, broker, start_worker, eventually, generate_job):
    start_worker(FakeEngine())
    eventually(lambda: redis.zcard(keys.OFFERS) == 1)
    suspension.suspend(redis)
    eventually(lambda: redis.zcard(keys.OFFERS) == 0)
    job_id = broker.submit(generate_job())
    assert broker.view(job_id).status is Status.QUEUED
    suspension.resume(redis)
    eventually(lambda: over(broker, job_id))


@pytest.fixture
def intake(redis, waiting):
    """That of a worker which runs nothing."""
    w = waiting()
    quarantine = Quarantine(w.leases, w.queues, Queue("generate-alone", connection=redis))
    with beside(FakeEngine()) as engine:
        engine.await_ready()
        yield w, Intake(w.leases, quarantine, engine, print), quarantine


@pytest.mark.parametrize("shut", ["closed for good", "a job runs alone"])
def test_what_comes_when_nothing_may_join_goes_back(shut, redis, broker, intake, generate_job, eventually, monkeypatch):
    w, taking, quarantine = intake
    if shut == "closed for good":
        taking.close()
    else:
        monkeypatch.setattr(quarantine, "closed", lambda running: True)
    w.offer()
    job_id = broker.submit(generate_job())
    taking.hear_jobs(w.message())
    assert (taking.running, taking.unheard) == ({}, True)
    eventually(lambda: taking.return_unheard() or not taking.unheard)
    assert broker.view(job_id).status is Status.QUEUED
    assert redis.zcard("rq:wip:generate") == 0


def test_workers_that_leave_while_jobs_come_lose_none_and_spend_no_try(redis, broker, start_worker, eventually, generate_job):
    ids, over_now = [], threading.Event()

    def submit() -> None:
        while not over_now.wait(0.003):
            ids.append(broker.submit(generate_job(mcmc={"kernel": "mala", "steps": 3})))

    submitting = threading.Thread(target=submit)
    submitting.start()
    try:
        for _ in range(5):
            new, before = start_worker(FakeEngine(tick_s=0.001), maintenance_s=600, lease_s=60), len(ids)
            eventually(lambda before=before: len(ids) > before + 40 and over(broker, *ids[: before + 20]))
            new.stop()
            eventually(lambda: redis.scard("rq:workers") == 0)
            assert redis.zcard("rq:wip:generate") == 0
    finally:
        over_now.set()
        submitting.join()
    start_worker(FakeEngine(), maintenance_s=600, lease_s=60)
    eventually(lambda: over(broker, *ids))
    assert {broker.view(job_id).status for job_id in ids} == {Status.FINISHED}
    assert {redis.hget(Job.key_for(job_id), "retries_left") for job_id in ids} == {b"1"}
    assert {redis.xlen(f"rq:results:{job_id}") for job_id in ids} == {1}


def test_a_worker_that_cannot_hear_what_it_is_sent_leaves_its_jobs_to_the_next(
    redis, broker, start_worker, eventually, generate_job, monkeypatch
):
    def broken(self, message):
        raise ValueError("an unexpected error")

    errors = []
    monkeypatch.setattr(threading, "excepthook", lambda told: errors.append(told.exc_value))
    honest = Intake.hear_jobs
    monkeypatch.setattr(Intake, "hear_jobs", broken)
    doomed = start_worker(FakeEngine())
    eventually(lambda: redis.zcard(keys.OFFERS) == 1)
    job_id = broker.submit(generate_job())
    eventually(lambda: redis.scard("rq:workers") == 0)
    eventually(lambda: errors)  # the worker is gone from Redis a moment before its thread ends
    assert {str(error) for error in errors} == {"an unexpected error"}
    monkeypatch.setattr(Intake, "hear_jobs", honest)
    assert start_worker(FakeEngine()).name != doomed.name
    eventually(lambda: over(broker, job_id))
    assert broker.view(job_id).status is Status.FINISHED

"""An engine in a process of its own: it obeys, tells, outlives signals, and neither side outlives the other."""

import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.system.house import children
from tests.workers.generation.fake_engine import POISON, FakeEngine, beside, one_thread
from workers.capacity import Room
from workers.generation.engine_process import EngineDied, EngineProcess
from workers.jobs import Problem, Status
from workers.messages import Admit, Failed, Finished, Stepped

LONG = {"kernel": "mala", "steps": 10_000}


class Telling(FakeEngine):
    """Says which process it is in, and what it does."""

    def __init__(self, observe):
        super().__init__(side=28, tick_s=0.001)
        self._observe, self.device = observe, f"process {os.getpid()}"

    def tick(self):
        self._observe(Stepped(model="toy", sampler="ddls", chains=1, bucket=4, seconds=0.5))
        return super().tick()


@pytest.fixture
def engine():
    """Forked while this process has threads, which is all right for an engine without torch."""
    with EngineProcess.start(Telling, one_thread) as engine:
        engine.await_ready()
        yield engine


def turns_until(engine, enough):
    """What it tells until that is enough."""
    told, end = [], time.monotonic() + 10
    while not enough(told):
        assert time.monotonic() < end
        engine.wait(0.5)
        told += engine.receive()
    return told


def outcomes(turns):
    return [outcome for turn in turns for outcome in turn.outcomes]


def gone(pid):
    return not Path(f"/proc/{pid}").exists()


def test_jobs_go_there_and_images_come_back(engine, generate_job):
    assert engine.device == f"process {engine.pid}" != f"process {os.getpid()}"
    jobs = [generate_job(seed=seed, num_images=seed) for seed in (1, 2, 3)]
    assert engine.room == Room(64, frozenset())
    engine.admit(Admit(label=f"job {job.seed}", job=job, expires_at=None) for job in jobs)
    assert engine.room is None
    assert engine.room_to_come == Room(58, frozenset())
    told = turns_until(engine, lambda told: len(outcomes(told)) == 3)
    for outcome in outcomes(told):
        assert isinstance(outcome, Finished)
        number = int(outcome.job_id.removeprefix("job "))
        assert outcome.images.shape == (number, 28, 28, 1)
        assert [image.max() for image in outcome.images] == list(range(number, 2 * number))
    turns_until(engine, lambda told: engine.room == Room(64, frozenset()))
    assert {measurement.seconds for turn in told for measurement in turn.measurements} == {0.5}


def test_it_cancels_and_tells_how_far_it_is(engine, generate_job):
    engine.admit([Admit(label="long", job=generate_job(mcmc=LONG), expires_at=None)])
    turns_until(engine, lambda told: engine.progress.get("long") and engine.progress["long"].done > 0)
    engine.order_end("long", Problem(reason="canceled", detail="on request"))
    (failed,) = outcomes(turns_until(engine, outcomes))
    assert failed == Failed(job_id="long", problem=Problem(reason="canceled", detail="on request"))


def test_it_shows_that_it_lives_though_it_has_nothing_to_do(engine):
    before = engine.told_at
    turns_until(engine, lambda told: engine.told_at > before)


def test_a_wake_ends_the_wait_or_the_next_one(engine):
    engine.wake()
    begun = time.monotonic()
    turns_until(engine, len)  # so that it has nothing to tell for a while
    for _ in range(3):
        threading.Timer(0.01, engine.wake).start()
        engine.wait(30)
    engine.wake()
    engine.wake()
    engine.wait(30)
    assert time.monotonic() - begun < 15


def test_a_wake_in_a_signal_handler_ends_the_wait_that_the_signal_interrupts(engine):
    turns_until(engine, len)  # so that it has nothing to tell for a while
    before = signal.signal(signal.SIGALRM, lambda *given: engine.wake())
    try:
        begun = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        engine.wait(30)
        assert time.monotonic() - begun < 0.4  # it gives a sign of life after half a second
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_wait_ends_when_another_has_something_to_tell(engine):
    turns_until(engine, len)
    near, far = socket.socketpair()
    with near, far:
        far.send(b"!")
        begun = time.monotonic()
        engine.wait(30, near)
        assert time.monotonic() - begun < 0.4
    engine.wait(30, near)  # closed by now, and passed over


def test_signals_to_the_whole_group_do_not_end_it(engine, generate_job):
    engine.admit([Admit(label="job", job=generate_job(), expires_at=None)])
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(engine.pid, number)
    assert outcomes(turns_until(engine, outcomes))[0].job_id == "job"


@pytest.mark.parametrize("way", ["killed", "an error"])
def test_its_death_is_noticed(way, engine, generate_job):
    engine.admit([Admit(label="poison", job=generate_job(seed=POISON, mcmc=LONG), expires_at=None)] if way == "an error" else [])
    if way == "killed":
        os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EngineDied, match="exit code -9" if way == "killed" else "exit code 1"):
        turns_until(engine, lambda told: False)
    engine.order_end("poison", Problem(reason="canceled", detail="the engine is gone"))
    engine.wake()


def test_it_leaves_with_whoever_started_it(engine, generate_job):
    engine.admit([Admit(label="long", job=generate_job(mcmc=LONG), expires_at=None)])
    engine.close()
    assert gone(engine.pid)
    engine.close()
    engine.wake()


def test_orders_that_it_cannot_read_yet_do_not_keep_anybody_waiting(generate_job):
    may_read = threading.Event()

    class Slow(FakeEngine):
        def progress(self):
            assert may_read.wait(20)
            return super().progress()

    with beside(Slow()) as engine:
        jobs = [generate_job(sampler="prior", mcmc=None, num_images=1)] * 5000
        engine.admit(Admit(label=str(number), job=job, expires_at=None) for number, job in enumerate(jobs))
        may_read.set()
        engine.await_ready()
        assert len(outcomes(turns_until(engine, lambda told: len(outcomes(told)) == 5000))) == 5000


@pytest.mark.system
def test_a_worker_whose_engine_dies_leaves_and_its_jobs_are_back_at_once(broker, redis, start_process, eventually, generate_job):
    ids = broker.submit_many([generate_job(mcmc=LONG) for _ in range(8)])
    worker = start_process(tick_s=0.05, lease_s=600)
    eventually(lambda: redis.zcard("rq:wip:generate") == 8, limit_s=30)
    (engine,) = children(worker.pid)
    os.kill(engine, signal.SIGKILL)
    assert worker.wait() == 1
    assert redis.zcard("rq:wip:generate") == 0
    assert [broker.view(job_id).status for job_id in ids] == [Status.QUEUED] * 8


@pytest.mark.system
def test_an_engine_whose_worker_is_killed_is_gone_soon(broker, redis, start_process, eventually, generate_job):
    broker.submit(generate_job(mcmc=LONG))
    worker = start_process(tick_s=0.05)
    eventually(lambda: redis.zcard("rq:wip:generate") == 1, limit_s=30)
    (engine,) = children(worker.pid)
    worker.kill()
    eventually(lambda: gone(engine), limit_s=5)

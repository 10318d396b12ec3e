"""Jobs that a submission starts for a worker that waits, on a real Valkey: sent where somebody listens, and never lost on the way."""

import threading

import pytest
from rq import Queue, suspension
from rq.job import Job

from tests.workers.fake_engine import FakeEngine
from workers import keys
from workers.intake import Intake
from workers.jobs import GenerateResult, Problem, Status
from workers.quarantine import Quarantine
from workers.queues import GENERATE_QUEUES
from workers.rq_bulk import DECODING_ROOM, Bulk, Ended, handed
from workers.stepping import Room, StepLoop

LONG = {"kernel": "mala", "steps": 10_000}
ROOM = Room(8, frozenset())


class Worker:
    """Offers to take jobs, and hears what is sent to it."""

    def __init__(self, redis, broker, name, valkey):
        self.name, self.bulk = name, Bulk(broker, name, f"rq:worker:{name}", 90)
        self.queues = [Queue(queue, connection=redis, serializer="json") for queue in GENERATE_QUEUES]
        self._pubsub = redis.pubsub(ignore_subscribe_messages=True)

    def listen(self):
        self._pubsub.subscribe(keys.handed(self.name), keys.SUBMITTED)
        for _ in range(2):  # the answers to the subscriptions
            assert self._pubsub.get_message(timeout=5) is None

    def offer(self, room=ROOM):
        assert self.bulk.take(self.queues, room, offering=True) == []

    def heard(self, timeout=5):
        """The jobs of the next message; an empty list where it only says that some wait."""
        message = self.message(timeout)
        return message and (handed(message["data"]) if message["channel"].decode() == keys.handed(self.name) else [])

    def message(self, timeout=5):
        return self._pubsub.get_message(timeout=timeout)

    def close(self):
        self._pubsub.close()


@pytest.fixture
def waiting(redis, broker):
    """Workers that listen, by name."""
    made = []

    def make(name="w", *, listens=True):
        made.append(Worker(redis, broker, name, redis))
        if listens:
            made[-1].listen()
        return made[-1]

    yield make
    for one in made:
        one.close()


def over(broker, *ids):
    return all(broker.view(job_id).status.over for job_id in ids)


def test_a_worker_that_waits_is_sent_what_is_submitted(redis, broker, waiting, generate_job):
    w = waiting()
    w.offer()
    ids = broker.submit_many([generate_job(num_images=2, seed=seed) for seed in (1, 2)])
    jobs = w.heard()
    assert [(job.id, job.request.seed, job.queue) for job in jobs] == [(ids[0], 1, "generate"), (ids[1], 2, "generate")]
    assert w.heard(0.1) is None  # nobody else is called
    assert [broker.view(job_id).status for job_id in ids] == [Status.RUNNING] * 2
    assert Job.fetch(ids[0], connection=redis, serializer="json").worker_name == "w"
    assert redis.zcard("rq:wip:generate") == 2
    assert w.bulk.end([Ended(job, Problem(reason="diverged", detail="so")) for job in jobs])[0].taken == jobs[0]
    assert over(broker, *ids)


def test_an_offer_stands_until_its_room_is_used_up(redis, broker, waiting, generate_job):
    w = waiting()
    w.offer(Room(8, frozenset()))
    for _ in range(2):
        broker.submit(generate_job(num_images=4))
        assert len(w.heard()) == 1
    later = broker.submit(generate_job(num_images=4))
    assert w.heard() == []
    assert broker.view(later).status is Status.QUEUED


def test_no_more_images_of_prior_jobs_are_sent_than_a_worker_takes_at_once(redis, broker, waiting, generate_job):
    w = waiting()
    w.offer()
    prior = generate_job(sampler="prior", mcmc=None, num_images=64)
    broker.submit_many([prior] * (DECODING_ROOM // 64 - 1))
    assert len(w.heard()) == DECODING_ROOM // 64 - 1
    broker.submit_many([prior, prior])
    assert len(w.heard()) == 1
    assert w.heard() == []


def test_what_has_no_room_stays_and_is_announced(redis, broker, waiting, generate_job):
    w = waiting()
    w.offer(Room(4, frozenset()))
    broker.submit_many([generate_job(num_images=4, caller="ann"), generate_job(num_images=4, caller="ann", mcmc=LONG)])
    assert len(w.heard()) == 1
    assert w.heard() == []
    assert redis.llen("rq:queue:generate") == 1


def test_who_does_not_listen_is_sent_nothing(redis, broker, waiting, generate_job):
    deaf, w = waiting("deaf", listens=False), waiting()
    deaf.offer(Room(64, frozenset()))
    w.offer()
    job_id = broker.submit(generate_job())
    assert [job.id for job in w.heard()] == [job_id]
    w.bulk.withdraw()
    deaf.offer()
    assert broker.view(broker.submit(generate_job())).status is Status.QUEUED


def test_an_offer_that_was_not_renewed_is_void(redis, broker, waiting, generate_job):
    w = waiting()
    w.offer()
    redis.hincrbyfloat("rq:worker:w", "offered_at", -3)
    assert broker.view(broker.submit(generate_job())).status is Status.QUEUED
    assert w.heard() == []


def test_the_worker_with_the_most_room_is_chosen(redis, broker, waiting, generate_job):
    small, large = waiting("small"), waiting("large")
    small.offer(Room(3, frozenset()))
    large.offer(Room(30, frozenset()))
    for _ in range(7):
        broker.submit(generate_job(num_images=4))
        assert len(large.heard()) == 1
    broker.submit(generate_job())
    assert len(small.heard()) == 1


def test_an_end_leaves_an_offer_where_nothing_waits(redis, broker, waiting, generate_job):
    w = waiting()
    w.offer()
    broker.submit_many([generate_job(), generate_job()])
    one, two = w.heard()
    problem = Problem(reason="diverged", detail="so")
    assert w.bulk.end_and_offer([Ended(one, problem)], w.queues, ROOM)[1]
    assert redis.zscore(keys.OFFERS, "w") == ROOM.free
    w.bulk.withdraw()
    queued = broker.submit(generate_job())
    assert not w.bulk.end_and_offer([Ended(two, problem)], w.queues, ROOM)[1]
    assert redis.zcard(keys.OFFERS) == 0
    assert [job.id for job in w.bulk.take(w.queues, ROOM, offering=True)] == [queued]
    assert redis.zscore(keys.OFFERS, "w") == ROOM.free - 4
    assert w.bulk.end_and_offer([], w.queues, None) == ([], False)


def test_a_training_job_is_nobodys_business_here(redis, broker, waiting, train_job):
    w = waiting()
    w.offer()
    broker.submit(train_job)
    assert w.heard(0.1) is None
    assert redis.zcard(keys.OFFERS) == 1


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
    eventually(lambda: redis.pubsub_numsub(keys.handed(new.name))[0][1] == 1)
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
    """That of a worker which runs nothing, and whether it was woken."""
    w, woken = waiting(), threading.Event()
    quarantine = Quarantine(w.bulk, w.queues, Queue("generate-alone", connection=redis))
    return w, Intake(w.bulk, quarantine, StepLoop(FakeEngine(), print, print), print, woken.set), quarantine, woken


@pytest.mark.parametrize("shut", ["closed for good", "a job runs alone"])
def test_what_comes_when_nothing_may_join_goes_back(shut, redis, broker, intake, generate_job, eventually, monkeypatch):
    w, taking, quarantine, woken = intake
    if shut == "closed for good":
        taking.close()
    else:
        monkeypatch.setattr(quarantine, "closed", lambda running: True)
    w.offer()
    job_id = broker.submit(generate_job())
    taking.hear_jobs(w.message())
    assert (taking.running, taking.unheard, woken.is_set()) == ({}, True, True)
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
            new._shutdown()
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


def test_who_reads_what_runs_is_not_disturbed_by_jobs_that_come_and_go(redis, broker, intake, generate_job):
    w, taking, *_ = intake
    broker.submit_many([generate_job() for _ in range(2)])
    first, second = w.bulk.take(w.queues, ROOM)
    taking._accept([first])
    seen = iter(taking.running.values())
    taking._accept([second])
    taking.forget([first])
    assert list(seen) == [first]
    assert list(taking.running.values()) == [second]


def test_a_worker_that_cannot_listen_any_more_leaves_its_jobs_to_the_next(
    redis, broker, start_worker, eventually, generate_job, monkeypatch
):
    def broken(self, message):
        raise ValueError("nobody foresaw this")

    errors = []
    monkeypatch.setattr(threading, "excepthook", lambda told: errors.append(told.exc_value))
    honest = Intake.hear_jobs
    monkeypatch.setattr(Intake, "hear_jobs", broken)
    doomed = start_worker(FakeEngine())
    eventually(lambda: redis.zcard(keys.OFFERS) == 1)
    job_id = broker.submit(generate_job())
    eventually(lambda: redis.scard("rq:workers") == 0)
    assert {str(error) for error in errors} == {"nobody foresaw this"}
    monkeypatch.setattr(Intake, "hear_jobs", honest)
    assert start_worker(FakeEngine()).name != doomed.name
    eventually(lambda: over(broker, job_id))
    assert broker.view(job_id).status is Status.FINISHED

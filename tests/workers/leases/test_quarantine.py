"""Jobs that have to run alone do, on a real Valkey; neither they nor the others starve, with one worker or two."""

import pytest
from rq import Queue
from rq.job import Job

from tests.workers.generation.fake_engine import POISON, FakeEngine, worker
from workers.capacity import Room
from workers.generation.engine_process import EngineDied
from workers.jobs import Status
from workers.leases import quarantine, recovery
from workers.leases.leases import Leases
from workers.leases.quarantine import Quarantine

ROOM = Room(64, frozenset())


@pytest.fixture
def suspects(redis, broker, generate_job):
    """Makes jobs whose worker died twice while it ran all of them."""
    queue = Queue("generate", connection=redis, serializer="json")

    def make(number, **given):
        leases = Leases(broker, "doomed", "rq:worker:doomed", 5)
        ids = broker.submit_many([generate_job(num_images=1, **given) for _ in range(number)])
        for _ in range(2):
            leases.abandon(leases.take([queue], ROOM))
            recovery.reclaim(redis, [queue])
        assert redis.llen("rq:queue:generate-alone") == number
        return ids

    return make


class Watched(FakeEngine):
    """Notes which seeds have run beside each other."""

    def __init__(self, **given):
        super().__init__(**given)
        self.company = set()

    def tick(self):
        self.company.add(frozenset(job.seed for job, _ in self._jobs.values()))
        return super().tick()


def over(broker, ids):
    return all(broker.view(job_id).status is Status.FINISHED for job_id in ids)


def test_each_runs_alone_and_the_others_together(broker, suspects, start_worker, generate_job, eventually):
    alone = suspects(5, seed=1, mcmc={"kernel": "mala", "steps": 20})
    others = broker.submit_many([generate_job(seed=2, num_images=1, mcmc={"kernel": "mala", "steps": 60}) for _ in range(10)])
    engine = Watched(tick_s=0.002)
    start_worker(engine)
    eventually(lambda: over(broker, alone + others))
    assert engine.company - {frozenset()} == {frozenset({1}), frozenset({2})}
    assert len([job for job in engine.admitted if job.seed == 1]) == 5
    started = sorted((broker.view(job_id) for job_id in alone), key=lambda view: view.started_at)
    assert all(one.ended_at <= next.started_at for one, next in zip(started, started[1:], strict=False))


@pytest.mark.parametrize("workers", [1, 2])
def test_neither_starves_under_a_load_that_never_ends(workers, broker, redis, suspects, start_worker, generate_job, eventually):
    alone = suspects(20, seed=1, mcmc={"kernel": "mala", "steps": 10})
    short = {"kernel": "mala", "steps": 20}
    for _ in range(workers):
        start_worker(FakeEngine(capacity=8, tick_s=0.002))
    sent = []

    def feed():
        if redis.llen("rq:queue:generate") < 20:
            sent.extend(broker.submit_many([generate_job(seed=2, num_images=1, mcmc=short) for _ in range(40)]))
        return over(broker, alone)

    eventually(feed, limit_s=30)
    ends = sorted(broker.view(job_id).ended_at for job_id in alone)
    between = [view for view in broker.recent(1000) if view.id in sent and view.ended_at and ends[0] < view.ended_at < ends[-1]]
    assert len(between) > 20
    eventually(lambda: over(broker, sent), limit_s=30)


@pytest.mark.parametrize(("neighbours", "deaths"), [(0, 2), (5, 3)])
def test_an_engine_that_crashes_on_a_job_leaves_it_failed_and_its_neighbours_finished(
    neighbours, deaths, broker, redis, settings, generate_job
):
    poison = broker.submit(generate_job(seed=POISON))
    others = broker.submit_many([generate_job(mcmc={"kernel": "mala", "steps": 50}) for _ in range(neighbours)])
    for _ in range(deaths):
        crashing = worker(FakeEngine(), settings)
        with pytest.raises(EngineDied):
            crashing.work(burst=True)
        crashing.connection.close()
    view = broker.view(poison)
    assert (view.status, view.problem.reason) == (Status.FAILED, "abandoned")
    assert broker.events(poison)[-1].data["reason"] == "abandoned"
    assert redis.ttl(Job.key_for(poison)) > 0
    heir = worker(engine := FakeEngine(), settings)
    heir.work(burst=True)
    heir.connection.close()
    assert over(broker, others)
    assert engine.most_running <= 1


class Waiting:
    """Jobs that wait, without Redis."""

    def __init__(self):
        self.shared, self.alone = 0, 0

    def take(self, queues, room, **given):
        found, self.shared = self.shared, 0
        return ["shared"] * found

    def take_one(self, queue):
        found, self.alone = min(self.alone, 1), max(0, self.alone - 1)
        return ["alone"] * found


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    now = [100.0]
    monkeypatch.setattr(quarantine.time, "monotonic", lambda: now[0])
    return now


def test_time_is_shared_by_halves(redis, clock):
    waiting = Waiting()
    turns = Quarantine(waiting, [], Queue("generate-alone", connection=redis))
    busy = {"x": type("Job", (), {"queue": "generate"})}

    def taken(alone, shared, *, noted=True):
        waiting.alone, waiting.shared = alone, shared
        if noted:
            turns.note_waiting(alone)
        return set(turns.take(ROOM, idle=True))

    assert taken(3, 1) == {"alone"}  # from the first sign on
    clock[0] += 10
    assert taken(3, 1) == {"shared"}  # they are owed ten seconds
    clock[0] += 9
    assert not turns.closed(busy)
    clock[0] += 2
    assert turns.closed(busy)  # and have had them
    clock[0] += 60  # what ran was long
    for _ in range(7):
        assert taken(3, 1) == {"alone"}
        clock[0] += 10
    assert taken(3, 1) == {"shared"}
    assert taken(3, 0) == {"alone"}  # nobody else is there
    clock[0] += 1000
    assert taken(3, 1) == {"shared"}
    clock[0] += 1001
    assert turns.closed(busy)  # no more is owed than that
    assert taken(0, 1) == {"shared"}
    assert not turns.closed(busy)

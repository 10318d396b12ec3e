"""Wakes the requests that wait for a job: one pub/sub connection a process, for any number of waiters, which reconnects by itself."""

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Iterator
from types import TracebackType
from typing import Any
from uuid import uuid4

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from rq.job import Job

from workers.queue import keys, views
from workers.queue.connection import CONNECT_TIMEOUT_S, PROTOCOL, guarded

LOOK_AGAIN_S = 2.0  # pub/sub keeps no messages for a lost connection, and a deadline passes without a message
SILENCE_S = 5.0  # without a message for this long Redis is pinged, and it may take as long to answer
_AWAY = (RedisConnectionError, RedisTimeoutError, OSError)
_logger = logging.getLogger(__name__)


class Expected:
    """The end of one job, for one waiter."""

    def __init__(self) -> None:
        self.submitted = False  # before that Redis does not know the job, and it would count as gone
        self.picture: bytes | None = None  # if it came with the announcement
        self._over: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def within(self, timeout_s: float) -> bool:
        """Returns True once the job is over, False after `timeout_s` seconds or after a call of `give_up`."""
        alarm = asyncio.get_running_loop().call_later(timeout_s, self.give_up)
        try:
            return await self._over
        finally:
            alarm.cancel()

    def give_up(self) -> None:
        self._settle(over=False)

    def end(self, picture: bytes | None = None) -> None:
        """Wakes the waiter: the job is over."""
        self.picture = self.picture or picture
        self._settle(over=True)

    def _settle(self, *, over: bool) -> None:
        if not self._over.done():
            self._over.set_result(over)


class Completions:
    """Use as `async with Completions(url) as completions: await completions.wait(job_id, 30)`."""

    def __init__(self, redis_url: str) -> None:
        self._redis = Redis.from_url(redis_url, protocol=PROTOCOL, socket_connect_timeout=CONNECT_TIMEOUT_S, socket_timeout=SILENCE_S)
        self.replies = f"{keys.REPLIES}:{uuid4().hex}"  # the channel for pictures to this process
        self._waiting: defaultdict[str, set[Expected]] = defaultdict(set)
        self._tasks: list[asyncio.Task[None]] = []
        self._looks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._look_again())]

    async def stop(self) -> None:
        running = (*self._tasks, *self._looks)
        while pending := [task for task in running if not task.done()]:
            for task in pending:
                task.cancel()  # repeated, because redis-py may swallow a cancellation while it connects
            await asyncio.wait(pending, timeout=0.2)
        await asyncio.gather(*running, return_exceptions=True)
        await self._redis.aclose()

    async def __aenter__(self) -> "Completions":
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    @contextlib.contextmanager
    def expecting(self, job_id: str) -> Iterator[Expected]:
        """Registers a waiter for the end of a job, submitted or not; does not ask Redis whether the job is over already."""
        expected = Expected()
        self._waiting[job_id].add(expected)
        try:
            yield expected
        finally:
            self._waiting[job_id].discard(expected)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    async def wait(self, job_id: str, timeout_s: float) -> bool:
        """Returns True once the job is over or unknown, False after `timeout_s` seconds.

        Raises BrokerUnavailable if Redis is away at the start; later it is waited for.
        """
        with self.expecting(job_id) as expected:  # before the look, so that no end is missed between the two
            expected.submitted = True
            with guarded():
                await self._look([job_id])
            return await expected.within(timeout_s)

    def look_later(self, job_id: str, delay_s: float) -> asyncio.TimerHandle:
        """Asks Redis for a job's state in `delay_s` seconds, when it may end without a message; returns a handle that cancels this."""
        return asyncio.get_running_loop().call_later(delay_s, self._look_soon, job_id)

    def _look_soon(self, job_id: str) -> None:
        look = asyncio.create_task(self._look_if_there([job_id]))
        self._looks.add(look)  # the event loop keeps only weak references to tasks
        look.add_done_callback(self._looks.discard)

    async def _listen(self) -> None:
        while True:
            with contextlib.suppress(*_AWAY):
                async with self._redis.pubsub() as pubsub:
                    await pubsub.subscribe(keys.ENDED, self.replies)
                    await self._look(self._submitted())  # jobs that ended without a subscription
                    await self._read(pubsub)
            _logger.warning("lost the connection that announces ended jobs; trying again")
            await asyncio.sleep(0.5)

    async def _read(self, pubsub: PubSub) -> None:
        """Reads messages until the connection breaks or Redis stays silent after a ping: a lost network gives no error."""
        pinged = False
        while True:
            message: Any = await pubsub.get_message(timeout=SILENCE_S)
            if message is None and pinged:
                return
            if message is None:
                await pubsub.ping()
            elif message["type"] == "message":
                for job_id, picture in _announced(message["channel"].decode(), message["data"]):
                    self._wake(job_id, picture)
            pinged = message is None

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(LOOK_AGAIN_S)
            await self._look_if_there(self._submitted())

    async def _look_if_there(self, job_ids: list[str]) -> None:
        with contextlib.suppress(*_AWAY):
            await self._look(job_ids)

    def _submitted(self) -> list[str]:
        return [job_id for job_id, waiting in self._waiting.items() if any(expected.submitted for expected in waiting)]

    async def _look(self, job_ids: list[str]) -> None:
        if not job_ids:
            return
        async with self._redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hmget(Job.key_for(job_id), ["status", keys.EXPIRES_AT])
            answers: list[Any] = await pipe.execute()
        for job_id, (status, expires_at) in zip(job_ids, answers, strict=True):
            if status is None or views.status_of(status, expires_at).over:
                self._wake(job_id)

    def _wake(self, job_id: str, picture: bytes | None = None) -> None:
        for expected in self._waiting.get(job_id, ()):
            expected.end(picture)


def _announced(channel: str, data: bytes) -> Iterator[tuple[str, bytes | None]]:
    """The jobs of a message: on the common channel ids, on a process's own `id length picture` for each; separated by spaces."""
    if channel == keys.ENDED:
        yield from ((job_id, None) for job_id in data.decode().split())
        return
    while data:
        job_id, length, data = data.split(b" ", 2)
        yield job_id.decode(), data[: int(length)]
        data = data[int(length) :]

"""The connection to Redis, and the errors of everything that stands on it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import redis.exceptions
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

SOCKET_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 3.0
PROTOCOL = 2  # of Redis: in the newer one redis-py does more for every published message, and nothing of that is used here


class BrokerError(Exception):
    """Root of what a broker raises.

    BrokerError
    ├── UnknownJob           no job has that id (any more)
    ├── BrokerUnavailable    Redis is away
    └── ArtifactError        the store of images refused (workers/artifacts.py)
    """


class UnknownJob(BrokerError):
    """No job has that id, or it was too long ago."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"no job {job_id!r}: ids are kept for a while after a job has ended")
        self.job_id = job_id


class BrokerUnavailable(BrokerError):
    """Redis does not answer, or has no room."""


# What a call raises while Redis is away or has no room.
AWAY = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    BrokerUnavailable,
)


@contextmanager
def guarded() -> Iterator[None]:
    """Turns a lost connection, and a Redis that takes nothing, into BrokerUnavailable."""
    try:
        yield
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
        raise BrokerUnavailable(f"Redis does not answer: {error}") from error
    except (redis.exceptions.OutOfMemoryError, redis.exceptions.ReadOnlyError) as error:
        raise BrokerUnavailable(f"Redis takes nothing: {error}") from error


def connect(url: str) -> Redis:
    """A connection pool for threads; commands fail after ten seconds rather than hang."""
    return Redis.from_url(
        url, protocol=PROTOCOL, socket_timeout=SOCKET_TIMEOUT_S, socket_connect_timeout=CONNECT_TIMEOUT_S, retry=Retry(NoBackoff(), 1)
    )


def connect_async(url: str) -> AsyncRedis:
    """The same for an event loop, as one connection of its own: a pool looks at a connection before each use."""
    return AsyncRedis.from_url(
        url,
        protocol=PROTOCOL,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=AsyncRetry(NoBackoff(), 1),
        single_connection_client=True,
    )


class ConnectionSettings(Protocol):
    """What `Broker.connect` reads of a process's settings."""

    @property
    def redis_url(self) -> str: ...
    @property
    def result_ttl_s(self) -> int: ...
    @property
    def failure_ttl_s(self) -> int: ...
    @property
    def job_timeout_s(self) -> int: ...


@dataclass(frozen=True)
class BrokerLimits:
    """How long things are kept and may take, in seconds."""

    result_ttl_s: int = 3600
    failure_ttl_s: int = 7 * 86400
    job_timeout_s: int = 3600

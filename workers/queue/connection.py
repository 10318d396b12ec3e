"""The connection to Redis and the errors of all modules that use it."""

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
PROTOCOL = 2  # RESP2: with RESP3 redis-py does more work for each published message, for features that are not used here


class BrokerError(Exception):
    """Root of the errors a broker raises.

    BrokerError
    ├── UnknownJob           no job has that id (any more)
    ├── BrokerUnavailable    Redis does not answer or accepts no writes
    │   └── BrokerFull       it accepts none because its memory or its disk is full
    └── ArtifactError        the store of images failed (artifacts.py)
    """


class UnknownJob(BrokerError):
    """No job has that id, or its record has expired."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"no job {job_id!r}: ids are kept for a while after a job has ended")
        self.job_id = job_id


class BrokerUnavailable(BrokerError):
    """Redis does not answer, or accepts no writes."""


class BrokerFull(BrokerUnavailable):
    """Redis has no room: its memory is at `maxmemory`, or it cannot write to its disk."""


DISK_ERROR = "MISCONF"  # how Redis begins a refusal because it cannot write its files; redis-py has no class for it

# The errors of a call while Redis is away or has no room in memory.
AWAY = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    BrokerUnavailable,
)


def is_full(error: BaseException) -> bool:
    """Whether Redis refused a write because its memory or its disk is full."""
    no_disk = isinstance(error, redis.exceptions.ResponseError) and str(error).startswith(DISK_ERROR)
    return no_disk or isinstance(error, redis.exceptions.OutOfMemoryError | BrokerFull)


def is_away(error: BaseException) -> bool:
    """Whether a call may work later: Redis does not answer, or has no room."""
    return isinstance(error, AWAY) or is_full(error)


@contextmanager
def guarded() -> Iterator[None]:
    """Raises BrokerUnavailable for redis-py's errors of a lost connection or of a Redis that accepts no writes."""
    try:
        yield
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
        raise BrokerUnavailable(f"Redis does not answer: {error}") from error
    except redis.exceptions.ReadOnlyError as error:
        raise BrokerUnavailable(f"Redis accepts no writes: {error}") from error
    except redis.exceptions.ResponseError as error:
        if is_full(error):
            raise BrokerFull(f"Redis has no room: {error}") from error
        raise


def connect(url: str) -> Redis:
    """A client for threads, with a pool of connections; a command fails after SOCKET_TIMEOUT_S."""
    return Redis.from_url(
        url, protocol=PROTOCOL, socket_timeout=SOCKET_TIMEOUT_S, socket_connect_timeout=CONNECT_TIMEOUT_S, retry=Retry(NoBackoff(), 1)
    )


def connect_async(url: str) -> AsyncRedis:
    """A client for an event loop, with a single connection: a pool would check it before each use."""
    return AsyncRedis.from_url(
        url,
        protocol=PROTOCOL,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=AsyncRetry(NoBackoff(), 1),
        single_connection_client=True,
    )


class ConnectionSettings(Protocol):
    """The settings of a process that `Broker.connect` reads."""

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
    """How long results and failures are kept and how long a job may run, in seconds."""

    result_ttl_s: int = 3600
    failure_ttl_s: int = 7 * 86400
    job_timeout_s: int = 3600

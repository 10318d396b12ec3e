"""Batch workers around an engine that computes nothing, in a thread or as processes that can be killed; and the ear of one."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq import Queue

from tests.workers.generation.fake_engine import FakeEngine, worker
from workers.capacity import Room
from workers.generation.worker import BatchWorker
from workers.jobs.generate import GENERATE_QUEUES
from workers.leases.leases import Leases, Taken, read_jobs
from workers.queue import keys
from workers.queue.broker import Broker
from workers.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
ROOM = Room(8, frozenset())


@pytest.fixture
def settings(valkey_url: str, tmp_path: Path) -> WorkerSettings:
    return WorkerSettings(
        redis_url=valkey_url, data=tmp_path, result_ttl_s=60, failure_ttl_s=120, heartbeat_s=0.1, maintenance_s=0.2, device="cpu"
    )


@pytest.fixture
def start_worker(redis: Any, settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., BatchWorker]]:
    """Starts a worker in a thread; it is asked to leave, and has to, when the test is over."""
    monkeypatch.setattr(BatchWorker, "handle_signals", lambda self: None)  # signals belong to the main thread
    started: list[tuple[BatchWorker, threading.Thread]] = []

    def start(engine: FakeEngine, **changed: Any) -> BatchWorker:
        new = worker(engine, settings.model_copy(update={"capacity": engine.capacity} | changed))
        thread = threading.Thread(target=new.work)
        thread.start()
        started.append((new, thread))
        return new

    yield start
    for each, thread in started:
        each.stop()
        thread.join(timeout=20)
        assert not thread.is_alive(), "the worker did not leave"
        each.connection.close()


class Process:
    """A worker process."""

    def __init__(self, settings: WorkerSettings, tick_s: float) -> None:
        names = ("redis_url", "data", "result_ttl_s", "failure_ttl_s", "heartbeat_s", "lease_s", "maintenance_s", "capacity")
        env = {f"EBBTIDE_{name.upper()}": str(getattr(settings, name)) for name in names}
        command = [sys.executable, "-m", "tests.workers.generation.fake_engine", "--tick", str(tick_s)]
        self._process = subprocess.Popen(command, env=os.environ | env | {"OMP_NUM_THREADS": "1"}, cwd=ROOT, stderr=subprocess.DEVNULL)

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait(self) -> int:
        """Its exit status."""
        return self._process.wait(30)

    def terminate(self) -> int:
        """Asks it to leave; returns its exit status."""
        self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(30)


@pytest.fixture
def start_process(redis: Any, settings: WorkerSettings) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start(*, tick_s: float = 0.0, **changed: Any) -> Process:
        started.append(Process(settings.model_copy(update=changed), tick_s))
        return started[-1]

    yield start
    for process in started:
        process.kill()


class Ear:
    """Offers to take jobs in a worker's name, and hears what is sent to it."""

    def __init__(self, redis: Redis, broker: Broker, name: str) -> None:
        self.name, self.leases = name, Leases(broker, name, f"rq:worker:{name}", 90)
        self.queues = [Queue(queue, connection=redis, serializer="json") for queue in GENERATE_QUEUES]
        self._pubsub = redis.pubsub(ignore_subscribe_messages=True)

    def listen(self) -> None:
        self._pubsub.subscribe(keys.assigned(self.name), keys.SUBMITTED)
        for _ in range(2):  # the answers to the subscriptions
            assert self._pubsub.get_message(timeout=5) is None

    def offer(self, room: Room = ROOM) -> None:
        assert self.leases.take(self.queues, room, offering=True) == []

    def heard(self, timeout: float = 5) -> list[Taken] | None:
        """The jobs of the next message; an empty list where it only says that some wait."""
        message = self.message(timeout)
        return message and (read_jobs(message["data"]) if message["channel"].decode() == keys.assigned(self.name) else [])

    def message(self, timeout: float = 5) -> Any:
        return self._pubsub.get_message(timeout=timeout)

    def close(self) -> None:
        self._pubsub.close()


@pytest.fixture
def waiting(redis: Redis, broker: Broker) -> Iterator[Callable[..., Ear]]:
    """Workers that listen, by name."""
    made: list[Ear] = []

    def make(name: str = "w", *, listens: bool = True) -> Ear:
        made.append(Ear(redis, broker, name))
        if listens:
            made[-1].listen()
        return made[-1]

    yield make
    for one in made:
        one.close()

"""Batch workers around an engine that computes nothing: in a thread of the test, or as processes that can be killed."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.workers.fake_engine import FakeEngine, worker
from workers.batch_worker import BatchWorker
from workers.settings import WorkerSettings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def settings(valkey_url: str, tmp_path: Path) -> WorkerSettings:
    return WorkerSettings(
        redis_url=valkey_url, data=tmp_path, result_ttl_s=60, failure_ttl_s=120, heartbeat_s=0.1, maintenance_s=0.2, device="cpu"
    )


@pytest.fixture
def start_worker(redis: Any, settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., BatchWorker]]:
    """Starts a worker in a thread; it is asked to leave, and has to, when the test is over."""
    monkeypatch.setattr(BatchWorker, "_install_signal_handlers", lambda self: None)  # signals belong to the main thread
    started: list[tuple[BatchWorker, threading.Thread]] = []

    def start(engine: FakeEngine, **changed: Any) -> BatchWorker:
        new = worker(engine, settings.model_copy(update={"capacity": engine.capacity} | changed))
        thread = threading.Thread(target=new.work)
        thread.start()
        started.append((new, thread))
        return new

    yield start
    for each, thread in started:
        each._shutdown()
        thread.join(timeout=20)
        assert not thread.is_alive(), "the worker did not leave"
        each.connection.close()


class Process:
    """A worker process."""

    def __init__(self, settings: WorkerSettings, tick_s: float) -> None:
        names = ("redis_url", "data", "result_ttl_s", "failure_ttl_s", "heartbeat_s", "lease_s", "maintenance_s", "capacity")
        env = {f"EBBTIDE_{name.upper()}": str(getattr(settings, name)) for name in names}
        command = [sys.executable, "-m", "tests.workers.fake_engine", "--tick", str(tick_s)]
        self._process = subprocess.Popen(command, env=os.environ | env | {"OMP_NUM_THREADS": "1"}, cwd=ROOT, stderr=subprocess.DEVNULL)

    def terminate(self) -> int:
        """Asks it to leave; returns its exit status."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(30)

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

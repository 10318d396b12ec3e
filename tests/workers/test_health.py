"""A worker that turns, as does its engine, is well; one whose engine hangs is not, however promptly its page of metrics answers."""

import subprocess
import sys
import time
from pathlib import Path
from threading import Event

import pytest
from prometheus_client import CollectorRegistry, start_http_server
from redis import exceptions

from tests.workers.generation.fake_engine import FakeEngine
from workers import health
from workers.generation.metrics import WorkerMetrics
from workers.queue.connection import connect
from workers.training.metrics import TrainingCollector
from workers.training.worker import ForkingWorker

ROOT = Path(__file__).parents[2]


@pytest.fixture
def serve():
    """Shows a registry on a port."""
    servers = []

    def start(registry):
        servers.append(start_http_server(0, registry=registry, addr="127.0.0.1"))
        return servers[-1][0].server_port

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join(10)


def asked(port):
    command = [sys.executable, "-m", "workers.health", str(port)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)


class HangingEngine(FakeEngine):
    """Its tick ends when it may."""

    def __init__(self):
        super().__init__()
        self.inside, self.may_end = Event(), Event()

    def tick(self):
        self.inside.set()
        assert self.may_end.wait(20)
        return super().tick()


def test_a_stuck_engine_is_found(broker, start_worker, serve, generate_job, eventually, monkeypatch):
    engine = HangingEngine()
    registry = start_worker(engine)._metrics.registry
    port = serve(registry)
    assert asked(port).returncode == 0
    monkeypatch.setattr(health, "TOO_LONG_S", 0.5)
    broker.submit(generate_job())
    assert engine.inside.wait(10)
    told = eventually(lambda: health.trouble(port))
    assert told.startswith("stuck: ")
    assert 'thread="stepping"' in told
    engine.may_end.set()
    monkeypatch.setattr(health, "TOO_LONG_S", 5.0)
    assert eventually(lambda: health.trouble(port) is None)


def test_the_command_says_what_is_wrong(serve, valkey_url):
    metrics = WorkerMetrics(4)
    metrics.watch("redis", time.monotonic)
    metrics.watch("stepping", lambda: time.monotonic() - 100)
    told = asked(serve(metrics.registry))
    assert (told.returncode, told.stderr) == (1, 'stuck: ebbtide_loop_age_seconds{thread="stepping"} 100\n')
    assert "does not tell" in asked(serve(CollectorRegistry())).stderr
    assert "no page of metrics on port 1:" in asked(1).stderr


def test_a_trainer_that_waits_for_redis_is_well_and_counts_its_tries(broker, settings, serve):
    trainer, registry = ForkingWorker(broker, settings), CollectorRegistry()
    registry.register(TrainingCollector(trainer))
    port = serve(registry)
    trainer.connection = connect("redis://127.0.0.1:1/0")
    trainer.turned_at -= 100
    assert "training" in health.trouble(port)
    with pytest.raises(exceptions.ConnectionError):
        trainer.heartbeat()
    assert health.trouble(port) is None
    assert registry.get_sample_value("ebbtide_redis_errors_total") == 1


def test_a_trainer_tells_of_its_loop(broker, settings, serve):
    trainer, registry = ForkingWorker(broker, settings), CollectorRegistry()
    registry.register(TrainingCollector(trainer))
    port = serve(registry)
    assert health.trouble(port) is None
    trainer.turned_at -= 100
    assert "training" in health.trouble(port)
    trainer.heartbeat()
    assert health.trouble(port) is None

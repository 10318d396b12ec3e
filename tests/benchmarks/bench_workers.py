"""One worker against two on one backlog, the time from starting a worker to its first image, and the memory each process holds.

python -m tests.benchmarks.bench_workers [model]     a checkpoint of models/zoo; without one, a tiny untrained model
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rq.suspension import resume, suspend

from models.checkpoints import Store
from models.kernels import KERNELS
from tests.benchmarks.bench_soak import look
from tests.system.house import ROOT, House, OwnValkey, children, opened, until
from tests.tiny_models import publish_tiny
from workers.jobs import GenerateJob
from workers.queue.broker import Broker, BrokerLimits
from workers.queue.connection import connect

JOBS, ROUNDS = 120, 3


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = ROOT / "models" / "zoo"
        model = sys.argv[1] if len(sys.argv) > 1 else "tiny"
        if model == "tiny":
            checkpoints = Path(folder) / "checkpoints"
            publish_tiny(Store(checkpoints), "sngan", "tiny")
        valkey = OwnValkey(Path(folder) / "valkey")
        valkey.start()
        try:
            with opened(valkey.url, checkpoints, Path(folder)) as house:
                bench = Bench(house, valkey, Store(checkpoints), model)
                print(f"{model}, {os.cpu_count()} cores, one torch thread a worker, medians of {ROUNDS} rounds")
                bench.first_image()
                bench.sharing()
        finally:
            valkey.kill()


class Bench:
    """Everything on one Valkey with its append-only file."""

    def __init__(self, house: House, valkey: OwnValkey, store: Store, model: str) -> None:
        self._house, self._valkey = house, valkey
        self._broker = Broker(connect(valkey.url), BrokerLimits())
        self._card = store.card(model)

    def first_image(self) -> None:
        """From starting the process, a job already waiting, to its images; then what the processes hold."""
        waits = []
        for seed in range(ROUNDS):
            job_id = self._broker.submit(self._job(seed, steps=10))
            begun = time.perf_counter()
            worker = self._house.begin_generation()
            until(lambda job_id=job_id: self._broker.view(job_id).status.over)
            waits.append(time.perf_counter() - begun)
            pids = (self._house.processes[0].pid, worker.pid, *children(worker.pid))
            memory = [look(pid, 0, self._valkey.port).rss for pid in pids]
            _end(worker)
        print(f"starting a worker to its first image {statistics.median(waits):.1f} s ({min(waits):.1f} to {max(waits):.1f}; goal 5)")
        print(f"resident memory: API {memory[0]:.0f} MB (goal 100), worker {memory[1]:.0f} MB, its engine {memory[2]:.0f} MB")

    def sharing(self) -> None:
        """The same backlog by one worker and by two; the rounds take turns."""
        rates: dict[int, list[float]] = {1: [], 2: []}
        twice = 0
        for _ in range(ROUNDS):
            for count in rates:
                rate, started_twice = self._share(count)
                rates[count].append(rate)
                twice += started_twice
        one, two = (statistics.median(rates[count]) for count in (1, 2))
        spread = ", ".join(f"{count}: {min(found):.1f} to {max(found):.1f}" for count, found in rates.items())
        print(f"{JOBS} jobs of 4 images, 10 to 300 steps: one worker {one:.1f} jobs/s, two {two:.1f} jobs/s ({spread})")
        print(f"two workers / one worker: {two / one:.2f}; jobs run or delivered twice: {twice}")

    def _share(self, count: int) -> tuple[float, int]:
        suspend(self._broker.redis)
        workers = [self._house.begin_generation() for _ in range(count)]
        until(lambda: sum(worker.state == "suspended" for worker in self._broker.workers()) == count)
        ids = self._broker.submit_many([self._job(seed, steps=10 + 10 * (seed % 30)) for seed in range(JOBS)])
        resume(self._broker.redis)
        until(lambda: self._broker.redis.llen("rq:queue:generate") < JOBS)
        begun = time.perf_counter()
        until(lambda: self._broker.redis.zcard("rq:finished:generate") == JOBS, limit_s=300)
        seconds = time.perf_counter() - begun
        for worker in workers:
            _end(worker)
        twice = sum(self._times(job_id) > 1 for job_id in ids)
        self._broker.redis.flushall()
        return JOBS / seconds, twice

    def _times(self, job_id: str) -> int:
        started = [event for event in self._broker.events(job_id) if event.name == "started"]
        return max(len(started), int(self._broker.redis.xlen(f"rq:results:{job_id}")))

    def _job(self, seed: int, steps: int) -> GenerateJob:
        mala = KERNELS["mala"].model_validate({"kernel": "mala", "steps": steps})
        card = self._card
        told = {"model": card.name, "version": card.version, "digest": card.digest, "sampler": card.default_sampler}
        return GenerateJob.model_validate(told | {"mcmc": mala, "num_images": 4, "seed": seed})


def _end(worker: subprocess.Popen[bytes]) -> None:
    worker.terminate()
    worker.wait(60)


if __name__ == "__main__":
    main()

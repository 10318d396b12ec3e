"""An engine that computes nothing: a job takes as many ticks as its kernel has, and its images are its seed and their index.

Run as a program it is a whole worker process: `python -m tests.workers.generation.fake_engine --tick 0.01` (settings from the environment).
"""

import argparse
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from workers.capacity import Flow
from workers.engine.allocator import keep_freed
from workers.generation.engine_process import EngineProcess
from workers.generation.metrics import WorkerMetrics
from workers.generation.pipe import Pipe
from workers.generation.reports import JobReports
from workers.generation.step_loop import StepLoop, Steps
from workers.generation.worker import BatchWorker
from workers.jobs import ChainReport, Contract, Diagnostics, GenerateJob, Problem, Progress
from workers.messages import Failed, Finished, Observer
from workers.queue.artifacts import Artifacts
from workers.queue.broker import Broker
from workers.settings import WorkerSettings
from workers.tracing import Tracing

CHAIN = ChainReport(energy_first=1.0, energy_last=0.0, acceptance=None)
DIAGNOSTICS = Diagnostics(exact=True, effective_temperature=1.0)
CONTRACT = Contract(device="cpu", instructions="none", torch="none", sampling_reference=64, decoding_reference=64)
POISON, DIVERGES = 2**62, 2**62 + 1  # seeds: the first kills the engine, the second diverges at the first tick


@dataclass
class FakeEngine:
    device = "cpu"
    capacity: int = 64
    tick_s: float = 0.0
    side: int = 4  # of an image, in pixels
    admitted: list[GenerateJob] = field(default_factory=list)
    most_running: int = 0
    _left: dict[str, int] = field(default_factory=dict)
    _jobs: dict[str, tuple[GenerateJob, float | None]] = field(default_factory=dict)
    _outcomes: list[Finished | Failed] = field(default_factory=list)

    @property
    def free(self) -> int:
        return max(0, self.capacity - sum(job.num_images for job, _ in self._jobs.values() if job.mcmc))

    @property
    def waiting(self) -> frozenset[Flow]:
        """Everybody's chains run, but once it is full nobody gets further ones in."""
        if self.free:
            return frozenset()
        return frozenset(Flow(job.caller, job.priority) for job, _ in self._jobs.values() if job.mcmc)

    @property
    def quick(self) -> int:
        return 0

    @property
    def busy(self) -> bool:
        return bool(self._jobs or self._outcomes)

    def admit(self, job_id: str, job: GenerateJob, expires_at: float | None) -> None:
        self.admitted.append(job)
        self._jobs[job_id], self._left[job_id] = (job, expires_at), ticks(job)
        self.most_running = max(self.most_running, len(self._jobs))

    def end_early(self, job_id: str, problem: Problem) -> None:
        if self._jobs.pop(job_id, None):
            self._outcomes.append(Failed(job_id=job_id, problem=problem))

    def tick(self) -> list[Finished | Failed]:
        if self.tick_s:
            time.sleep(self.tick_s)
        for job_id, (job, expires_at) in list(self._jobs.items()):
            assert job.seed != POISON, "poison"
            self._left[job_id] -= 1
            if job.seed == DIVERGES:
                self.end_early(job_id, Problem(reason="diverged", detail="chain 0 at step 1"))
            elif expires_at and expires_at < time.time():
                self.end_early(job_id, Problem(reason="expired", detail="the deadline passed while it ran"))
            elif self._left[job_id] <= 0:
                del self._jobs[job_id]
                self._outcomes.append(finished(job_id, job, self.side))
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def progress(self) -> dict[str, Progress]:
        totals = {job_id: ticks(job) for job_id, (job, _) in self._jobs.items()}
        return {job_id: Progress(done=total - self._left[job_id], total=total) for job_id, total in totals.items()}


def one_thread() -> int:
    return 1


def ticks(job: GenerateJob) -> int:
    return job.mcmc.ticks if job.mcmc else 1


def finished(job_id: str, job: GenerateJob, side: int) -> Finished:
    shades = np.arange(job.seed % 200, job.seed % 200 + job.num_images, dtype=np.uint8)
    return Finished(
        job_id=job_id,
        shape=(job.num_images, side, side, 1),
        pixels=shades.repeat(side * side).tobytes(),
        chains=(CHAIN,) * job.num_images,
        diagnostics=DIAGNOSTICS,
        contract=CONTRACT,
        sampling_s=0.0,
    )


class EngineThread(threading.Thread):
    """Steps an engine that the test can look at; in a process of its own it could not."""

    pid, exitcode = None, None

    def __init__(self, make: Callable[[Observer], Steps], pipe: Pipe) -> None:
        super().__init__(name="engine")
        self._pipe, self._loop = pipe, StepLoop(make, one_thread, pipe)

    def run(self) -> None:
        try:
            self._loop.run()
        except AssertionError:
            return  # as a process that dies
        finally:
            self._pipe.close()

    def kill(self) -> None:
        assert not self.is_alive(), "the engine did not leave"


def worker(engine: FakeEngine, settings: WorkerSettings) -> BatchWorker:
    """A worker around an engine in a thread."""
    return worker_of(beside(engine), settings)


def beside(engine: Steps) -> EngineProcess:
    return beside_made(lambda observer: engine)


def beside_made(make: Callable[[Observer], Steps]) -> EngineProcess:
    worker_end, engine_end = Pipe.pair()
    thread = EngineThread(make, engine_end)
    thread.start()
    return EngineProcess(worker_end, thread)


def worker_of(engine: EngineProcess, settings: WorkerSettings, tracing: Tracing | None = None) -> BatchWorker:
    broker = Broker.connect(settings)
    return BatchWorker(
        engine,
        broker,
        Artifacts.open(settings.artifacts, broker.redis),
        settings,
        metrics=WorkerMetrics(settings.capacity),
        reports=JobReports(tracing),
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tick", type=float, default=0.0)
    parser.add_argument("--side", type=int, default=4)
    given, settings = parser.parse_args(), WorkerSettings()
    keep_freed()  # as the worker does
    with EngineProcess.start(lambda observer: FakeEngine(settings.capacity, given.tick, given.side), one_thread) as engine:
        worker_of(engine, settings).work()


if __name__ == "__main__":
    main()

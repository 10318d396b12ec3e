"""`python -m workers.generation`: one device, the chains of all jobs in one running batch, in a process beside the one that serves them."""

import argparse
import os
from collections.abc import Sequence
from functools import partial

from prometheus_client import start_http_server

from models.checkpoints import Store
from workers.allocator import keep_freed
from workers.artifacts import Artifacts
from workers.batch_worker import BatchWorker
from workers.broker import Broker
from workers.engine_process import EngineProcess
from workers.metrics import WorkerMetrics
from workers.outcomes import Observer
from workers.settings import WorkerSettings
from workers.stepping import Steps


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves the queues until SIGTERM or SIGINT, then finishes what runs."""
    parser = argparse.ArgumentParser(prog="python -m workers.generation", description=__doc__)
    parser.add_argument("--burst", action="store_true", help="leave when the queues are empty")
    given = parser.parse_args(arguments)
    settings = WorkerSettings()
    keep_freed()  # in both processes
    with EngineProcess.start(partial(make_engine, settings)) as engine:
        assemble(settings, engine).work(burst=given.burst)


def make_engine(settings: WorkerSettings, observer: Observer) -> Steps:
    """The engine, in the process that it has for itself: torch is loaded here and nowhere else."""
    os.environ.setdefault("OMP_NUM_THREADS", str(settings.threads))  # read by torch when it is first imported
    import torch

    from workers.engine import Engine, EngineSettings

    torch.set_num_threads(settings.threads)
    limits = EngineSettings(settings.capacity, device_of(settings.device), checkpoint_bytes=settings.checkpoint_bytes)
    return Engine(Store(settings.checkpoints), limits, observer)


def assemble(settings: WorkerSettings, engine: EngineProcess) -> BatchWorker:
    """A worker with its place in Redis and its page of metrics; waits for Redis and the engine to be there."""
    broker = Broker.connect_patiently(settings)
    metrics = WorkerMetrics(settings.capacity)
    metrics.watch_process("engine", engine.pid)
    if settings.metrics_port:
        start_http_server(settings.metrics_port, settings.metrics_host, registry=metrics.registry)
    return BatchWorker(engine, broker, Artifacts.open(settings.artifacts, broker.redis), settings, metrics)


def device_of(wanted: str) -> str:
    """`auto` is the GPU where there is one."""
    import torch

    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def generate(job: dict[str, object]) -> None:
    """What a generation job names as its function. Only the batch worker runs such jobs, and it never calls this."""
    raise RuntimeError("generation jobs are run by `python -m workers.generation`, not by a stock RQ worker")


if __name__ == "__main__":
    main()

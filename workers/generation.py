"""`python -m workers.generation`: one process, one device, the chains of all jobs in one running batch."""

import argparse
import os
from collections.abc import Sequence

from prometheus_client import start_http_server

from models.checkpoints import Store
from workers.allocator import keep_freed
from workers.artifacts import Artifacts
from workers.batch_worker import BatchWorker
from workers.broker import Broker
from workers.metrics import WorkerMetrics
from workers.settings import WorkerSettings


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves the queues until SIGTERM or SIGINT, then finishes what runs."""
    parser = argparse.ArgumentParser(prog="python -m workers.generation", description=__doc__)
    parser.add_argument("--burst", action="store_true", help="leave when the queues are empty")
    given = parser.parse_args(arguments)
    settings = WorkerSettings()
    worker = assemble(settings)
    worker.work(burst=given.burst)


def assemble(settings: WorkerSettings) -> BatchWorker:
    """A worker with its engine, its place in Redis and its page of metrics; waits for Redis to be there."""
    keep_freed()
    os.environ.setdefault("OMP_NUM_THREADS", str(settings.threads))  # read by torch when it is first imported
    import torch

    from workers.engine import Engine, EngineSettings

    torch.set_num_threads(settings.threads)
    settings = settings.model_copy(update={"device": device_of(settings.device)})
    broker = Broker.connect_patiently(settings)
    metrics = WorkerMetrics(settings.capacity)
    if settings.metrics_port:
        start_http_server(settings.metrics_port, settings.metrics_host, registry=metrics.registry)
    limits = EngineSettings(settings.capacity, settings.device, checkpoint_bytes=settings.checkpoint_bytes)
    engine = Engine(Store(settings.checkpoints), limits, metrics)
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

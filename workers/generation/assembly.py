"""The parts of a generation worker put together: the engine in its process, the RQ worker beside it."""

import os

from prometheus_client import start_http_server

from models.checkpoints import Store
from workers.generation.engine_process import EngineProcess
from workers.generation.metrics import WorkerMetrics
from workers.generation.step_loop import Steps
from workers.generation.worker import BatchWorker
from workers.messages import Observer
from workers.queue.artifacts import Artifacts
from workers.queue.broker import Broker
from workers.settings import WorkerSettings


def make_engine(settings: WorkerSettings, observer: Observer) -> Steps:
    """The engine, in the process that it has for itself: torch is loaded here and nowhere else."""
    os.environ.setdefault("OMP_NUM_THREADS", str(settings.threads))  # read by torch when it is first imported
    import torch

    from workers.engine.engine import Engine, EngineSettings

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

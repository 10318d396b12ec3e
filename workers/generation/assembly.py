"""The parts of a generation worker put together: the engine in its process, the RQ worker beside it."""

from prometheus_client import start_http_server

from models.checkpoints import StoreUnavailable
from workers import computing
from workers.bucket import open_store
from workers.generation.engine_process import EngineProcess
from workers.generation.metrics import WorkerMetrics
from workers.generation.reports import JobReports
from workers.generation.step_loop import Steps
from workers.generation.threads import SharedThreads
from workers.generation.worker import BatchWorker
from workers.messages import Observer
from workers.queue.artifacts import ArtifactError, Artifacts
from workers.queue.broker import Broker
from workers.room import RoomCollector
from workers.settings import WorkerSettings
from workers.tracing import Tracing


def start_engine(settings: WorkerSettings) -> EngineProcess:
    """The engine in a process of its own, which alone loads torch: this one stays free of it, so that it may fork."""
    return EngineProcess.start(lambda observer: _engine(settings, observer), SharedThreads(settings, _set_threads).share)


def assemble(settings: WorkerSettings, engine: EngineProcess) -> BatchWorker:
    """A worker with its page of metrics; waits until Redis and the engine are there."""
    broker = Broker.connect_patiently(settings)
    artifacts = Artifacts.open(settings.artifacts, broker.redis)
    try:
        artifacts.check()
    except ArtifactError as error:
        raise SystemExit(str(error)) from None
    metrics = WorkerMetrics(settings.capacity)
    metrics.watch_process("engine", engine.pid)
    metrics.watch_threads(lambda: engine.threads)
    metrics.registry.register(RoomCollector({}))
    if settings.metrics_port:
        start_http_server(settings.metrics_port, settings.metrics_host, registry=metrics.registry)
    reports = JobReports(Tracing.open("ebbtide-generation"))
    return BatchWorker(engine, broker, artifacts, settings, metrics=metrics, reports=reports)


def _engine(settings: WorkerSettings, observer: Observer) -> Steps:
    device = computing.begin(settings)
    from workers.engine.engine import Engine, EngineSettings

    limits = EngineSettings(settings.capacity, str(device), checkpoint_bytes=settings.checkpoint_bytes)
    try:
        store = open_store(settings)
    except StoreUnavailable as error:
        raise SystemExit(str(error)) from None
    return Engine(store, limits, observer)


def _set_threads(threads: int) -> None:
    from models import device

    device.set_threads(threads)

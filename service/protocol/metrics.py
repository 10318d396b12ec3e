"""The Prometheus metrics of the API: one registry for each app; all names and buckets are defined here.

`fastapi.telemetry` is not used for them: it exports through an OpenTelemetry SDK and has no page that Prometheus reads. Where an SDK is
configured, it works beside them.
"""

import platform
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workers import logs
from workers.queue.broker import QueueView, WorkerView
from workers.queue.routing import FORKED_QUEUES
from workers.queue.views import StoreView
from workers.version import version

# An answer takes milliseconds for `prior` and minutes for long chains.
REQUEST_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 900)
METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"})
WORKER_KINDS = ("generate", "train")
KEY = "ebbtide.key"  # in the scope of a request: the name of its API key
MOST_KEYS = 200  # that have figures of their own
HANG_UP = 499  # nginx's status where the client closed the connection before the answer


@dataclass(frozen=True)
class QueueState:
    """The queues and workers in Redis at one moment."""

    queues: tuple[QueueView, ...]
    workers: tuple[WorkerView, ...]


class QueueCollector(Collector):
    """Exports queues and workers from `state`, and what Redis holds from `store`; None means that Redis did not answer."""

    def __init__(self) -> None:
        self.state: QueueState | None = None
        self.store: StoreView | None = None

    def describe(self) -> Iterable[Metric]:
        return _families()

    def collect(self) -> Iterator[Metric]:
        up, depth, oldest, backlog, work, alive, heartbeat = families = _families()
        up.add_metric([], 0 if self.state is None else 1)
        if self.state is None:
            yield up
            return
        for queue in self.state.queues:
            depth.add_metric([queue.name], queue.depth)
            oldest.add_metric([queue.name], queue.oldest_age_s or 0)
            backlog.add_metric([queue.name], queue.backlog_chain_steps or 0)
            if queue.name in FORKED_QUEUES:
                work.add_metric([queue.name], queue.backlog_tflop)
        for kind in WORKER_KINDS:
            of_kind = [worker for worker in self.state.workers if worker.kind == kind]
            alive.add_metric([kind], len(of_kind))
            if of_kind:
                heartbeat.add_metric([kind], max(worker.heartbeat_age_s for worker in of_kind))
        yield from families
        if self.store is not None:
            yield GaugeMetricFamily("ebbtide_results_bytes", "Bytes kept of jobs, images included", self.store.kept)
            yield GaugeMetricFamily("ebbtide_redis_memory_bytes", "Memory that Redis uses", self.store.used)
            if self.store.limit:
                yield GaugeMetricFamily("ebbtide_redis_memory_limit_bytes", "Memory that Redis may use", self.store.limit)


def _families() -> tuple[GaugeMetricFamily, ...]:
    return (
        GaugeMetricFamily("ebbtide_redis_up", "Whether Redis answered this scrape"),
        GaugeMetricFamily("ebbtide_queue_depth", "Jobs waiting", labels=["queue"]),
        GaugeMetricFamily("ebbtide_queue_oldest_age_seconds", "Age of the job that waits longest", labels=["queue"]),
        GaugeMetricFamily("ebbtide_queue_backlog_chain_steps", "Chain-steps that waiting jobs ask for", labels=["queue"]),
        GaugeMetricFamily(
            "ebbtide_training_backlog_tflop", "Operations that waiting training and calibration jobs ask for, in 10^12", labels=["queue"]
        ),
        GaugeMetricFamily("ebbtide_workers_alive", "Workers whose heartbeat is fresh", labels=["kind"]),
        GaugeMetricFamily("ebbtide_worker_heartbeat_age_seconds", "Age of the stalest heartbeat among live workers", labels=["kind"]),
    )


class ApiMetrics:
    """The metrics of one app."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("ebbtide_http_requests_total", "Requests answered", ["route", "method", "status"], registry=self.registry)
        self.duration = Histogram(
            "ebbtide_http_request_duration_seconds",
            "From the request's first byte to the answer's last",
            ["route", "method", "status"],
            buckets=REQUEST_BUCKETS,
            registry=self.registry,
        )
        self.in_progress = Gauge("ebbtide_http_requests_in_progress", "Requests being answered", registry=self.registry)
        self.rejected = Counter("ebbtide_rejected_total", "Error answers, by reason", ["reason"], registry=self.registry)
        self.event_streams = Gauge("ebbtide_event_streams", "Open event streams", registry=self.registry)
        about = "Requests answered, by the name of their API key and the class of their status"
        self.by_key = Counter("ebbtide_key_requests_total", about, ["key", "status"], registry=self.registry)
        self.connections = Gauge("ebbtide_connections", "Open connections", registry=self.registry)
        self._keys: set[str] = set()
        self.queues = QueueCollector()
        self.registry.register(self.queues)
        Info("ebbtide_build", "What is running", registry=self.registry).info({"version": version(), "python": platform.python_version()})
        ProcessCollector(registry=self.registry)

    def answered(self, scope: Scope, status: int, seconds: float) -> None:
        """Counts an answer under its route's template, such as `/jobs/{job_id}`."""
        route = getattr(scope.get("route"), "path", "unmatched")
        method = scope["method"] if scope["method"] in METHODS else "other"
        self.requests.labels(route, method, status).inc()
        self.duration.labels(route, method, status).observe(seconds)
        if (key := scope.get(KEY)) is not None:
            if len(self._keys) < MOST_KEYS:
                self._keys.add(key)
            self.by_key.labels(key if key in self._keys else "other", f"{status // 100}xx").inc()


class MetricsMiddleware:
    """Times and counts each request under the template of its route."""

    def __init__(self, app: ASGIApp, metrics: ApiMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        logs.job.set("")  # a pipelined request begins in the context of the one before it
        status = HANG_UP
        begun = time.perf_counter()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._metrics.in_progress.inc()
        try:
            await self._app(scope, receive, watched)
        finally:
            self._metrics.in_progress.dec()
            self._metrics.answered(scope, status, time.perf_counter() - begun)

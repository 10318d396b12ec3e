"""OpenTelemetry traces across the queue: a job carries the trace context of its request, and the worker's spans continue it.

Off, without importing the SDK, unless OTEL_EXPORTER_OTLP_ENDPOINT names a collector.
"""

import os
import time
from collections.abc import Mapping, Set
from typing import TYPE_CHECKING

from workers.jobs import Job, Problem
from workers.version import version

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
TICK_EVERY_S = 1.0  # a tick takes milliseconds: one of a second is recorded


class Tracing:
    """Spans of one process, by the provider given."""

    def __init__(self, provider: "TracerProvider") -> None:
        self.provider = provider
        self._tracer = provider.get_tracer("ebbtide", version())
        self._spans: dict[str, Span] = {}  # of the jobs that run, by execution
        self._tick_at = 0.0

    @staticmethod
    def open(service: str) -> "Tracing | None":
        """Tracing to the collector that the environment names; None where it names none."""
        if not any(os.environ.get(name) for name in ENDPOINTS) or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
            return None
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise SystemExit(f"{ENDPOINTS[0]} is set, but {error.name} is not installed: pip install 'ebbtide[telemetry]'") from None
        named = {"service.name": os.environ.get("OTEL_SERVICE_NAME", service), "service.version": version()}
        provider = TracerProvider(resource=Resource.create(named))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return Tracing(provider)

    @staticmethod
    def traceparent() -> str:
        """The context of the span in which this is called, as W3C Trace Context writes it."""
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier)
        return carrier.get("traceparent", "")

    @property
    def labels(self) -> Set[str]:
        """Of the jobs that run."""
        return self._spans.keys()

    def begin(self, label: str, job_id: str, job: Job, started_at: float) -> None:
        """A job starts; `label` names this run of it."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract({"traceparent": job.traceparent})
        attributes = {
            "messaging.system": "rq",
            "messaging.operation.type": "process",
            "messaging.destination.name": job.queue,
            "messaging.message.id": job_id,
            "ebbtide.model": job.model_name,
            "ebbtide.job": job.describe(),
        }
        self._spans[label] = self._tracer.start_span(
            f"process {job.queue}", parent, SpanKind.CONSUMER, attributes, start_time=int(started_at * 1e9)
        )

    def tick(self, seconds: float) -> None:
        """The engine has made a tick: a span that links to the jobs in it, once a second."""
        if not self._spans or time.monotonic() - self._tick_at < TICK_EVERY_S:
            return
        from opentelemetry.trace import Link

        self._tick_at, now = time.monotonic(), time.time_ns()
        links = [Link(span.get_span_context()) for span in self._spans.values()]
        span = self._tracer.start_span("tick", attributes={"ebbtide.jobs": len(links)}, links=links, start_time=now - int(seconds * 1e9))
        span.end(now)

    def end(self, label: str, problem: Problem | None, figures: Mapping[str, float] | None = None) -> None:
        """A job has ended, well or with a problem."""
        span = self._spans.pop(label, None)
        if span is None:
            return
        from opentelemetry.trace import StatusCode

        span.set_attributes({f"ebbtide.{name}": value for name, value in (figures or {}).items()})
        span.set_attribute("ebbtide.outcome", problem.reason if problem else "finished")
        if problem is not None:
            span.set_status(StatusCode.ERROR, problem.detail)
        span.end()

    def close(self) -> None:
        """Sends what is left."""
        self.provider.shutdown()

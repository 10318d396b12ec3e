"""One trace from a request to its chains: the API's span, the job's span in the worker, and ticks that link to it."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from models.checkpoints import Store
from service.app import create_app
from service.settings import Settings
from tests.service.conftest import LIMIT_S, Server
from tests.system.house import ROOT, opened, until
from tests.workers.generation.fake_engine import beside_made, worker_of
from workers.engine.engine import Engine, EngineSettings
from workers.generation.worker import BatchWorker
from workers.tracing import Tracing

pytestmark = pytest.mark.system
ASKED = {"model": "tiny", "num_images": 2, "mcmc": {"kernel": "mala", "steps": 400}, "seed": 7}


@pytest.fixture
def traced(
    valkey_url: str, redis: Any, tiny_checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[httpx.Client, Callable[[], dict[str, list[ReadableSpan]]]]]:
    """A client of an API and a worker with a real engine, all in this process, and the spans that have ended, by name."""
    monkeypatch.setattr(BatchWorker, "handle_signals", lambda self: None)  # signals belong to the main thread
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    settings = Settings(redis_url=valkey_url, data=tmp_path, checkpoints=tiny_checkpoints, worker_look_s=0, capacity=16, device="cpu")
    store = Store(tiny_checkpoints)
    app = create_app(settings, store=store, tracing=Tracing(provider))
    server = Server(app, settings)
    engine = beside_made(lambda observer: Engine(store, EngineSettings(capacity=16), observer))
    worker = worker_of(engine, settings, Tracing(provider))
    threads = [threading.Thread(target=run, daemon=True) for run in (server.run, worker.work)]
    for thread in threads:
        thread.start()
    assert server.listening.wait(LIMIT_S)

    def spans() -> dict[str, list[ReadableSpan]]:
        found: dict[str, list[ReadableSpan]] = {}
        for span in exporter.get_finished_spans():
            found.setdefault(span.name, []).append(span)
        return found

    with httpx.Client(base_url=server.address, timeout=60) as client:
        until(lambda: client.get("/readyz").status_code == 200)
        yield client, spans
    worker.stop()
    server.should_exit = True
    for thread in threads:
        thread.join(LIMIT_S)
    worker.connection.close()
    app.state.dependencies.broker.redis.close()


def test_a_request_its_job_and_its_ticks_are_one_trace(traced) -> None:
    client, spans = traced
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answer = client.post("/generate", json=ASKED, headers={"traceparent": parent})
    assert answer.status_code == 200
    until(lambda: "process generate" in spans() and "POST /generate" in spans())
    (asked,), (job,) = spans()["POST /generate"], spans()["process generate"]
    assert asked.parent.span_id == int("b7ad6b7169203331", 16)
    assert job.parent.span_id == asked.context.span_id
    assert {span.context.trace_id for span in (asked, job)} == {int("0af7651916cd43dd8448eb211c80319c", 16)}
    assert (job.kind, job.attributes["messaging.message.id"]) == (SpanKind.CONSUMER, answer.headers["x-ebbtide-job"])
    assert (job.attributes["ebbtide.model"], job.attributes["ebbtide.outcome"]) == ("tiny", "finished")
    assert 0 < job.attributes["ebbtide.sampling_s"] <= (job.end_time - job.start_time) / 1e9 + 0.1
    assert [link.context.span_id for link in spans()["tick"][0].links] == [job.context.span_id]


def test_a_failed_job_is_an_error_in_its_trace(traced) -> None:
    client, spans = traced
    job = client.post("/generate", json=ASKED | {"mcmc": {"steps": 10_000}}, headers={"Prefer": "respond-async"}).json()["id"]
    until(lambda: client.get(f"/jobs/{job}").json()["status"] == "running")
    client.delete(f"/jobs/{job}")
    until(lambda: "process generate" in spans())
    (span,) = spans()["process generate"]
    assert (span.status.status_code, span.attributes["ebbtide.outcome"]) == (StatusCode.ERROR, "canceled")


def test_a_trace_changes_no_byte_of_an_image_and_is_told_to_nobody(traced) -> None:
    client, _ = traced
    pictures = [client.post("/generate", json=ASKED, headers=headers) for headers in ({}, {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"})]
    assert pictures[0].content == pictures[1].content
    assert "traceparent" not in client.get(f"/jobs/{pictures[1].headers['x-ebbtide-job']}").text


def test_without_a_collector_nothing_of_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert Tracing.open("x") is None
    look = "import sys, workers.generation.assembly, service.app as api; api.create_app(); print('opentelemetry.sdk.trace' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"


def test_processes_log_json_with_the_job_of_each_line(
    valkey_url: str, redis: Any, tiny_checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EBBTIDE_LOG_FORMAT", "json")
    monkeypatch.setenv("EBBTIDE_LOG_LEVEL", "debug")
    with opened(valkey_url, tiny_checkpoints, tmp_path / "data") as house:
        house.env |= {"EBBTIDE_LOG_FORMAT": "json", "EBBTIDE_LOG_LEVEL": "debug"}
        files = {name: (tmp_path / name).open("w+") for name in ("api", "worker")}
        for name, (module, *options) in {"api": ("service", "--port", str(house.free_port())), "worker": ("workers.generation",)}.items():
            command = [sys.executable, "-m", module, *options]
            house.processes.append(subprocess.Popen(command, env=house.env, cwd=ROOT, stderr=files[name]))
            if name == "api":
                house.client.base_url = f"http://127.0.0.1:{options[1]}"
                until(lambda: _alive(house.client))
        until(lambda: house.client.get("/readyz").status_code == 200)
        job = house.submit(model="tiny", mcmc={"steps": 2})
        house.finished(job)
        for name, message in (("api", "accepted"), ("worker", "finished")):
            lines = until(lambda name=name, message=message: _about(files[name], job, message))
            assert all({"time", "level", "logger", "message", "process"} <= line.keys() for line in lines)
        assert lines[0]["model"] == "tiny"
        for file in files.values():
            file.close()


def _alive(client: httpx.Client) -> bool:
    try:
        return client.get("/livez").status_code == 200
    except httpx.TransportError:
        return False


def _about(file: Any, job: str, message: str) -> list[dict[str, Any]]:
    """The lines about a job that hold these words; every line must be JSON."""
    file.seek(0)
    lines = [json.loads(line) for line in file.read().splitlines()]
    return [line for line in lines if line.get("job") == job and message in line["message"]]

"""A real uvicorn, and a painter: a worker that finishes jobs through RQ and the broker, without torch."""

import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from rq.job import Job, JobStatus
from rq.results import Result
from rq.serializers import JSONSerializer

from models.checkpoints import Store
from service.app import create_app
from service.client import Client
from service.protocol.connection import bounded
from service.settings import Settings
from workers.jobs import (
    AnyResult,
    CalibrateJob,
    CalibrateResult,
    ChainReport,
    Diagnostics,
    GenerateJob,
    GenerateResult,
    Timings,
    TrainJob,
    TrainResult,
)
from workers.queue import keys
from workers.queue.artifacts import Artifacts
from workers.queue.broker import Broker
from workers.queue.routing import QUEUES

LIMIT_S = 10.0


def png(width: int = 1) -> bytes:
    """A black picture of one row."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, 1, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(width + 1))) + chunk(b"IEND", b"")


class Painter:
    """Takes jobs while `working` is set; fails the next one with `failure`, if there is one."""

    def __init__(self, broker: Broker, artifacts: Artifacts) -> None:
        self._broker, self._artifacts, self._redis = broker, artifacts, broker.redis
        self.working = threading.Event()
        self.failure: str | None = None
        self._taking = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self.appear()
        self.working.set()
        self._thread.start()

    def rest(self) -> None:
        """Takes no more jobs until `working` is set."""
        with self._taking:
            self.working.clear()

    def stop(self) -> None:
        self._stopped.set()
        self.working.set()
        self._thread.join(LIMIT_S)

    def appear(self) -> None:
        """Registers as one of RQ's workers."""
        now = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
        self._redis.hset("rq:worker:painter", mapping={"last_heartbeat": now, "queues": "generate", "state": "idle"})
        self._redis.sadd("rq:workers", "rq:worker:painter")

    def disappear(self) -> None:
        self._redis.delete("rq:worker:painter")
        self._redis.srem("rq:workers", "rq:worker:painter")

    def take(self) -> Job | None:
        """Starts the next waiting job."""
        for queue in QUEUES:
            if (job_id := self._redis.lpop(f"rq:queue:{queue}")) is not None:
                job = Job.fetch(job_id.decode(), connection=self._redis, serializer=JSONSerializer)
                job.set_status(JobStatus.STARTED)
                self._redis.hincrby(keys.BACKLOG, queue, -int(self._redis.hget(job.key, keys.COST) or 0))
                self._redis.hset(job.key, mapping={"started_at": time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())})
                self._broker.publish(job.id, "started", {})
                return job
        return None

    def finish(self, job: Job) -> None:
        """Finishes a started job with black images, or fails it."""
        asked = self._broker.view(job.id).job
        self._broker.report_progress(job.id, done=1, total=2)
        if self.failure is not None:
            Result.create_failure(job, 60, self.failure)
            self._end(job, JobStatus.FAILED)
            return
        makers = {GenerateJob: self._paint, TrainJob: self._train, CalibrateJob: self._calibrate}
        result = makers[type(asked)](job.id, asked)
        Result.create(job, Result.Type.SUCCESSFUL, 60, return_value=result.model_dump(mode="json"))
        self._end(job, JobStatus.FINISHED)

    def _paint(self, job_id: str, asked: GenerateJob) -> AnyResult:
        files = {f"{index}.png": png() for index in range(asked.num_images)}
        if asked.num_images > 1:
            files["grid.png"] = png(asked.num_images)
        self._artifacts.put_many(job_id, files, 60)
        chain = ChainReport(energy_first=None, energy_last=None, acceptance=None)
        return GenerateResult(
            artifacts=tuple(files),
            diagnostics=Diagnostics(exact=None, effective_temperature=1.0),
            chains=(chain,) * asked.num_images,
            timings=Timings(queue_s=0, sampling_s=0, encoding_s=0),
            worker="painter",
            device="cpu",
        )

    def _train(self, job_id: str, asked: TrainJob) -> AnyResult:
        self._broker.publish(job_id, "metrics", {"step": asked.steps, "loss": 0.5})
        self._artifacts.put(job_id, "sample-1.png", png(), 60)
        return TrainResult(model=asked.name, version=1, digest="0" * 64, default_version=1, seconds=1, artifacts=("sample-1.png",))

    def _calibrate(self, job_id: str, asked: CalibrateJob) -> AnyResult:
        return CalibrateResult(
            model=asked.model, version=asked.version + 1, digest="0" * 64, default_version=1, fid_prior=9, fid_reweighted=6
        )

    def _end(self, job: Job, status: JobStatus) -> None:
        job.set_status(status)
        self._redis.publish(keys.ENDED, job.id)

    def _run(self) -> None:
        while not self._stopped.is_set():
            self.working.wait()
            with self._taking:
                job = self.take() if self.working.is_set() else None
            if job is not None:
                self.finish(job)
            else:
                self._stopped.wait(0.002)


CARD = {
    "name": "toy",
    "version": 1,
    "family": "sngan",
    "description": "a card without weights",
    "image_shape": [1, 28, 28],
    "latent_shape": [8],
    "networks": {},
    "samplers": {"prior": None, "ddls": {"kernel": "mala", "steps": 40, "step_size": 0.2}},
    "default_sampler": "ddls",
    "training": {"command": "none", "dataset": "digits", "steps": 1, "seed": 0, "seconds": 1, "torch": "2"},
    "digest": "a" * 64,
}


@pytest.fixture(scope="session")
def settings(valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(redis_url=valkey_url, data=tmp_path_factory.mktemp("data"), event_poll_s=0.01, worker_look_s=0)


@pytest.fixture(scope="session")
def store(settings: Settings) -> Store:
    """Two versions of `toy`, the second with samples and a calibration."""
    for version in (1, 2):
        folder = settings.checkpoints / "toy" / str(version)
        folder.mkdir(parents=True)
        needed = {"ddls": "never calibrated"} if version == 2 else {}
        (folder / "card.json").write_text(json.dumps(CARD | {"version": version, "needs_calibration": needed}))
    (folder / "samples.png").write_bytes(png(3))
    (folder / "reliability.png").write_bytes(png(2))
    return Store(settings.checkpoints, settings.data / "nothing-shipped")


class Server(uvicorn.Server):
    """Sets `listening` once it listens at `address`."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        http, head = bounded(settings, app.state.dependencies.metrics), settings.max_header_bytes
        config = uvicorn.Config(app, port=0, http=http, ws="none", h11_max_incomplete_event_size=head, log_level="warning")
        config.timeout_graceful_shutdown = 1
        super().__init__(config)
        self.listening = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @property
    def address(self) -> str:
        return "http://127.0.0.1:{1}".format(*self.servers[0].sockets[0].getsockname())


@contextmanager
def serving(settings: Settings, store: Store) -> Iterator[str]:
    """The address of an app on a port of its own."""
    app = create_app(settings, store=store)
    server = Server(app, settings)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        assert server.listening.wait(LIMIT_S)
        yield server.address
    finally:
        server.should_exit = True
        thread.join(LIMIT_S)
        app.state.dependencies.broker.redis.close()


@pytest.fixture(scope="session")
def address(settings: Settings, store: Store) -> Iterator[str]:
    with serving(settings, store) as address:
        yield address


@pytest.fixture
def painter(broker: Broker) -> Iterator[Painter]:
    painter = Painter(broker, Artifacts.open("", broker.redis))
    painter.start()
    yield painter
    painter.stop()


@pytest.fixture(scope="session")
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=LIMIT_S) as client:
        yield client


@pytest.fixture
def api(client: httpx.Client, broker: Broker) -> httpx.Client:
    """A client of an API whose Redis is empty."""
    return client


@pytest.fixture
def ebbtide(address: str, api: httpx.Client) -> Iterator[Client]:
    """The Python client of that API."""
    with Client(address) as client:
        yield client


@pytest.fixture
def serve(store: Store) -> Iterator[Callable[[Settings], httpx.Client]]:
    """Starts apps with other settings."""
    with ExitStack() as stack:

        def start(settings: Settings) -> httpx.Client:
            address = stack.enter_context(serving(settings, store))
            return stack.enter_context(httpx.Client(base_url=address, timeout=LIMIT_S))

        yield start

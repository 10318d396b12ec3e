"""Processes that talk through Redis, and what a test asks of them."""

import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from redis import Redis

from service.command.valkey import valkey_command
from workers.queue.broker import Broker, BrokerLimits

ROOT = Path(__file__).parents[2]
PATIENCE_S = 90.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(question: Callable[[], Any], *, limit_s: float = PATIENCE_S) -> Any:
    give_up = time.monotonic() + limit_s
    while not (answer := question()):
        assert time.monotonic() < give_up, f"still {answer!r} after {limit_s} s"
        time.sleep(0.02)  # between two looks, never instead of one
    return answer


def children(pid: int) -> list[int]:
    """Processes that a process has started, such as a worker its engine; none where it is gone."""
    try:
        return [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    except FileNotFoundError:
        return []


def figures(page: str) -> dict[str, float]:
    """The samples of a page of metrics, by name and labels."""
    lines = (line.rpartition(" ") for line in page.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


@dataclass
class House:
    """An API, what was started beside it, and a client at the door."""

    env: dict[str, str]
    client: httpx.Client
    redis: Redis
    port: int
    root: Path = ROOT  # of the sources that the processes run
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    pages: dict[subprocess.Popen[bytes], int] = field(default_factory=dict)  # where each generation worker shows its metrics

    free_port = staticmethod(free_port)
    until = staticmethod(until)

    def start(self, *module_and_arguments: str, **env: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", *module_and_arguments]
        self.processes.append(subprocess.Popen(command, env=self.env | env, cwd=self.root))
        return self.processes[-1]

    def start_api(self, port: int | None = None, **env: str) -> subprocess.Popen[bytes]:
        """An API that answers."""
        port = port or self.port
        process = self.start("service", "--log-level", "warning", "--port", str(port), **env)
        until(lambda: _answers(f"http://127.0.0.1:{port}/livez"))
        return process

    def begin_generation(self, module: str = "workers.generation", **env: str) -> subprocess.Popen[bytes]:
        """A worker that may not be ready yet."""
        port = free_port()
        process = self.start(module, **{"EBBTIDE_METRICS_PORT": str(port)} | env)
        self.pages[process] = int(env.get("EBBTIDE_METRICS_PORT", port))
        return process

    def start_generation(self, module: str = "workers.generation", **env: str) -> subprocess.Popen[bytes]:
        """A worker that is ready."""
        before = self.workers()
        process = self.begin_generation(module, **env)
        until(lambda: self.workers() > before)
        return process

    def workers(self) -> int:
        """How many generation workers the API knows."""
        return int(self.metrics()['ebbtide_workers_alive{kind="generate"}'])

    def metrics(self) -> dict[str, float]:
        return figures(self.client.get("/metrics").text)

    def page(self, worker: subprocess.Popen[bytes]) -> dict[str, float]:
        """What a worker exports."""
        return figures(httpx.get(f"http://127.0.0.1:{self.pages[worker]}/metrics").text)

    def events(self, job_id: str) -> list[str]:
        """Names of what has happened to a job."""
        return [event.name for event in Broker(self.redis, BrokerLimits()).events(job_id)]

    def times(self, job_id: str, name: str) -> list[float]:
        """When events of a name happened to a job, in seconds since 1970: Redis writes it into an event's id."""
        events = Broker(self.redis, BrokerLimits()).events(job_id)
        return [int(event.id.partition("-")[0]) / 1000 for event in events if event.name == name]

    def submit(self, **request: Any) -> str:
        """A job's id."""
        answer = self.client.post("/generate", json=request, headers={"Prefer": "respond-async"})
        assert answer.status_code == 202, answer.text
        return answer.headers["X-Ebbtide-Job"]

    def submit_all(self, requests: Iterable[dict[str, Any]]) -> list[str]:
        """Ids of jobs sent by many callers at once."""
        with ThreadPoolExecutor(8) as callers:
            return list(callers.map(lambda request: self.submit(**request), requests))

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.client.get(f"/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        view: dict[str, Any] = answer.json()
        return view

    def jobs(self) -> dict[str, dict[str, Any]]:
        """All recent jobs by id."""
        return {view["id"]: view for view in self.client.get("/jobs", params={"limit": 200}).json()["jobs"]}

    def statuses(self, ids: Iterable[str] | None = None) -> Counter[str]:
        jobs = self.jobs()
        return Counter(jobs[job_id]["status"] for job_id in ids or jobs)

    def finished(self, job_id: str, *, limit_s: float = PATIENCE_S) -> dict[str, Any]:
        """A job, once it is over and went well."""
        view = until(lambda: (seen := self.job(job_id))["status"] not in ("queued", "running") and seen, limit_s=limit_s)
        assert view["status"] == "finished", view["problem"]
        return view

    def images(self, job_id: str) -> list[bytes]:
        answers = [self.client.get(f"/jobs/{job_id}/images/{index}") for index in range(self.job(job_id)["job"]["num_images"])]
        assert all(answer.status_code == 200 for answer in answers)
        return [answer.content for answer in answers]


@contextmanager
def opened(url: str, checkpoints: Path, data: Path, *, root: Path = ROOT) -> Iterator[House]:
    """An API without workers yet; all that was started is gone afterwards."""
    told = {"REDIS_URL": url, "DATA": str(data), "CHECKPOINTS": str(checkpoints), "THREADS": "1"}
    env = os.environ | {f"EBBTIDE_{name}": value for name, value in told.items()} | {"OMP_NUM_THREADS": "1"}
    port = free_port()
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=90) as client, Redis.from_url(url, socket_timeout=5) as redis:
        house = House(env, client, redis, port, root)
        try:
            house.start_api()
            yield house
        finally:
            for process in reversed(house.processes):
                process.kill()
                process.wait(30)


class OwnValkey:
    """A server on a port that stays, with its append-only file, in the way `ebbtide up` runs one."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    def start(self) -> None:
        self._process = subprocess.Popen(
            valkey_command(self.port, self._folder), stdout=subprocess.DEVNULL, restore_signals=False
        )  # a limit on the size of files is an error to it, not a signal
        with Redis.from_url(self.url) as redis:
            until(lambda: _pings(redis), limit_s=20)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)


def _pings(redis: Redis) -> bool:
    try:
        return bool(redis.ping())
    except Exception:
        return False


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False

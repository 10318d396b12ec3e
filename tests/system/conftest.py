"""The whole house as real processes: Valkey, API, generation, training, on checkpoints the project's own trainer made."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]
QUICK = ("--dataset", "digits", "--steps", "60", "--width", "8", "--batch-size", "16", "--latent-size", "8", "--no-calibrate")
PATIENCE_S = 90.0


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tiny model a family, trained on real digits for a few seconds: enough to have every sampler."""
    folder = tmp_path_factory.mktemp("house") / "checkpoints"
    for family in ("sngan", "lebm"):
        command = [
            sys.executable,
            "-m",
            "workers.training",
            "--name",
            f"tiny-{family}",
            "--family",
            family,
            *QUICK,
            "--checkpoints",
            folder,
        ]
        env = os.environ | {"EBBTIDE_DATA": str(folder.parent / "data"), "EBBTIDE_THREADS": "1", "OMP_NUM_THREADS": "1"}
        subprocess.run(command, env=env, cwd=ROOT, check=True, timeout=240, stdout=subprocess.DEVNULL)
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class House:
    """Processes that talk through Redis, and a client at the door."""

    env: dict[str, str]
    client: httpx.Client
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *module_and_arguments: str, **env: str) -> subprocess.Popen[bytes]:
        self.processes.append(subprocess.Popen([sys.executable, "-m", *module_and_arguments], env=self.env | env, cwd=ROOT))
        return self.processes[-1]

    def start_generation(self, **env: str) -> subprocess.Popen[bytes]:
        """A worker that is ready."""
        before = self.workers()
        process = self.start("workers.generation", **env)
        self.until(lambda: self.workers() > before)
        return process

    def workers(self) -> int:
        """How many generation workers the API knows."""
        line = next(
            line for line in self.client.get("/metrics").text.splitlines() if line.startswith('ebbtide_workers_alive{kind="generate"}')
        )
        return int(float(line.split()[-1]))

    def submit(self, **request: Any) -> str:
        """A job's id."""
        answer = self.client.post("/generate", json=request, headers={"Prefer": "respond-async"})
        assert answer.status_code == 202, answer.text
        return answer.headers["X-Ebbtide-Job"]

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.client.get(f"/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        view: dict[str, Any] = answer.json()
        return view

    def finished(self, job_id: str, *, limit_s: float = PATIENCE_S) -> dict[str, Any]:
        """A job, once it is over and went well."""
        view = self.until(lambda: (seen := self.job(job_id))["status"] not in ("queued", "running") and seen, limit_s=limit_s)
        assert view["status"] == "finished", view["problem"]
        return view

    def images(self, job_id: str) -> list[bytes]:
        answers = [self.client.get(f"/jobs/{job_id}/images/{index}") for index in range(self.job(job_id)["job"]["num_images"])]
        assert all(answer.status_code == 200 for answer in answers)
        return [answer.content for answer in answers]

    free_port = staticmethod(free_port)

    @staticmethod
    def until(question: Callable[[], Any], *, limit_s: float = PATIENCE_S) -> Any:
        give_up = time.monotonic() + limit_s
        while not (answer := question()):
            assert time.monotonic() < give_up, f"still {answer!r} after {limit_s} s"
            time.sleep(0.02)  # between two looks, never instead of one
        return answer


@pytest.fixture
def house(valkey_url: str, redis: Any, checkpoints: Path, tmp_path: Path) -> Iterator[House]:
    """An API without workers yet; all that was started is gone afterwards."""
    port = free_port()
    told = {"REDIS_URL": valkey_url, "DATA": str(tmp_path), "CHECKPOINTS": str(checkpoints), "THREADS": "1"}
    env = os.environ | {f"EBBTIDE_{name}": value for name, value in told.items()} | {"OMP_NUM_THREADS": "1"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as client:
        house = House(env, client)
        house.start("uvicorn", "--factory", "service.app:create_app", "--port", str(port), "--log-level", "warning")
        house.until(lambda: _alive(client))
        yield house
        for process in reversed(house.processes):
            process.send_signal(signal.SIGKILL)
            process.wait(30)


def _alive(client: httpx.Client) -> bool:
    try:
        return client.get("/livez").status_code == 200
    except httpx.TransportError:
        return False

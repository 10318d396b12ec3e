"""The processes of `ebbtide up`: which there are, and how they share the machine's cores and GPUs."""

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from service.command.access import ADDRESS
from service.command.children import Child
from service.command.valkey import VALKEY_ENV, valkey_command
from service.settings import Settings
from workers.settings import cores

ROOT = Path(__file__).parents[2]


def gpus() -> list[str]:
    """`cuda:0`, `cuda:1`, ... unless EBBTIDE_DEVICE names a device. Asked in a process of its own, so that this one never loads torch."""
    if os.environ.get("EBBTIDE_DEVICE", "auto") != "auto":
        return []
    asked = subprocess.run([sys.executable, "-m", "models.device"], capture_output=True, text=True, cwd=ROOT)
    return [name for name in asked.stdout.split() if name.startswith("cuda")]


@dataclass(frozen=True)
class Processes:
    """Makes the child processes for one address and data folder."""

    host: str
    port: int
    data: Path
    gpus: tuple[str, ...] = ()

    def children(self, *, trainer: bool) -> list[Child]:
        """In the order in which they start: Valkey unless EBBTIDE_REDIS_URL is set, the API, the samplers, the trainer."""
        redis_url, children = os.environ.get("EBBTIDE_REDIS_URL", ""), []
        if not redis_url:
            port = free_port()
            redis_url = f"redis://127.0.0.1:{port}/0"
            command = valkey_command(port, self.data / "valkey", Settings().valkey_bytes)
            children.append(Child("valkey", command, env=VALKEY_ENV, log=self.data / "logs" / "valkey.log"))
        self.data.mkdir(parents=True, exist_ok=True)
        (self.data / ADDRESS).touch(0o600)  # it may hold a password
        (self.data / ADDRESS).write_text(redis_url)
        shared = {"EBBTIDE_REDIS_URL": redis_url, "EBBTIDE_DATA": str(self.data), "PYTHONUNBUFFERED": "1"}
        return children + [self._api(shared), *self._samplers(shared), *([self._trainer(shared)] if trainer else [])]

    def _api(self, env: dict[str, str]) -> Child:
        return self._child("api", "service", "--host", self.host, "--port", str(self.port), env=env | threads(1))

    def _samplers(self, env: dict[str, str]) -> list[Child]:
        """One for each of several GPUs, otherwise one. They use all cores, and while a run trains they leave the trainer its share."""
        devices = self.gpus if len(self.gpus) > 1 else [""]
        alone, beside = (max(1, number // len(devices)) for number in (cores(), cores() - training_threads()))
        env = env | threads(alone) | {"EBBTIDE_THREADS_BESIDE_TRAINING": str(beside)}
        samplers = []
        for number, device in enumerate(devices):
            name = f"generation-{number}" if number else "generation"
            page = metrics_page(self.port + (2 + number if number else 1))  # the trainer has the second port after the API's
            samplers.append(self._child(name, "workers.generation", env=env | page | ({"EBBTIDE_DEVICE": device} if device else {})))
        return samplers

    def _trainer(self, env: dict[str, str]) -> Child:
        return self._child("training", "workers.training", env=env | threads(training_threads()) | metrics_page(self.port + 2), nice=10)

    def _child(self, name: str, *command: str, env: dict[str, str], nice: int = 0) -> Child:
        return Child(name, (sys.executable, "-m", *command), env=env, log=self.data / "logs" / f"{name}.log", nice=nice)


def training_threads() -> int:
    """The trainer's share of the cores: a quarter, at least one."""
    return max(1, cores() // 4)


def threads(number: int) -> dict[str, str]:
    """The environment of a process that computes with this number of threads."""
    return {"EBBTIDE_THREADS": str(number), "OMP_NUM_THREADS": str(number)}


def metrics_page(wanted: int) -> dict[str, str]:
    """The environment of a worker with metrics on a port of this machine: the one wanted, or a free one if another process has it."""
    try:
        with socket.create_server(("127.0.0.1", wanted)):
            port = wanted
    except (OSError, OverflowError):
        port = free_port()
    return {"EBBTIDE_METRICS_HOST": "127.0.0.1", "EBBTIDE_METRICS_PORT": str(port)}


def free_port() -> int:
    """A free port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])

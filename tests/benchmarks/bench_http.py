"""From POST /generate to PNG without sampling: latency, requests/s and processor time of each process.

python -m tests.benchmarks.bench_http [--rivals FOLDER]     compares with LitServe and BentoML, installed into FOLDER (default: temporary)
python -m tests.benchmarks.bench_http --alone               without them
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from service.command.valkey import VALKEY_ENV, valkey_command
from tests.benchmarks.serving import rivals
from tests.system.house import children

ROOT = Path(__file__).parents[2]
BODY = '{"model": "nothing"}'
CARD = {  # of a model without networks: the fake engine loads none
    "name": "nothing",
    "version": 1,
    "family": "sngan",
    "description": "costs nothing to sample",
    "image_shape": [1, 28, 28],
    "latent_shape": [1],
    "networks": {},
    "samplers": {"prior": None},
    "default_sampler": "prior",
    "training": {"command": "none", "dataset": "digits", "steps": 0, "seed": 0, "seconds": 0, "torch": "none"},
    "digest": "0" * 64,
}
ROUNDS, SECONDS = 3, 5.0
START_LIMIT_S = 40.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--rivals", type=Path, default=None)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        venv = given.rivals or Path(folder) / "venv"
        servers = [stack.enter_context(ours(Path(folder), "Ebbtide", tick_s=0.0))]
        servers.append(stack.enter_context(ours(Path(folder), "Ebbtide, a step of 10 ms", tick_s=0.01)))
        if not given.alone:
            rivals.install(venv)
            servers += [stack.enter_context(theirs(Path(folder), rival, venv)) for rival in rivals.RIVALS]
        how = f"medians of {given.rounds} rounds of {given.seconds:g} s, servers in turn, {os.cpu_count()} cores, load generator included"
        print(f"a 28x28 PNG, {how}; `behind` is the first server's requests/s over this one's, in the same round")
        for clients in (1, 64):
            compare(servers, clients, given.rounds, given.seconds)


class Server(NamedTuple):
    """A server under load and its processes."""

    name: str
    port: int
    path: str
    body: str
    processes: dict[str, int]  # pid by name
    group: int | None = None  # process group, stopped between measurements: LitServe polls for requests on a whole core

    @contextmanager
    def awake(self) -> Iterator[None]:
        if self.group:
            os.killpg(self.group, signal.SIGCONT)
        yield
        if self.group:
            os.killpg(self.group, signal.SIGSTOP)


@contextmanager
def ours(folder: Path, name: str, tick_s: float) -> Iterator[Server]:
    with house(folder, tick_s) as started:
        yield Server(name, started["api"].port, "/generate", BODY, {process: child.pid for process, child in started.items()})


@contextmanager
def theirs(folder: Path, rival: rivals.Rival, venv: Path) -> Iterator[Server]:
    port = free_port()
    with stopped_in_the_end(rivals.start(rival, venv, port, folder / f"{rival.name}.log")) as process:
        until(lambda: asked(port, rival.path, rival.body), process)
        os.killpg(process.pid, signal.SIGSTOP)
        yield Server(rival.name, port, rival.path, rival.body, {"server": process.pid}, group=process.pid)
        os.killpg(process.pid, signal.SIGCONT)


def compare(servers: Sequence[Server], clients: int, rounds: int, seconds: float) -> None:
    """Measures the servers in turn, round after round, since the machine's speed drifts; prints a line for each."""
    runs = [[measured(server, clients, seconds) for server in servers] for _ in range(rounds)]
    for server, of_server in zip(servers, zip(*runs, strict=True), strict=True):
        rate, p50, p99 = (statistics.median(run[key] for run in of_server) for key in ("rate", "p50_ms", "p99_ms"))
        spread = f"({min(run['rate'] for run in of_server):.0f} to {max(run['rate'] for run in of_server):.0f})"
        cpu = ", ".join(f"{process} {statistics.median(run['cpu'][process] for run in of_server):.2f}" for process in server.processes)
        ahead = [first["rate"] / run["rate"] for (first, *_), run in zip(runs, of_server, strict=True)]
        ratio = f"{statistics.median(ahead):5.2f} ({min(ahead):.2f} to {max(ahead):.2f})"
        print(f"{server.name:26} {clients:3} clients {rate:6.0f}/s {spread:14} p50 {p50:6.2f} ms  p99 {p99:6.2f} ms", end="")
        print(f"  behind {ratio}  cpu ms: {cpu}", flush=True)


def measured(server: Server, clients: int, seconds: float) -> dict[str, Any]:
    with server.awake():
        before = {process: processor_s(pid) for process, pid in server.processes.items()}
        run = load(server.port, server.path, server.body, clients, seconds)
        return run | {
            "cpu": {process: 1000 * (processor_s(pid) - before[process]) / run["all"] for process, pid in server.processes.items()}
        }


class Child:
    """A process in a group of its own."""

    def __init__(self, *command: str, env: dict[str, str], port: int = 0) -> None:
        self.port = port
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.pid = self._process.pid

    def __enter__(self) -> subprocess.Popen[bytes]:
        return self._process


@contextmanager
def house(folder: Path, tick_s: float) -> Iterator[dict[str, Child]]:
    """Valkey with its append-only file, the API as `ebbtide up` starts it, and a worker whose engine computes nothing."""
    valkey_port, port, data = free_port(), free_port(), Path(tempfile.mkdtemp(dir=folder))
    home = data / "checkpoints" / "nothing" / "1"
    home.mkdir(parents=True)
    (home / "card.json").write_text(json.dumps(CARD))
    env = {"EBBTIDE_REDIS_URL": f"redis://127.0.0.1:{valkey_port}/0", "EBBTIDE_DATA": str(data), "EBBTIDE_CAPACITY": "64"}
    server = ("service", "--port", str(port), "--log-level", "warning")
    painter = ("tests.workers.generation.fake_engine", "--tick", str(tick_s), "--side", "28")
    with ExitStack() as stack:
        valkey = Child(*valkey_command(valkey_port, data), "--appendfsync", "everysec", env=VALKEY_ENV)
        stack.enter_context(stopped_in_the_end(valkey._process))
        until(lambda: listening(valkey_port), valkey._process)
        api = Child(sys.executable, "-m", *server, env=env, port=port)
        stack.enter_context(stopped_in_the_end(api._process))
        worker = Child(sys.executable, "-m", *painter, env=env)
        stack.enter_context(stopped_in_the_end(worker._process))
        until(lambda: asked(port, "/generate", BODY), api._process)
        yield {"api": api, "worker": worker, "valkey": valkey}


@contextmanager
def stopped_in_the_end(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Ends the process group on exit."""
    try:
        yield process
    finally:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, sign)
                process.wait(10)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def load(port: int, path: str, body: str, clients: int, seconds: float) -> dict[str, Any]:
    """Answers a second and latencies, measured by a load generator in another process."""
    command = [sys.executable, "-m", "tests.benchmarks.serving.load", str(port), path, body, str(clients), str(seconds)]
    return dict(json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout))


def processor_s(pid: int) -> float:
    """Processor time of a process and its children, in seconds, including children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK") + sum(map(processor_s, children(pid)))


def until(question: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Waits until `question` returns True. Raises RuntimeError where the process ends or START_LIMIT_S passes."""
    end = time.monotonic() + START_LIMIT_S
    while not question():
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"{process.args!r} does not answer")
        time.sleep(0.1)


def asked(port: int, path: str, body: str) -> bool:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body.encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as answer:
            return bool(answer.read().startswith(b"\x89PNG"))
    except OSError:
        return False


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()

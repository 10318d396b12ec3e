"""From POST /generate to PNG with sampling that costs nothing: latency, throughput, and who spends the processors' time.

python -m tests.benchmarks.bench_http [--rivals FOLDER]     compares with LitServe and BentoML, installed into a folder (default: a new one)
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
CARD = {  # of a model without networks, for a worker that asks for none
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
        print(f"a 28x28 PNG, {how}; `behind` is how many times as many the first server answered in the same round")
        for clients in (1, 64):
            compare(servers, clients, given.rounds, given.seconds)


class Server(NamedTuple):
    """One that is asked for pictures, and the processes it is made of."""

    name: str
    port: int
    path: str
    body: str
    parts: dict[str, int]
    group: int | None = None  # of processes that stand still while it is not asked: LitServe keeps a core busy with looking for requests

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
        yield Server(name, started["api"].port, "/generate", BODY, {part: child.pid for part, child in started.items()})


@contextmanager
def theirs(folder: Path, rival: rivals.Rival, venv: Path) -> Iterator[Server]:
    port = free_port()
    with stopped_in_the_end(rivals.start(rival, venv, port, folder / f"{rival.name}.log")) as process:
        until(lambda: asked(port, rival.path, rival.body), process)
        os.killpg(process.pid, signal.SIGSTOP)
        yield Server(rival.name, port, rival.path, rival.body, {"server": process.pid}, group=process.pid)
        os.killpg(process.pid, signal.SIGCONT)


def compare(servers: Sequence[Server], clients: int, rounds: int, seconds: float) -> None:
    """Measures all in turn, round after round, since the machine's speed drifts; prints a line for each."""
    runs = [[measured(server, clients, seconds) for server in servers] for _ in range(rounds)]
    for server, of_server in zip(servers, zip(*runs, strict=True), strict=True):
        rate, p50, p99 = (statistics.median(run[key] for run in of_server) for key in ("rate", "p50_ms", "p99_ms"))
        spread = f"({min(run['rate'] for run in of_server):.0f} to {max(run['rate'] for run in of_server):.0f})"
        cpu = ", ".join(f"{part} {statistics.median(run['cpu'][part] for run in of_server):.2f}" for part in server.parts)
        ahead = [first["rate"] / run["rate"] for (first, *_), run in zip(runs, of_server, strict=True)]
        ratio = f"{statistics.median(ahead):5.2f} ({min(ahead):.2f} to {max(ahead):.2f})"
        print(f"{server.name:26} {clients:3} clients {rate:6.0f}/s {spread:14} p50 {p50:6.2f} ms  p99 {p99:6.2f} ms", end="")
        print(f"  behind {ratio}  cpu ms: {cpu}", flush=True)


def measured(server: Server, clients: int, seconds: float) -> dict[str, Any]:
    with server.awake():
        before = {part: processor_s(pid) for part, pid in server.parts.items()}
        run = load(server.port, server.path, server.body, clients, seconds)
        return run | {"cpu": {part: 1000 * (processor_s(pid) - before[part]) / run["all"] for part, pid in server.parts.items()}}


class Child:
    """A process of the house, in a group of its own."""

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
    """Durable Valkey, the API as `ebbtide up` starts it, and the batch worker around an engine that computes nothing."""
    valkey_port, port, data = free_port(), free_port(), Path(tempfile.mkdtemp(dir=folder))
    home = data / "checkpoints" / "nothing" / "1"
    home.mkdir(parents=True)
    (home / "card.json").write_text(json.dumps(CARD))
    env = {"EBBTIDE_REDIS_URL": f"redis://127.0.0.1:{valkey_port}/0", "EBBTIDE_DATA": str(data), "EBBTIDE_CAPACITY": "64"}
    quiet = ("--no-access-log", "--log-level", "warning")
    server = ("uvicorn", "--factory", "service.app:create_app", "--http", "service.writing:Protocol", "--port", str(port), *quiet)
    painter = ("tests.workers.fake_engine", "--tick", str(tick_s), "--side", "28")
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
    """Ends the whole group of processes, whatever happens."""
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
    """Answers a second and latencies, as a process of its own measured them."""
    command = [sys.executable, "-m", "tests.benchmarks.serving.load", str(port), path, body, str(clients), str(seconds)]
    return dict(json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout))


def processor_s(pid: int) -> float:
    """Processor time of a process and those it started, so far; with those that are over, such as Valkey's when it rewrites its file."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK") + sum(map(processor_s, children(pid)))


def until(question: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Asks until the answer is yes; fails when the process ends or time runs out."""
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

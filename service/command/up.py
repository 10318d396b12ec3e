"""`ebbtide up`: Valkey, the API, a generation worker for each GPU and a training worker, on one machine."""

import fcntl
import json
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TextIO

from rich.console import Console

from service.command.children import Child
from service.command.processes import Processes, gpus
from service.command.valkey import AppendedFiles
from service.protocol.exposure import is_loopback, nobody_has_a_key

console = Console(highlight=False, soft_wrap=True)
START_LIMIT_S = 120.0  # loading torch on a busy machine takes a while; children are tended all along
DRAIN_LIMIT_S = {"api": 35.0, "generation": 120.0, "training": 60.0, "valkey": 15.0}  # in the order in which they are stopped
TICK_S = 0.1


class UpError(Exception):
    """Why it cannot start."""


def run(*, host: str, port: int, data: Path, trainer: bool) -> None:
    """Keeps everything running until a signal comes, then lets each process finish its work. Raises UpError."""
    data = data.resolve()
    with _alone(data), _signals() as asked:
        _require_free(host, port)
        children = Processes(host, port, data, tuple(gpus())).children(trainer=trainer)
        try:
            _start(children, asked, host)
            if not asked and _ready(children, f"http://{_reachable(host)}:{port}", asked):
                _welcome(f"http://{_reachable(host)}:{port}", data, children)
            disk = AppendedFiles(data / "valkey")
            while not asked:
                _tend(children)
                disk.sync()
        finally:
            _stop(children, asked)


def _start(children: list[Child], asked: list[int], host: str) -> None:
    """Starts each process; the others start once Valkey answers. Raises UpError where the API would be open to other machines."""
    for child in children:
        if child.name == "api" and not asked and not is_loopback(host):
            reason = nobody_has_a_key(child.env["EBBTIDE_REDIS_URL"])
            if reason is not None:
                raise UpError(f"refusing to listen on {host}: {reason}, while `ebbtide up` runs without --host")
        child.start()
        if child.name == "valkey":
            _until_listening(child, asked)


def _until_listening(valkey: Child, asked: list[int]) -> None:
    port = int(valkey.argument("--port"))
    end = time.monotonic() + START_LIMIT_S  # a long append-only file is read first
    while not asked:
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                probe.sendall(b"PING\r\n")
                if probe.recv(16).startswith(b"+PONG"):
                    return
        if not valkey.alive or time.monotonic() > end:
            raise UpError(f"Valkey did not start; the end of {valkey.log}:\n{valkey.last_words()}")
        time.sleep(TICK_S)


def _ready(children: list[Child], url: str, asked: list[int]) -> bool:
    """Waits for /readyz, and shows for what; False where a signal or the time limit came first."""
    end = time.monotonic() + START_LIMIT_S
    with console.status("starting") as status:
        while not asked and time.monotonic() < end:
            reason = _not_ready_because(url)
            if reason is None:
                return True
            status.update(f"starting: {reason}")
            _tend(children)
    if not asked:
        console.print(f"still not ready after {START_LIMIT_S:.0f} s: see the logs; going on")
    return False


def _not_ready_because(url: str) -> str | None:
    try:
        with _opener().open(f"{url}/readyz", timeout=3):
            return None
    except urllib.error.HTTPError as error:
        return str(json.loads(error.read()).get("detail", error))
    except OSError:
        return "the API does not answer yet"


def _opener() -> urllib.request.OpenerDirector:
    """Calls this machine directly, even if the environment names a proxy."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _tend(children: list[Child]) -> None:
    for child in children:
        child.tend(lambda text: console.print(text, markup=False))
    time.sleep(TICK_S)


def _stop(children: list[Child], asked: list[int]) -> None:
    """The API accepts no more requests, the workers finish their jobs, Valkey saves. A second signal ends all at once."""
    if any(child.alive for child in children):
        console.print("\nstopping: letting jobs finish (Ctrl-C again ends them)")
    for kind, limit_s in DRAIN_LIMIT_S.items():
        ending = [child for child in children if child.name.partition("-")[0] == kind]
        for child in ending:
            child.ask_to_stop()
        end = time.monotonic() + limit_s
        while any(child.alive for child in ending) and time.monotonic() < end and len(asked) < 2:
            time.sleep(TICK_S)
        for child in ending:
            if child.alive:
                console.print(f"{child.name} has not finished: ending it now")
                child.kill()


def _welcome(url: str, data: Path, children: list[Child]) -> None:
    """Prints where everything is, and a first request that works."""
    ports = [child.env["EBBTIDE_METRICS_PORT"] for child in children if child.name.startswith("generation")]
    with _opener().open(f"{url}/models", timeout=5) as answer:
        names = [model["name"] for model in json.loads(answer.read())["models"]]
    console.rule("Ebbtide is ready")
    console.print(f"  playground   {url}/")
    console.print(f"  API          {url}/docs")
    console.print(f"  metrics      {url}/metrics, of workers {', '.join(f'http://127.0.0.1:{port}/metrics' for port in ports)}")
    console.print(f"  data, logs   {data}")
    if names:
        body = json.dumps({"model": names[0], "num_images": 16})
        console.print(f"\n  curl -s {url}/generate -d '{body}' -o {names[0]}.png", markup=False)
    else:
        console.print("\n  there is no model yet:  ebbtide train my-digits --family sngan --dataset digits", markup=False)
    console.rule("Ctrl-C stops everything; jobs are kept")


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals received so far; they interrupt nothing."""
    asked: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        asked.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _alone(data: Path) -> Iterator[TextIO]:
    """Locks the data folder, because two servers on one append-only file would ruin it."""
    data.mkdir(parents=True, exist_ok=True)
    with (data / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UpError(f"another `ebbtide up` is running on {data}; choose another folder with --data") from None
        yield lock


def _require_free(host: str, port: int) -> None:
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        raise UpError(f"cannot listen on {host}:{port} ({error.strerror}); choose another port with --port") from None


def _reachable(host: str) -> str:
    """The address to call a server at that listens on `host`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host

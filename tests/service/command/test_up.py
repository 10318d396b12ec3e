"""`ebbtide up` starts, restarts and stops real processes."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from service.command import children
from service.command.children import Child
from service.command.valkey import AppendedFiles

ROOT = Path(__file__).parents[3]
FOR_EVER = "import signal; print('here', flush=True); signal.pause()"


def python(tmp_path: Path, script: str) -> Child:
    return Child("python", (sys.executable, "-c", script), env={"GREETING": "hello"}, log=tmp_path / "python.log", nice=1)


def test_a_long_log_is_put_aside_while_the_process_goes_on(tmp_path: Path, eventually: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "LOG_BYTES", 2000)
    script = "import itertools, time\nfor line in itertools.count(): print(line, flush=True); time.sleep(0.0002)"
    child = python(tmp_path, script)
    child.start()
    oldest = child.log.with_name("python.log.4")

    def tended() -> bool:
        child.tend(print)
        return oldest.is_file() and child.log.stat().st_size > 0

    try:
        eventually(tended)
        child.tend(print)
        logs = sorted(tmp_path.glob("python.log*"))
        assert [path.name for path in logs] == ["python.log", *(f"python.log.{number}" for number in range(1, 5))]
        assert child.last_words()
        newest, before = (int(path.read_text().split()[0]) for path in (logs[1], logs[2]))
        assert newest > before
    finally:
        child.kill()


def test_a_child_that_dies_is_restarted_with_a_message(tmp_path: Path, eventually: Callable) -> None:
    child = python(tmp_path, "import os; print(os.environ['GREETING'], os.nice(0)); raise SystemExit(3)")
    said: list[str] = []
    child.start()
    eventually(lambda: child.tend(said.append) or len(said) > 1)
    assert "exit code 3" in said[0]
    assert f"hello {os.nice(0) + 1}" in said[0]
    assert "in 0.5 s" in said[0]
    assert "in 1 s" in said[1]


def test_the_message_names_the_signal_that_killed_a_child(tmp_path: Path, eventually: Callable) -> None:
    child = python(tmp_path, FOR_EVER)
    child.start()
    eventually(lambda: "here" in child.last_words())
    child.kill()
    said: list[str] = []
    child.tend(said.append)
    assert "SIGKILL" in said[0]


def ebbtide_up(*options: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "from service.command.cli import main; main()", "up", *options],
        cwd=ROOT,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_port_in_use_is_a_clear_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = ebbtide_up("--port", port, "--data", str(tmp_path))
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"127.0.0.1:{port}" in said
    assert "--port" in said
    assert "Traceback" not in said


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.mark.system
def test_one_signal_ends_everything_in_order_and_jobs_are_kept(tmp_path: Path, eventually: Callable) -> None:
    port = free_port()
    options = ("--port", str(port), "--data", str(tmp_path), "--no-trainer")
    job_id = ""
    for _ in range(2):  # the second time finds what the first left
        process = ebbtide_up(*options)
        try:
            eventually(lambda: answers(port), limit_s=60)
            if job_id:
                assert httpx.get(f"http://127.0.0.1:{port}/jobs/{job_id}", trust_env=False).status_code == 200
            request = {"name": "mine", "family": "sngan", "dataset": "digits"}
            job_id = httpx.post(f"http://127.0.0.1:{port}/train", json=request, trust_env=False).json()["id"]
            read = follow(f"http://127.0.0.1:{port}/jobs/{job_id}/events")
            eventually(read.is_set)
            second, _ = ebbtide_up("--port", str(free_port()), "--data", str(tmp_path)).communicate(timeout=60)
            assert "another `ebbtide up`" in second
        finally:
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=25)  # less than the API would wait for an open stream
        assert process.returncode == 0, said
        assert "has not finished" not in said
        assert not answers(port)
        assert (
            "User requested shutdown" in (tmp_path / "logs" / "valkey.log").read_text()
            or "SIGTERM" in (tmp_path / "logs" / "valkey.log").read_text()
        )


def follow(url: str) -> threading.Event:
    """Reads an event stream to its end in a thread; the event is set once a line has come."""
    read = threading.Event()

    def lines() -> None:
        with httpx.stream("GET", url, timeout=60, trust_env=False) as stream:
            for _ in stream.iter_lines():
                read.set()

    threading.Thread(target=lines, daemon=True).start()
    return read


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/livez", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_nothing_outlives_a_killed_parent(tmp_path: Path, eventually: Callable) -> None:
    script = (
        "import sys, signal; from pathlib import Path; from service.command.children import Child\n"
        f"child = Child('child', (sys.executable, '-c', {FOR_EVER!r}), env={{}}, log=Path(sys.argv[1]))\n"
        "child.start(); print(child._process.pid, flush=True); signal.pause()"
    )
    log = tmp_path / "child.log"
    parent = subprocess.Popen([sys.executable, "-c", script, str(log)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    eventually(lambda: log.is_file() and "here" in log.read_text())
    parent.kill()
    parent.communicate()
    eventually(lambda: not running(pid))


def running(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_append_only_file_is_synced_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "appendonlydir").mkdir()
    for name in ("appendonly.aof.1.incr.aof", "appendonly.aof.2.incr.aof", "appendonly.aof.manifest"):
        (tmp_path / "appendonlydir" / name).write_bytes(b"")
    synced: list[str] = []
    monkeypatch.setattr("os.fsync", lambda number: synced.append(os.readlink(f"/proc/self/fd/{number}").rpartition("/")[2]))
    files = AppendedFiles(tmp_path)
    files.sync()
    assert sorted(synced) == ["appendonly.aof.1.incr.aof", "appendonly.aof.2.incr.aof"]
    files.sync()
    assert len(synced) == 2

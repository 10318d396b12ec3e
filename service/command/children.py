"""A child process with its log in a file; when it dies it is restarted, after a pause that doubles each time."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

STEADY_S = 60.0  # a child that lived this long is restarted after the shortest pause
LONGEST_PAUSE_S = 30.0
LOG_BYTES, OLD_LOGS = 10 << 20, 4  # a log is put aside at this length; so many old ones are kept
LAST_WORDS = 5  # lines of the log shown when a child dies
PR_SET_PDEATHSIG = 1


class Child:
    """One process in a session of its own, so that Ctrl-C in the terminal does not reach it."""

    def __init__(self, name: str, command: Sequence[str], *, env: Mapping[str, str], log: Path, nice: int = 0) -> None:
        self.name = name
        self.log = log
        self.env = dict(env)
        self._command, self._nice = list(command), nice
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._pause_s = 0.5
        self._restart_at: float | None = None
        self._log_begin = 0

    def start(self) -> None:
        """Starts the process; the kernel sends it SIGTERM when this process dies."""
        prepare = _preparation(self._nice, os.getpid())
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._log_begin = log.tell()
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.env},
                cwd=Path(__file__).parents[2],
                start_new_session=True,
                preexec_fn=prepare,
            )
        self._started = time.monotonic()

    def argument(self, option: str) -> str:
        """The value of an option of its command line."""
        return self._command[self._command.index(option) + 1]

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def tend(self, say: Callable[[str], None]) -> None:
        """Restarts the process after a pause if it died, and rotates its log; call it often."""
        self._rotate()
        if self.alive or self._process is None:
            return
        now = time.monotonic()
        if self._restart_at is None:
            if now - self._started > STEADY_S:
                self._pause_s = 0.5
            say(f"{self.name} ended ({_ending(self._process.returncode)}); starting it again in {self._pause_s:g} s\n{self.last_words()}")
            self._restart_at = now + self._pause_s
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        elif now >= self._restart_at:
            self._restart_at = None
            self.start()

    def _rotate(self) -> None:
        """Copies a long log and empties it, as the process goes on writing at its end; what it writes in between is lost."""
        if not self.log.is_file() or self.log.stat().st_size < LOG_BYTES:
            return
        for number in range(OLD_LOGS, 1, -1):
            older = self._old_log(number - 1)
            if older.is_file():
                older.replace(self._old_log(number))
        shutil.copyfile(self.log, self._old_log(1))
        os.truncate(self.log, 0)
        self._log_begin = 0

    def _old_log(self, number: int) -> Path:
        return self.log.with_name(f"{self.log.name}.{number}")

    def ask_to_stop(self) -> None:
        if self._process is not None and self.alive:
            self._process.terminate()

    def kill(self) -> None:
        """Kills the process and every process it started."""
        if self._process is not None and self.alive:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def last_words(self) -> str:
        """The last lines of its log since it started."""
        written = self.log.read_bytes()[self._log_begin :] if self.log.is_file() else b""
        lines = written.decode(errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-LAST_WORDS:])


def _preparation(nice: int, parent: int) -> Callable[[], None]:
    """What a child does between fork and exec. `prctl` is looked up before, since between the two only system calls are safe."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None

    def prepare() -> None:
        if nice:
            os.nice(nice)
        if prctl is not None:
            prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # the parent died before the line above
                os._exit(1)

    return prepare


def _ending(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

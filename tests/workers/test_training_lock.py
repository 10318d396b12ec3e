"""A training run is seen by other processes of the machine from its first moment to its last, whatever ends it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from workers import training_lock

ROOT = Path(__file__).parents[2]
HOLD = """
import signal, sys; from pathlib import Path; from workers import training_lock
with training_lock.holding(Path(sys.argv[1])):
    print("held", flush=True); signal.pause()
"""


def run(lock: Path) -> subprocess.Popen[str]:
    """A process that holds the lock until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_run_is_seen_until_it_ends(tmp_path: Path) -> None:
    lock = tmp_path / "data" / "training.lock"
    assert not training_lock.is_held(lock)
    assert not lock.parent.exists(), "a look leaves nothing behind"
    with training_lock.holding(lock):
        assert training_lock.is_held(lock)
        assert training_lock.is_held(lock)
    assert not training_lock.is_held(lock)


def test_several_runs_count_as_long_as_one_is_left(tmp_path: Path, eventually: Callable) -> None:
    lock = tmp_path / "training.lock"
    first, second = run(lock), run(lock)
    end(first)
    assert training_lock.is_held(lock)
    end(second)
    assert not training_lock.is_held(lock)

"""A run killed with `kill -9` while it trains and while it calibrates publishes the weights of one that nobody disturbed."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from models.cards import ModelCard
from models.checkpoints import Store

ROOT = Path(__file__).parents[3]


def ran(folder: Path, kill_at: Callable[[str, int], bool] = lambda stage, done: False) -> bool:
    """Whether the run was killed, as soon as it said that it is there; else it ends by itself."""
    command = [sys.executable, "-m", "tests.models.training.killable", str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            stage, done, _ = line.split()
            if kill_at(stage, int(done)):
                process.kill()
                process.wait()
                return True
    assert process.returncode == 0
    return False


def card(folder: Path) -> ModelCard:
    store = Store(folder / "published", folder / "shipped")
    assert store.versions("toy") == [1]
    return store.card("toy")


@pytest.mark.system
def test_a_run_killed_while_it_trains_and_while_it_calibrates_publishes_the_same_weights(tmp_path):
    assert not ran(tmp_path / "one")
    assert ran(tmp_path / "two", lambda stage, done: done >= 20)
    assert ran(tmp_path / "two", lambda stage, done: stage == "calibrating" and done >= 3)
    assert not (tmp_path / "two" / "published").exists()
    assert not ran(tmp_path / "two")
    undisturbed, killed = card(tmp_path / "one"), card(tmp_path / "two")
    assert undisturbed.calibration is not None
    assert killed.digest == undisturbed.digest
    assert killed.calibration == undisturbed.calibration
    assert (killed.training.best_step, killed.training.validation_fid) == (
        undisturbed.training.best_step,
        undisturbed.training.validation_fid,
    )
    assert killed.training.best_step is not None

"""A whole run of two processes: steps on the joint batch, scores in between, publication by the first; SIGTERM loses nothing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from models.checkpoints import Store

ROOT = Path(__file__).parents[3]
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "workers.training"]
RUN = ["--name", "toy", "--family", "vae", "--dataset", "digits", "--batch-size", "32", "--width", "8", "--latent-size", "4"]
LENGTH = ["--steps", "160", "--evaluations", "4"]


def started(folder: Path) -> subprocess.Popen[str]:
    env = os.environ | {"EBBTIDE_DATA": str(folder), "EBBTIDE_THREADS": "1"}
    command = [*LAUNCH, *RUN, *LENGTH]
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def published(folder: Path) -> Store:
    with started(folder) as process:
        said = process.stdout.read()
    assert process.returncode == 0, said
    return Store(folder / "checkpoints", folder / "shipped")


@pytest.mark.system
def test_two_processes_train_score_and_publish_one_version_although_stopped_once(tmp_path):
    with started(tmp_path) as process:
        for line in process.stdout:
            if line.startswith("step 80/"):
                process.send_signal(signal.SIGTERM)
                break
        assert "goes on from" in process.stdout.read()
    assert process.returncode != 0
    store = published(tmp_path)
    assert store.versions("toy") == [1]
    assert store.card("toy").training.validation_fid is not None

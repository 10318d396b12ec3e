"""The whole house as real processes: Valkey, API, generation, training, on checkpoints the project's own trainer made or on tiny ones."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from models.checkpoints import Store
from tests.system.gate import Gate
from tests.system.house import ROOT, House, OwnValkey, opened
from tests.tiny_models import publish_tiny

QUICK = ("--dataset", "digits", "--steps", "60", "--width", "8", "--batch-size", "16", "--latent-size", "8", "--no-calibrate")


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tiny model a family, trained on real digits for a few seconds: enough to have every sampler."""
    folder = tmp_path_factory.mktemp("house") / "checkpoints"
    for family in ("sngan", "lebm"):
        names = ["--name", f"tiny-{family}", "--family", family, "--checkpoints", str(folder)]
        env = os.environ | {"EBBTIDE_DATA": str(folder.parent / "data"), "EBBTIDE_THREADS": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "workers.training", *names, *QUICK]
        subprocess.run(command, env=env, cwd=ROOT, check=True, timeout=240, stdout=subprocess.DEVNULL)
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was never trained: faults do not care what the pictures show."""
    folder = tmp_path_factory.mktemp("tiny") / "checkpoints"
    publish_tiny(Store(folder), "sngan", "tiny")
    return folder


@pytest.fixture
def house(valkey_url: str, redis: Any, checkpoints: Path, tmp_path: Path) -> Iterator[House]:
    with opened(valkey_url, checkpoints, tmp_path) as house:
        yield house


@pytest.fixture
def tiny_house(valkey_url: str, redis: Any, tiny_checkpoints: Path, tmp_path: Path) -> Iterator[House]:
    with opened(valkey_url, tiny_checkpoints, tmp_path) as house:
        yield house


@pytest.fixture
def own_valkey(valkey_url: str, tmp_path: Path) -> Iterator[OwnValkey]:
    """A server that may be killed, run as `ebbtide up` runs it."""
    valkey = OwnValkey(tmp_path / "valkey")
    valkey.start()
    yield valkey
    valkey.kill()


@pytest.fixture
def gate(valkey_url: str) -> Iterator[Callable[[], Gate]]:
    """Makes ways to Redis that can be shut."""
    made: list[Gate] = []

    def make() -> Gate:
        made.append(Gate(int(valkey_url.rpartition(":")[2].partition("/")[0])))
        return made[-1]

    yield make
    for each in made:
        each.close()

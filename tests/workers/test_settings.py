"""What the environment can say to a worker."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from workers.settings import WorkerSettings, cores


def test_everything_has_a_default(monkeypatch):
    settings = WorkerSettings()
    assert (settings.redis_url, settings.artifacts, settings.capacity) == ("redis://localhost:6379/0", "", 64)
    assert settings.checkpoints == Path("data/checkpoints")


def test_the_environment_decides(monkeypatch):
    monkeypatch.setenv("EBBTIDE_DATA", "/somewhere")
    monkeypatch.setenv("EBBTIDE_CAPACITY", "128")
    settings = WorkerSettings()
    assert (settings.checkpoints, settings.runs_folder, settings.capacity) == (Path("/somewhere/checkpoints"), Path("/somewhere/runs"), 128)
    monkeypatch.setenv("EBBTIDE_CHECKPOINTS", "/shared")
    assert WorkerSettings().checkpoints == Path("/shared")


def test_threads_are_all_cores_and_a_quarter_of_them_is_left_to_a_training_run(monkeypatch):
    settings = WorkerSettings()
    assert settings.threads == cores() == len(os.sched_getaffinity(0))
    for threads, beside in ((1, 1), (2, 1), (4, 3), (16, 12)):
        monkeypatch.setenv("EBBTIDE_THREADS", str(threads))
        assert WorkerSettings().threads_beside_training == beside
    monkeypatch.setenv("EBBTIDE_THREADS_BESIDE_TRAINING", "2")
    assert WorkerSettings().threads_beside_training == 2


@pytest.mark.parametrize(("name", "value"), [("CAPACITY", "0"), ("THREADS", "many"), ("METRICS_PORT", "70000"), ("HEARTBEAT_S", "0")])
def test_what_cannot_be_is_refused_by_name(name, value, monkeypatch):
    monkeypatch.setenv(f"EBBTIDE_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        WorkerSettings()


def test_a_worker_beats_often_enough_to_keep_its_lease():
    settings = WorkerSettings()
    assert settings.heartbeat_s * 3 <= settings.lease_s
    assert settings.lease_s + settings.maintenance_s + settings.heartbeat_s < 10  # a crash is noticed, and mended, in ten seconds

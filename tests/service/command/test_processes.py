"""The processes of `ebbtide up` on machines with several cores and GPUs."""

import os
from pathlib import Path

import pytest

from service.command import processes
from service.command.children import Child
from service.command.processes import Processes, free_port, gpus
from service.command.up import DRAIN_LIMIT_S


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("EBBTIDE_")]:
        monkeypatch.delenv(name)


def started(monkeypatch: pytest.MonkeyPatch, folder: Path, *, cores: int, gpus: int, trainer: bool = True) -> dict[str, Child]:
    monkeypatch.setattr(processes, "cores", lambda: cores)
    names = tuple(f"cuda:{index}" for index in range(gpus))
    return {child.name: child for child in Processes("127.0.0.1", free_port(), folder, names).children(trainer=trainer)}


@pytest.mark.parametrize("gpus", [0, 1])
def test_one_worker_without_several_gpus(gpus: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    children = started(monkeypatch, tmp_path, cores=4, gpus=gpus)
    assert list(children) == ["valkey", "api", "generation", "training"]
    assert "EBBTIDE_DEVICE" not in children["generation"].env, "the user's choice stands"


def test_a_worker_for_each_of_several_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    children = started(monkeypatch, tmp_path, cores=16, gpus=3)
    samplers = [child for child in children.values() if child.name.startswith("generation")]
    assert [child.env["EBBTIDE_DEVICE"] for child in samplers] == ["cuda:0", "cuda:1", "cuda:2"]
    assert len({child.log for child in children.values()}) == len(children) == 6
    pages = [child.env["EBBTIDE_METRICS_PORT"] for child in (*samplers, children["training"])]
    assert len(set(pages)) == 4
    assert all(child.name.partition("-")[0] in DRAIN_LIMIT_S for child in children.values()), "each is stopped"


@pytest.mark.parametrize(("cores", "gpus"), [(1, 0), (2, 0), (4, 1), (16, 0), (16, 3)])
def test_samplers_have_all_cores_and_leave_a_trainer_its_share(
    cores: int, gpus: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    children = started(monkeypatch, tmp_path, cores=cores, gpus=gpus)
    samplers = [child for child in children.values() if child.name.startswith("generation")]
    alone, beside = (sum(int(child.env[name]) for child in samplers) for name in ("EBBTIDE_THREADS", "EBBTIDE_THREADS_BESIDE_TRAINING"))
    training = int(children["training"].env["EBBTIDE_THREADS"])
    assert cores - len(samplers) < alone <= cores
    assert beside + training <= max(cores, 2), "one core is shared"
    assert all(child.env["OMP_NUM_THREADS"] == child.env["EBBTIDE_THREADS"] for child in (*samplers, children["training"]))


def test_without_a_trainer_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert list(started(monkeypatch, tmp_path, cores=2, gpus=0, trainer=False)) == ["valkey", "api", "generation"]


def test_valkey_has_as_much_memory_as_the_setting_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert started(monkeypatch, tmp_path, cores=2, gpus=0)["valkey"].argument("--maxmemory") == str(3 << 30)
    monkeypatch.setenv("EBBTIDE_VALKEY_BYTES", "12345")
    assert started(monkeypatch, tmp_path, cores=2, gpus=0)["valkey"].argument("--maxmemory") == "12345"


def test_a_redis_that_is_named_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EBBTIDE_REDIS_URL", "redis://elsewhere:6379/0")
    children = started(monkeypatch, tmp_path, cores=2, gpus=0)
    assert list(children) == ["api", "generation", "training"]
    assert {child.env["EBBTIDE_REDIS_URL"] for child in children.values()} == {"redis://elsewhere:6379/0"}


def test_gpus_are_counted_only_where_workers_may_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus() == []
    monkeypatch.setenv("EBBTIDE_DEVICE", "cuda:1")
    monkeypatch.setattr("sys.executable", "/nowhere")
    assert gpus() == []

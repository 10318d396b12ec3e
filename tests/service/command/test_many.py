"""`ebbtide generate -o folder/`: any number of images, in jobs, that goes on where it stopped."""

import json
import os
import signal
import subprocess
import tarfile
from pathlib import Path

import httpx
import pytest

from service.client import Client, Refused
from service.command import many
from tests.service.command.test_cli import EBBTIDE, PNG, Command, command

__all__ = ["command"]
ASKED = ("generate", "toy@1", "-n", "600", "--seed", "7", "--steps", "5")


def pngs(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".png")


def seeds(ebbtide: Client) -> list[tuple[int, int]]:
    return sorted((job.job.seed, job.job.num_images) for job in ebbtide.jobs(200))


def test_a_folder_is_filled_by_jobs_with_seeds_in_a_row(command: Command, painter, ebbtide: Client, tmp_path: Path) -> None:
    code, said, _ = command(*ASKED, "-o", f"{tmp_path}/many/")
    assert (code, said.strip()) == (0, f"{tmp_path}/many: 600 x toy@1, seed 7")
    assert pngs(tmp_path / "many") == [f"{number:08}.png" for number in range(600)]
    assert all((tmp_path / "many" / name).read_bytes().startswith(PNG) for name in pngs(tmp_path / "many"))
    assert seeds(ebbtide) == [(7, 256), (8, 256), (9, 88)]
    assert json.loads((tmp_path / "many/manifest.json").read_text())["settings"] == {"mcmc": {"steps": 5}}
    with pytest.raises(Refused, match="no longer kept"):  # Redis has no need of what is in the folder
        ebbtide.image(ebbtide.jobs(1)[0].id, 0)


def test_the_same_command_makes_only_what_is_missing(command: Command, painter, ebbtide: Client, tmp_path: Path) -> None:
    command(*ASKED, "-o", f"{tmp_path}/many/")
    (tmp_path / "many/00000300.png").unlink()
    ebbtide.wait(ebbtide.jobs(1)[0].id)
    assert command(*ASKED, "-o", str(tmp_path / "many"))[0] == 0
    assert len(pngs(tmp_path / "many")) == 600
    assert seeds(ebbtide) == [(7, 256), (8, 256), (8, 256), (9, 88)]


@pytest.mark.parametrize(
    ("changed", "told"),
    [(("-n", "601"), "images 600, not 601"), (("--seed", "8"), "seed 7, not 8"), (("--steps", "6"), "settings"), (("--shards",), "shards")],
)
def test_a_folder_with_something_else_is_left_alone(command: Command, painter, tmp_path: Path, changed: tuple[str, ...], told: str) -> None:
    command(*ASKED, "-n", "600", "-o", f"{tmp_path}/many/")
    code, _, said = command(*ASKED, *changed, "-o", f"{tmp_path}/many/")
    assert code == 1
    assert told in said
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    assert "at least 1" in command("generate", "toy", "-n", "0", "-o", f"{tmp_path}/none/")[2]
    assert "is not empty" in command(*ASKED, "-o", f"{tmp_path}/mine")[2]
    assert "--output must be a folder" in command("generate", "toy", "--shards", "-o", f"{tmp_path}/x.png")[2]


def test_shards_hold_each_image_and_what_made_it(command: Command, painter, tmp_path: Path) -> None:
    assert command(*ASKED, "--shards", "-o", f"{tmp_path}/many/")[0] == 0
    names = []
    for part, size in enumerate((256, 256, 88)):
        with tarfile.open(tmp_path / f"many/{part:06}.tar") as shard:
            found = shard.getnames()
            assert len(found) == 2 * size
            about = json.loads(shard.extractfile(found[1]).read())
            assert about == {"model": "toy@1", "seed": 7 + part, "image": 0}
            assert shard.extractfile(found[0]).read().startswith(PNG)
            names += found[::2]
    assert names == [f"{number:08}.png" for number in range(600)]


def test_a_busy_server_is_asked_again(serve, settings, painter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "AGAIN_S", 0.05)
    api = serve(settings.model_copy(update={"max_backlog_chain_steps": 300 * 40}))  # one part of 256 chains with 40 steps waits
    with Client(str(api.base_url)) as client:
        many.fill(client, tmp_path / "many", "toy", 1500, {}, shards=False)
    assert len(pngs(tmp_path / "many")) == 1500


def test_a_job_that_fails_ends_the_run_and_its_other_jobs(command: Command, painter, ebbtide: Client, tmp_path: Path) -> None:
    painter.failure = "diverged: chain 3"
    code, _, said = command(*ASKED, "-o", f"{tmp_path}/many/")
    assert (code, "diverged: chain 3" in said) == (1, True)
    assert pngs(tmp_path / "many") == []


def test_ctrl_c_cancels_what_is_under_way_and_the_same_command_goes_on(
    address: str, api: httpx.Client, painter, eventually, command: Command, tmp_path: Path
) -> None:
    painter.rest()
    words = [*EBBTIDE, *ASKED, "-o", f"{tmp_path}/many/"]
    run = subprocess.Popen(words, env=os.environ | {"EBBTIDE_URL": address}, stderr=subprocess.PIPE, text=True)
    eventually(lambda: len(api.get("/jobs").json()["jobs"]) == 3)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=30)
    assert (run.returncode, "the same command goes on" in said) == (130, True)
    assert {job["status"] for job in api.get("/jobs").json()["jobs"]} == {"canceled"}
    painter.working.set()
    assert command(*ASKED, "-o", f"{tmp_path}/many/")[0] == 0
    assert len(pngs(tmp_path / "many")) == 600

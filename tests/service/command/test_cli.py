"""The `ebbtide` command, over HTTP to a real API."""

import json
import os
import shutil
import signal
import subprocess
import sys
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest

from models.checkpoints import Store
from models.kernels import KERNELS
from service.client import Client
from service.command.cli import main
from tests.service.conftest import png

PNG = b"\x89PNG\r\n\x1a\n"
EBBTIDE = (sys.executable, "-c", "from service.command.cli import main; main()")  # in a process of its own


class Command:
    """Runs `ebbtide` in this process."""

    def __init__(self, address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        monkeypatch.setenv("EBBTIDE_URL", address)
        monkeypatch.setenv("COLUMNS", "200")  # no line is broken

    def __call__(self, *words: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        self._monkeypatch.setattr(sys, "argv", ["ebbtide", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        said = self._capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err


@pytest.fixture
def command(address: str, api: httpx.Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(address, monkeypatch, capsys)


def test_generate_writes_a_png(command: Command, painter, tmp_path: Path) -> None:
    out = tmp_path / "digits.png"
    code, said, _ = command("generate", "toy", "-n", "4", "--seed", "7", "--steps", "5", "--step-size", "0.1", "-o", str(out))
    assert code == 0
    assert "seed 7" in said
    assert out.read_bytes().startswith(PNG)


def test_options_reach_the_kernel(command: Command, painter, ebbtide: Client, tmp_path: Path) -> None:
    options = ("--sampler", "ddls", "--kernel", "langevin", "--set", "noise_scale=0.5", "--set", "temperature=2", "--priority", "high")
    assert command("generate", "toy", *options, "-o", str(tmp_path / "out.png"))[0] == 0
    job = ebbtide.jobs()[0].job
    assert (job.mcmc.kernel, job.mcmc.noise_scale, job.mcmc.temperature, job.priority) == ("langevin", 0.5, 2, "high")


def test_every_setting_of_every_kernel_can_be_set(command: Command, painter, ebbtide: Client, tmp_path: Path) -> None:
    for name, kernel in KERNELS.items():
        fields = {field: about.default for field, about in kernel.model_fields.items() if field != "kernel"}
        pairs = [word for field, value in fields.items() for word in ("--set", f"{field}={value}")]
        assert command("generate", "toy", "--kernel", name, *pairs, "-o", str(tmp_path / "out.png"))[0] == 0
        assert ebbtide.jobs()[0].job.mcmc == kernel.model_validate({"kernel": name, **fields})


def test_help_lists_the_settings_of_every_kernel(command: Command) -> None:
    said = command("generate", "--help")[1]
    assert "hmc: steps=20, temperature=1.0, beta=1.0, step_size=0.1, leapfrog_steps=5" in said
    assert all(f"{name}: " in said for name in KERNELS)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--set", "leapfrog_steps"), "'leapfrog_steps' is not NAME=VALUE, such as leapfrog_steps=10"),
        (("--set", "=10"), "'=10' is not NAME=VALUE"),
        (("--steps", "5", "--set", "steps=6"), "steps is given twice"),
        (("--set", "temperature=1", "--set", "temperature=2"), "temperature is given twice"),
    ],
)
def test_a_setting_in_a_wrong_form_names_the_option(command: Command, words: tuple[str, ...], told: str) -> None:
    code, _, said = command("generate", "toy", *words)
    assert code == 2
    assert "--set" in said
    assert told in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("generate", "nobody"), "choices: toy"),
        (("generate", "toy", "--step-size", "9"), "mcmc.step_size"),
        (("generate", "toy", "-n", "999"), "num_images"),
        (("generate", "toy", "--set", "leapfrog_steps=10"), "mcmc.leapfrog_steps: unknown field (got 10); choices: kernel, steps,"),
        (("generate", "toy", "--set", "steps=many"), 'mcmc.steps: input should be a valid integer (got "many")'),
        (("generate", "toy", "--set", "temperature=1e999"), 'mcmc.temperature: input should be a valid number (got "1e999")'),
        (("jobs", "show", "unknown"), "no job 'unknown'"),
        (("jobs", "cancel", "unknown"), "no job 'unknown'"),
        (("download", "toy@1"), "the weights of toy@1 are not here"),
        (("train", "mine", "--family", "nobody"), "choices: dcgan, ebgan, gan, lebm"),
        (("models", "--url", "http://127.0.0.1:1"), "no answer from"),
    ],
)
def test_a_refusal_is_one_line_and_exit_code_1(command: Command, words: tuple[str, ...], told: str) -> None:
    code, _, said = command(*words)
    assert code == 1
    assert told in said
    assert len(said.strip().splitlines()) == 1


def test_a_failed_job_is_one_line_and_writes_nothing(command: Command, painter, tmp_path: Path) -> None:
    painter.failure = "diverged: chain 3 at step [17]"
    code, _, said = command("generate", "toy", "-o", str(tmp_path / "out.png"))
    assert code == 1
    assert "chain 3 at step [17]" in said
    assert not (tmp_path / "out.png").exists()


def test_train_prints_the_published_version(command: Command, painter) -> None:
    code, said, _ = command("train", "mine", "--steps", "5")
    assert (code, said.split()[0]) == (0, "mine@1")


def test_models_and_jobs_are_listed(command: Command, painter, ebbtide: Client) -> None:
    assert "ddls*" in command("models")[1]
    job_id = ebbtide.generate("toy", num_images=3).job_id
    code, said, _ = command("jobs", "list")
    assert code == 0
    assert job_id in said
    assert json.loads(command("jobs", "show", job_id)[1])["status"] == "finished"


def test_a_queued_job_is_canceled(command: Command, ebbtide: Client) -> None:
    assert "canceled" in command("jobs", "cancel", ebbtide.submit("toy").id)[1]


def test_jobs_are_filtered_and_their_files_deleted(command: Command, painter, ebbtide: Client) -> None:
    made = ebbtide.generate("toy").job_id
    painter.rest()
    waiting = ebbtide.submit("toy").id
    found = json.loads(command("jobs", "list", "--status", "queued", "--status", "running", "--model", "toy", "--json")[1])
    assert [job["id"] for job in found["jobs"]] == [waiting]
    assert json.loads(command("jobs", "list", "--kind", "train", "--json")[1])["jobs"] == []
    assert command("jobs", "discard", made)[:2] == (0, "its files are deleted\n")
    assert "the job is queued" in command("jobs", "discard", waiting)[2]


def test_a_job_is_followed_to_its_end(command: Command, painter, ebbtide: Client) -> None:
    assert command("jobs", "follow", ebbtide.submit("toy").id)[:2] == (0, "finished\n")
    painter.failure = "diverged: chain 3"
    assert "diverged: chain 3" in command("jobs", "follow", ebbtide.submit("toy").id)[2]


def test_following_leaves_a_job_running_at_ctrl_c(address: str, painter, ebbtide: Client, eventually) -> None:
    painter.rest()
    job_id = ebbtide.submit("toy").id
    run = subprocess.Popen(
        [*EBBTIDE, "jobs", "follow", job_id], env=os.environ | {"EBBTIDE_URL": address}, stderr=subprocess.PIPE, text=True
    )
    eventually(lambda: "ebbtide_event_streams 1.0" in httpx.get(f"{address}/metrics").text)
    run.send_signal(signal.SIGINT)
    assert "the job goes on" in run.communicate(timeout=30)[1]
    assert ebbtide.job(job_id).status == "queued"


def test_a_picture_that_cannot_be_made_again_says_why(command: Command, painter, tmp_path: Path) -> None:
    (tmp_path / "plain.png").write_bytes(png())
    code, _, said = command("replay", str(tmp_path / "plain.png"))
    assert code == 1
    assert "the PNG has no text 'ebbtide'" in said


def test_calibrate_names_the_new_version(command: Command, painter, ebbtide: Client) -> None:
    code, said, _ = command("calibrate", "toy", "--seed", "3", "--set", "steps=50", "--set", "noise_first=0.5")
    assert (code, said.strip()) == (0, "toy@3: FID 9 -> 6 by reweighting; @1 stays the default until `ebbtide promote toy@3`")
    job = ebbtide.jobs()[0].job
    assert (job.kind, job.seed, job.settings.steps, job.settings.noise_first) == ("calibrate", 3, 50, 0.5)


def test_versions_are_promoted_and_deleted(command: Command, store: Store, api: httpx.Client) -> None:
    for version in (1, 2):
        shutil.copytree(store.root / "toy" / str(version), store.root / "other" / str(version))
        card = json.loads((store.root / "toy" / str(version) / "card.json").read_text()) | {"name": "other"}
        (store.root / "other" / str(version) / "card.json").write_text(json.dumps(card))
    assert "other\t1, 2*" in command("models")[1]
    assert command("promote", "other@1")[:2] == (0, "other@1 is the default\n")
    assert "other\t1*, 2" in command("models")[1]
    assert command("delete", "other@2")[:2] == (0, "deleted other@2\n")
    code, _, said = command("delete", "other@1")
    assert (code, said.strip()) == (1, "ebbtide: other@1 is the default; promote another version first")
    shutil.rmtree(store.root / "other")


def test_calibrate_says_why_there_is_no_new_version(command: Command, painter) -> None:
    painter.failure = "workers.training.process.JobFailed: no-gain: FID stays at 14.5"
    code, _, said = command("calibrate", "toy")
    assert (code, said.strip()) == (1, "ebbtide: no-gain: FID stays at 14.5")


def test_the_version_is_told(command: Command, api: httpx.Client) -> None:
    assert command("--version") == (0, f"{api.get('/version').json()['version']}\n", "")


def test_lists_that_are_piped_keep_every_cell_whole(
    address: str, api: httpx.Client, painter, ebbtide: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ebbtide.wait(ebbtide.submit("toy", num_images=2, seed=2**62).id)
    env = os.environ | {"EBBTIDE_URL": address, "COLUMNS": "20"}
    piped = [*EBBTIDE, "jobs", "list"]
    lines = subprocess.run(piped, env=env, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    assert lines[0].split("\t") == ["job", "status", "request", "progress"]
    assert lines[1].split("\t")[:3] == [job.id, "finished", job.job.describe()]


def test_everything_is_there_as_json(command: Command, painter, ebbtide: Client, tmp_path: Path) -> None:
    made = json.loads(command("generate", "toy", "-o", str(tmp_path / "out.png"), "--json")[1])
    assert (made["status"], made["job"]["model"]) == ("finished", "toy")
    assert [job["id"] for job in json.loads(command("jobs", "list", "--json")[1])["jobs"]] == [made["id"]]
    assert json.loads(command("models", "--json")[1])["models"][0]["name"] == "toy"
    assert json.loads(command("train", "toy2", "--steps", "1", "--json")[1])["result"]["model"] == "toy2"
    assert json.loads(command("jobs", "cancel", made["id"], "--json")[1])["status"] == "finished"


def test_a_picture_goes_to_standard_output_alone(address: str, api: httpx.Client, painter) -> None:
    env = os.environ | {"EBBTIDE_URL": address}
    piped = [*EBBTIDE, "generate", "toy", "-o", "-"]
    assert subprocess.run(piped, env=env, capture_output=True, check=True, timeout=60).stdout.startswith(PNG)


@pytest.mark.parametrize(("words", "told"), [(("-o", "/nowhere/out.png"), "no folder /nowhere"), (("-o", "-", "--json"), "--json")])
def test_where_nothing_can_be_written_no_job_is_sent(command: Command, ebbtide: Client, words: tuple[str, ...], told: str) -> None:
    code, said, failed = command("generate", "toy", *words)
    assert (code, said) == (1, "")
    assert told in failed
    assert failed.count("\n") == 1
    assert ebbtide.jobs() == ()


def test_an_answer_of_something_else_is_one_line(command: Command, tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        code, _, failed = command("models", "--url", f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert code == 1
    assert [line for line in failed.splitlines() if "127.0.0.1 - -" not in line] == [failed.splitlines()[-1]]
    assert failed.splitlines()[-1].startswith("ebbtide: ")


def test_ctrl_c_cancels_the_job_and_exits_with_130(address: str, api: httpx.Client, painter, ebbtide: Client, eventually) -> None:
    painter.rest()
    env = os.environ | {"EBBTIDE_URL": address}
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "  # a shell's background jobs ignore SIGINT
    command = [sys.executable, "-c", heard + EBBTIDE[-1], "generate", "toy", "-o", "-"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            (job,) = eventually(ebbtide.jobs, limit_s=30)
            eventually(lambda: "ebbtide_event_streams 0" not in api.get("/metrics").text, limit_s=30)
            process.send_signal(signal.SIGINT)
            _, failed = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "canceled" in failed
    assert "Traceback" not in failed
    assert ebbtide.job(job.id).status == "canceled"

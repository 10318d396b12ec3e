"""Training in the foreground and as a job: the same run, resumable, with what it says on the way."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.checkpoints import Store
from workers.artifacts import Artifacts
from workers.jobs import Status, TrainJob
from workers.training import command_line
from workers.training_reports import JobEvents, StopFlag, Terminal

ROOT = Path(__file__).parents[2]
TINY = TrainJob(name="toy", family="sngan", dataset="digits", steps=40, batch_size=8, width=8, latent_size=4, seed=1, calibrate=False)
ENDLESS = TINY.model_copy(update={"steps": 1_000_000})


@pytest.fixture
def start(settings: Any, redis: Any) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `python -m workers.training` with these arguments."""
    started = []

    def run(*arguments: str) -> subprocess.Popen[str]:
        told = {"EBBTIDE_REDIS_URL": settings.redis_url, "EBBTIDE_DATA": str(settings.data), "EBBTIDE_THREADS": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "workers.training", *arguments]
        started.append(
            subprocess.Popen(command, env=os.environ | told, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def test_the_command_in_a_card_trains_the_same_again():
    line = command_line(TINY)
    assert line == (
        "python -m workers.training --name toy --family sngan --dataset digits --steps 40 --batch-size 8 --width 8"
        " --latent-size 4 --seed 1 --no-calibrate"
    )


def test_a_terminal_hears_steps_and_figures():
    out = io.StringIO()
    terminal = Terminal(StopFlag(), out)
    terminal.progress(20, 100)
    terminal.metrics(20, {"loss": 1.25})
    assert "step 20/100" in out.getvalue()
    assert "loss 1.25" in out.getvalue()


def test_a_job_hears_everything_and_can_be_stopped(broker, redis):
    job_id = broker.submit(TINY)
    flag = StopFlag()
    events = JobEvents(job_id, broker, Artifacts.open("", redis), flag)
    events.progress(5, 40)
    events.metrics(5, {"loss": 0.5})
    events.sample(5, np.zeros((4, 8, 8, 1), np.uint8))
    assert [event.name for event in broker.events(job_id)] == ["queued", "progress", "metrics", "sample"]
    assert broker.events(job_id)[-1].data == {"step": 5, "artifact": "sample-5.png"}
    assert Artifacts.open("", redis).get(job_id, "sample-5.png").startswith(b"\x89PNG")
    assert not events.should_stop()
    flag.note(signal.SIGTERM, None)
    assert events.should_stop()
    assert not events.canceled


@pytest.mark.system
def test_a_run_in_the_foreground_goes_on_after_an_interruption(start, settings, eventually):
    command = command_line(TINY.model_copy(update={"steps": 2_000})).split()[3:]
    first = start(*command)
    assert any(line.startswith("step") for line in first.stdout)
    first.send_signal(signal.SIGINT)
    said, _ = first.communicate(timeout=60)
    assert first.returncode == 130
    assert "the same command goes on" in said
    second = start(*command)
    step = next(line for line in second.stdout if line.startswith("step"))
    assert int(step.split()[1].split("/")[0]) > 20  # the first report of a fresh run comes after 20


@pytest.mark.system
def test_a_queued_training_is_published_and_told(start, broker, redis, settings, eventually):
    job_id = broker.submit(TINY)
    assert start("--burst").wait(200) == 0
    view = broker.view(job_id)
    assert view.status is Status.FINISHED, view.problem
    card = Store(settings.checkpoints).card("toy")
    assert (card.version, card.digest) == (view.result.version, view.result.digest)
    assert card.training.command == command_line(TINY)
    names = [event.name for event in broker.events(job_id)]
    assert (names[0], names[1], names[-1]) == ("queued", "started", "end")
    assert {"progress", "metrics", "sample"} <= set(names)
    assert Artifacts.open("", redis).get(job_id, view.result.artifacts[-1]).startswith(b"\x89PNG")
    assert all(redis.ttl(key) > 0 for key in redis.scan_iter(f"*{job_id}*"))
    assert not (settings.runs_folder / job_id).exists()


@pytest.mark.system
@pytest.mark.parametrize("heard", [True, False], ids=["heard", "unheard"])
def test_a_running_training_is_canceled(heard, start, broker, settings, eventually, monkeypatch):
    if not heard:  # the command reached nobody: the run finds the mark itself
        monkeypatch.setattr("workers.broker.send_command", lambda *args, **kwargs: None)
    job_id = broker.submit(ENDLESS)
    start()
    eventually(lambda: broker.view(job_id).progress, limit_s=60)
    assert broker.cancel(job_id).status is Status.RUNNING
    view = eventually(lambda: (seen := broker.view(job_id)).status.over and seen, limit_s=20)
    assert (view.status, view.problem.reason) == (Status.CANCELED, "canceled")
    eventually(lambda: broker.events(job_id)[-1].name == "end")
    eventually(lambda: not (settings.runs_folder / job_id).exists())


@pytest.mark.system
def test_a_trainer_told_to_leave_puts_its_job_back_to_be_resumed(start, broker, settings, eventually):
    job_id = broker.submit(ENDLESS)
    first = start()
    eventually(lambda: broker.view(job_id).progress, limit_s=60)
    first.terminate()
    assert first.wait(30) == 0
    assert broker.view(job_id).status is Status.QUEUED
    done = _last_progress(broker, job_id)
    start()
    eventually(lambda: _last_progress(broker, job_id) > done, limit_s=60)
    events = broker.events(job_id)
    again = max(index for index, event in enumerate(events) if event.name == "started")
    assert min(event.data["done"] for event in events[again:] if event.name == "progress") > done
    broker.cancel(job_id)
    eventually(lambda: broker.view(job_id).status is Status.CANCELED, limit_s=20)


@pytest.mark.system
def test_a_killed_trainer_loses_its_job_to_the_next_one(start, broker, redis, eventually):
    job_id = broker.submit(ENDLESS)
    first = start()
    eventually(lambda: broker.view(job_id).progress, limit_s=60)
    first.kill()
    start()
    eventually(lambda: [event.name for event in broker.events(job_id)].count("started") == 2, limit_s=20)
    broker.cancel(job_id)
    eventually(lambda: broker.view(job_id).status is Status.CANCELED, limit_s=20)
    assert redis.zcard("rq:wip:train") == 0


def _last_progress(broker: Any, job_id: str) -> int:
    return max((event.data["done"] for event in broker.events(job_id) if event.name == "progress"), default=0)

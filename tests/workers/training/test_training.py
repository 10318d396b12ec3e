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
from rq.job import Job

from models.checkpoints import Store
from workers.assignments import parse_assignments
from workers.jobs import Status, TrainJob
from workers.queue.artifacts import Artifacts
from workers.training.__main__ import main
from workers.training.job import command_line
from workers.training.options import as_assignments
from workers.training.reports import JobEvents, StopFlag, Terminal

ROOT = Path(__file__).parents[3]
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
        " --latent-size 4 --seed 1 --evaluations 10 --no-calibrate"
    )


def test_the_command_in_a_card_names_the_options_that_are_not_defaults():
    wanted = TINY.model_copy(update={"family": "lebm", "options": {"sigma": 0.2, "hidden": 200}})
    assert command_line(wanted).endswith(" --set sigma=0.2 --no-calibrate")
    assert parse_assignments(as_assignments("lebm", wanted.options)) == {"sigma": 0.2}


@pytest.mark.parametrize("wrong", [("--set", "sigma"), ("--set", "sigma=0.2"), ("--family", "lebm", "--set", "hidden=0")])
def test_a_wrong_option_ends_the_command_at_once(wrong, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--name", "toy", *wrong])
    assert ended.value.code == 2
    assert wrong[-1].split("=")[0] in capsys.readouterr().err


def test_a_terminal_hears_steps_and_figures():
    out = io.StringIO()
    terminal = Terminal(StopFlag(), out)
    terminal.progress(20, 100, "training")
    terminal.metrics(20, {"loss": 1.25})
    terminal.progress(3, 10, "calibrating")
    assert "step 20/100" in out.getvalue()
    assert "loss 1.25" in out.getvalue()
    assert "calibrating  30%" in out.getvalue()


def test_a_job_hears_everything_and_can_be_stopped(broker, redis):
    job_id = broker.submit(TINY)
    flag = StopFlag()
    redis.hset(Job.key_for(job_id), mapping={"status": "started", "worker_name": "w"})
    events = JobEvents(job_id, "w", broker, Artifacts.open("", redis), flag)
    events.progress(5, 40, "training")
    events.metrics(5, {"loss": 0.5})
    events.sample(5, np.zeros((4, 8, 8, 1), np.uint8))
    assert [event.name for event in broker.events(job_id)] == ["queued", "progress", "metrics", "sample"]
    assert broker.events(job_id)[1].data == {"done": 5, "total": 40, "unit": "steps", "stage": "training"}
    assert broker.events(job_id)[-1].data == {"step": 5, "artifact": "sample-5.png"}
    assert Artifacts.open("", redis).get(job_id, "sample-5.png").startswith(b"\x89PNG")
    assert not events.should_stop()
    flag.note(signal.SIGTERM, None)
    assert events.should_stop()
    assert (events.canceled, events.lost) == (False, False)


@pytest.mark.parametrize("now", [{"status": "queued"}, {"worker_name": "another"}, {"status": "failed"}])
def test_a_job_that_is_no_longer_its_workers_stops(now, broker, redis):
    job_id = broker.submit(TINY)
    redis.hset(Job.key_for(job_id), mapping={"status": "started", "worker_name": "w"} | now)
    events = JobEvents(job_id, "w", broker, Artifacts.open("", redis), StopFlag())
    assert events.should_stop()
    assert events.lost


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
    assert card.training.best_step in range(4, 41, 4)
    assert card.training.validation_fid > 0
    assert card.training.images_per_second > 0
    names = [event.name for event in broker.events(job_id)]
    assert (names[0], names[1], names[-1]) == ("queued", "started", "end")
    assert {"progress", "metrics", "sample"} <= set(names)
    assert Artifacts.open("", redis).get(job_id, view.result.artifacts[-1]).startswith(b"\x89PNG")
    assert all(redis.ttl(key) > 0 for key in redis.scan_iter(f"*{job_id}*"))
    assert not (settings.runs_folder / job_id).exists()


@pytest.mark.system
def test_a_job_whose_data_is_not_here_fails_and_says_where_to_put_it(start, broker, settings):
    job_id = broker.submit(TINY.model_copy(update={"dataset": "folder:flowers"}))
    assert start("--burst").wait(200) == 0
    problem = broker.view(job_id).problem
    assert problem.reason == "unavailable"
    assert str(settings.data / "datasets" / "flowers") in problem.detail


@pytest.mark.system
def test_a_run_in_the_foreground_without_its_data_says_where_to_put_it(start, settings):
    run = start("--name", "toy", "--dataset", "folder:flowers")
    said, _ = run.communicate(timeout=100)
    assert run.returncode == 1
    assert str(settings.data / "datasets" / "flowers") in said
    assert "Traceback" not in said


def test_a_dataset_that_does_not_exist_ends_the_command_with_the_choices(capsys):
    with pytest.raises(SystemExit):
        main(["--name", "toy", "--dataset", "folder:../flowers"])
    assert "folder:NAME" in capsys.readouterr().err


@pytest.mark.system
@pytest.mark.parametrize("heard", [True, False], ids=["heard", "unheard"])
def test_a_running_training_is_canceled(heard, start, broker, settings, eventually, monkeypatch):
    if not heard:  # the command reached nobody: the run finds the mark itself
        monkeypatch.setattr("workers.queue.broker.send_command", lambda *args, **kwargs: None)
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
    assert min(event.data["done"] for event in events[again:] if event.data.get("stage") == "training") > done
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


def horse_of(worker: subprocess.Popen[str]) -> int:
    """The process of its job."""
    return int(Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()[0])


def is_gone(pid: int) -> bool:
    """Dead, whether or not anybody has taken notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.system
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends it there alone")
def test_a_run_killed_with_its_trainer_while_it_publishes_is_published_once(start, broker, settings, eventually):
    job_id = broker.submit(TINY)
    first = start()
    eventually(lambda: _last_progress(broker, job_id) == TINY.steps, limit_s=60)
    horse = horse_of(first)
    first.kill()
    eventually(lambda: is_gone(horse), limit_s=2)
    assert Store(settings.checkpoints).versions("toy") == []
    start()
    eventually(lambda: broker.view(job_id).status is Status.FINISHED, limit_s=120)
    assert Store(settings.checkpoints).versions("toy") == [1]


@pytest.mark.system
def test_a_trainer_that_was_away_for_longer_than_its_lease_publishes_nothing_and_lives_on(start, broker, redis, settings, eventually):
    job_id = broker.submit(TINY)
    away = start()
    eventually(lambda: _last_progress(broker, job_id) == TINY.steps, limit_s=60)
    horse = horse_of(away)
    for pid in (horse, away.pid):
        os.kill(pid, signal.SIGSTOP)
    start()
    eventually(lambda: [event.name for event in broker.events(job_id)].count("started") == 2, limit_s=30)
    for pid in (away.pid, horse):
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: is_gone(horse), limit_s=30)
    eventually(lambda: broker.view(job_id).status is Status.FINISHED, limit_s=120)
    eventually(lambda: [worker.jobs for worker in broker.workers()] == [0, 0])
    assert away.poll() is None
    assert Store(settings.checkpoints).versions("toy") == [1]
    assert redis.xlen(f"rq:results:{job_id}") == 1
    eventually(lambda: [event.name for event in broker.events(job_id)].count("end") == 1)
    assert redis.llen("rq:queue:train") == 0


@pytest.mark.system
def test_a_trainer_told_to_leave_while_it_publishes_leaves_and_the_next_one_publishes(start, broker, settings, eventually):
    job_id = broker.submit(TINY)
    first = start()
    eventually(lambda: _last_progress(broker, job_id) == TINY.steps, limit_s=60)
    first.terminate()
    assert first.wait(60) == 0
    assert broker.view(job_id).status is Status.QUEUED
    assert Store(settings.checkpoints).versions("toy") == []
    start()
    eventually(lambda: broker.view(job_id).status is Status.FINISHED, limit_s=120)
    assert Store(settings.checkpoints).versions("toy") == [1]


def _last_progress(broker: Any, job_id: str) -> int:
    return max((event.data["done"] for event in broker.events(job_id) if event.data.get("stage") == "training"), default=0)

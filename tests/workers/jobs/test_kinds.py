"""A kind of job is one file: its queue, its handler and its result are found there, by the broker, the worker and the API."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rq import SimpleWorker

from workers.jobs import KINDS, Status, run
from workers.queue import routing

ROOT = Path(__file__).parents[3]
ECHO = '''
"""Repeats a text."""

from typing import ClassVar, Literal

from workers.jobs.base import Job, Result


class EchoResult(Result):
    kind: Literal["echo"] = "echo"
    text: str


class EchoJob(Job):
    kind: Literal["echo"] = "echo"
    text: str

    queues: ClassVar[tuple[str, ...]] = ("echo",)
    result: ClassVar[type[Result]] = EchoResult
    handler: ClassVar[str | None] = "workers.jobs.echo:echo"


def echo(job: EchoJob) -> EchoResult:
    return EchoResult(text=2 * job.text)
'''
BROKER = """
import sys
from service.protocol.delivery import reply
from service.settings import Settings
from workers.jobs import KINDS
from workers.queue.broker import Broker
"""
SUBMIT = BROKER + "print(Broker.connect(Settings()).submit(KINDS['echo'](text='ho')))"
LOOK = BROKER + "print(reply(Broker.connect(Settings()).view(sys.argv[1])).model_dump_json())"


@pytest.fixture
def extended(tmp_path: Path, settings) -> Callable[..., str]:
    """Runs Python on a copy of the sources that has one kind of job more; returns what it prints."""
    for package in ("models", "workers", "service"):
        shutil.copytree(ROOT / package, tmp_path / "house" / package, ignore=shutil.ignore_patterns("zoo", "__pycache__"))
    (tmp_path / "house/workers/jobs/echo.py").write_text(ECHO)

    def python(*arguments: str) -> str:
        env = os.environ | {"EBBTIDE_REDIS_URL": settings.redis_url, "EBBTIDE_DATA": str(tmp_path), "PYTHONPATH": str(tmp_path / "house")}
        command = [sys.executable, *arguments]
        done = subprocess.run(command, env=env, cwd=tmp_path / "house", stdout=subprocess.PIPE, text=True, timeout=100, check=True)
        return done.stdout.strip()

    return python


@pytest.mark.system
def test_a_kind_of_job_is_added_with_one_file(extended, redis):
    job_id = extended("-c", SUBMIT)
    assert redis.lrange("rq:queue:echo", 0, -1) == [job_id.encode()]
    extended("-m", "workers.training", "--burst")
    view = json.loads(extended("-c", LOOK, job_id))
    assert (view["status"], view["problem"]) == ("finished", None)
    assert view["job"] == {"kind": "echo", "caller": "", "text": "ho"}
    assert view["result"] == {"kind": "echo", "artifacts": [], "text": "hoho"}
    events = [fields[b"name"] for _, fields in redis.xrange(f"ebbtide:events:{job_id}")]
    assert events == [b"queued", b"started"]  # its record has the end
    assert not redis.exists("rq:queue:echo:intermediate")


def test_no_two_kinds_share_a_queue():
    assert sum(len(kind.queues) for kind in KINDS.values()) == len(set(routing.QUEUES))


def test_rqs_own_worker_fails_a_generation_job_and_says_which_worker_runs_it(broker, redis, generate_job):
    with pytest.raises(TypeError, match="python -m workers.generation"):
        run(generate_job().model_dump(mode="json"))
    job_id = broker.submit(generate_job())
    SimpleWorker(["generate"], connection=redis, serializer="json").work(burst=True)
    view = broker.view(job_id)
    assert view.status is Status.FAILED
    assert "python -m workers.generation" in view.problem.detail

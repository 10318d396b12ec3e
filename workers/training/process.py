"""What the process of one job has in common with its worker, whatever the job's kind: reports, the wish to stop, and its ends."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rq import Retry, get_current_job

from models.checkpoints import Store, StoreUnavailable
from workers import logs
from workers.bucket import open_store
from workers.jobs import Job, Problem
from workers.queue.artifacts import Artifacts
from workers.queue.broker import Broker
from workers.queue.views import reason_text
from workers.settings import WorkerSettings
from workers.tracing import Tracing
from workers.training.reports import JobEvents, StopFlag

LOST = 3  # exit status of the process of a job that its worker no longer has
STOP = StopFlag()  # set in the process of a job when its worker has to leave


class JobFailed(Exception):
    """Ends a job with a problem people can read."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(reason_text(problem))
        self.problem = problem


@contextmanager
def begun(wanted: Job) -> Iterator[None]:
    """The run of the current RQ job: its log lines carry its id, and its span continues its request's trace."""
    current = get_current_job()
    assert current is not None
    logs.job.set(current.id)
    spans = Tracing.open("ebbtide-training")
    if spans is None:
        yield
        return
    spans.begin(current.id, current.id, wanted, time.time())
    problem: Problem | None = None
    try:
        yield
    except JobFailed as error:
        problem = error.problem
        raise
    except Exception as error:
        problem = Problem(reason="internal", detail=str(error))
        raise
    finally:
        spans.end(current.id, problem)
        spans.close()


def current_events(settings: WorkerSettings) -> JobEvents:
    """The events and artifacts of the job that this process runs."""
    job = get_current_job()
    assert job is not None
    broker = Broker.connect(settings)
    return JobEvents(job.id, os.environ["RQ_WORKER_ID"], broker, Artifacts.open(settings.artifacts, broker.redis), STOP)


def opened_store(settings: WorkerSettings) -> Store:
    """The checkpoints, for a job. Raises JobFailed where their bucket cannot be used."""
    try:
        return open_store(settings)
    except StoreUnavailable as error:
        raise JobFailed(Problem(reason="unavailable", detail=str(error))) from error


def end_early(events: JobEvents) -> Retry:
    """How a job ends that `events` told to stop: a Retry puts it back because this worker has to leave. Raises JobFailed for a cancel."""
    if events.lost:
        os._exit(LOST)  # the job has another worker by now, or soon; nothing of this process may be recorded
    if events.canceled:
        raise JobFailed(Problem(reason="canceled", detail="canceled on request"))
    return Retry(max=1_000_000, enqueue_at_front=True)

"""Turns Redis records of jobs, queues and workers into views: pure functions, no connection."""

import re
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from rq.job import Job
from rq.results import Result

from models.cards import Frozen
from workers.jobs import JOB, RESULT, AnyJob, Event, JobView, Problem, Progress, Status
from workers.queue import keys
from workers.queue.routing import FORKED_QUEUES
from workers.queue.worker_load import LANES, LaneLoad

ALIVE_S = 30.0
QUEUED_ID, STARTED_ID, END_ID = "0-1", "0-2", f"{10**19 - 1}-0"  # of events outside the stream: before and after all its ids
DIED_TWICE = "its worker died twice while running it"
RawHash = Mapping[bytes, bytes]
_STATUSES = {
    b"started": Status.RUNNING,
    b"finished": Status.FINISHED,
    b"failed": Status.FAILED,
    b"stopped": Status.CANCELED,
    b"canceled": Status.CANCELED,
}
_REASON = re.compile(r"(?:[\w.]+: )?(diverged|expired|canceled|abandoned|unavailable|no-gain|internal): (.+)")
_LOST = ("AbandonedJobError", "Work-horse terminated unexpectedly", "stuck in intermediate queue")


class WorkerView(Frozen):
    """A live worker process."""

    name: str
    kind: Literal["generate", "train"]
    state: str
    jobs: int
    heartbeat_age_s: float
    progress_age_s: float = 0.0  # age of its jobs' progress at that heartbeat
    capacity: int | None = None  # chains it can run at once; None for training
    device: str | None = None
    chain_steps_per_s: float | None = None  # recent pace; None where nothing ran recently
    slowdown: float | None = None  # recent seconds of steps over the seconds in the lanes' tables
    lanes: tuple[LaneLoad, ...] = ()
    chains_stepping: int = 0
    chain_steps_left: int = 0  # still needed by its jobs
    chain_steps_waiting: int = 0  # the part of them that belongs to chains not started yet


class QueueView(Frozen):
    """Jobs waiting in one queue."""

    name: str
    depth: int
    oldest_age_s: float
    backlog_chain_steps: int
    backlog_tflop: float = 0.0  # of training and calibration jobs, as estimated


class StoreView(Frozen):
    """What Redis holds, in bytes."""

    used: int
    limit: int  # `maxmemory`; 0 without one
    kept: int  # of jobs: records, results and images, wherever images are stored; of jobs that have not ended, the most they can leave


def status_of(rq_status: bytes | None, expires_at: bytes | None) -> Status:
    """A job's status; a queued job past its deadline has expired, even if no worker has looked at it."""
    status = _STATUSES.get(rq_status or b"", Status.QUEUED)
    if status is Status.QUEUED and expires_at and float(expires_at) < time.time():
        return Status.EXPIRED
    return status


def status_of_record(raw: RawHash) -> Status:
    """A job's status from RQ's hash."""
    return status_of(raw.get(b"status"), raw.get(keys.EXPIRES_AT.encode()))


def order(event_id: str) -> tuple[int, ...]:
    """Sort key of a job's events."""
    return tuple(map(int, event_id.split("-")))


def first_events(began: bytes | None) -> list[Event]:
    """The first two events of a job that was started as it was submitted: its record has them, not the stream."""
    if began is None:
        return []
    queue, worker = began.decode().split(" ", 1)
    return [Event(id=QUEUED_ID, name="queued", data={"queue": queue}), Event(id=STARTED_ID, name="started", data={"worker": worker})]


def last_event(view: JobView) -> Event:
    """The `end` event of a job that is over."""
    return Event(id=END_ID, name="end", data={"status": view.status} | (view.problem.model_dump() if view.problem else {}))


def job_view(job: Job, raw: RawHash, result: Result | None, progress: bytes | None, position: int | None) -> JobView:
    """Everything known of a job; `job` has been restored from `raw`."""
    status = status_of_record(raw)
    problem = problem_of(status, result.exc_string if result else None)
    if problem and problem.reason in ("canceled", "expired"):
        status = Status(problem.reason)
    finished = status is Status.FINISHED and result is not None
    return JobView(
        id=job.id,
        status=status,
        job=request_of(job),
        created_at=job.created_at.timestamp(),
        started_at=_seconds(job.started_at) if status is not Status.QUEUED else None,  # a retried job keeps traces of its first try
        ended_at=_seconds(job.ended_at) if status.over else None,
        queue_position=(position or 0) if status is Status.QUEUED else None,
        progress=Progress.model_validate_json(progress) if progress and status is Status.RUNNING else None,
        result=RESULT.validate_python(result.return_value) if finished and result else None,
        problem=problem,
        worker=job.worker_name or None if status is not Status.QUEUED else None,
    )


def request_of(job: Job) -> AnyJob:
    """The request an RQ job carries."""
    return JOB.validate_python(job.kwargs["job"])


def reason_text(problem: Problem) -> str:
    """A problem as RQ's failure text, which dashboards show and `problem_of` reads back."""
    return f"{problem.reason}: {' '.join(problem.detail.split())}"


def problem_of(status: Status, failure: str | None) -> Problem | None:
    """Why a job has no result, from RQ's failure text: our own, a traceback, or RQ's message for a dead worker."""
    if status is Status.CANCELED:
        return Problem(reason="canceled", detail="canceled on request")
    if status is Status.EXPIRED:
        return Problem(reason="expired", detail="the deadline passed before a worker was free")
    if status is not Status.FAILED:
        return None
    last_line = (failure or "").strip().rpartition("\n")[2]
    if found := _REASON.fullmatch(last_line):
        return Problem.model_validate({"reason": found[1], "detail": found[2]})
    if any(words in last_line for words in _LOST):
        return Problem(reason="abandoned", detail=DIED_TWICE)
    return Problem(reason="internal", detail=last_line or "no reason was recorded")


def timestamp(moment: bytes | None) -> float | None:
    """Unix seconds of one of RQ's time fields as Redis holds it."""
    if not moment:
        return None
    return datetime.fromisoformat(moment.decode()).timestamp()  # it ends in Z


def is_alive(raw: RawHash) -> bool:
    """Whether a worker's last heartbeat is recent and it has not left; an idle training worker sends one every five seconds."""
    seen = timestamp(raw.get(b"last_heartbeat"))
    return seen is not None and b"death" not in raw and time.time() - seen < ALIVE_S


def worker_view(key: bytes, raw: RawHash, running: int) -> WorkerView:
    """A worker from RQ's hash, where generation workers add their load."""
    fields = {name.decode(): value.decode() for name, value in raw.items()}
    return WorkerView(
        name=key.decode().rpartition(":")[2],
        kind="train" if set(FORKED_QUEUES) & set(fields.get("queues", "").split(",")) else "generate",
        state=fields.get("state", "started"),
        jobs=running,
        heartbeat_age_s=max(0.0, time.time() - (timestamp(raw[b"last_heartbeat"]) or 0.0)),
        capacity=int(fields["capacity"]) if "capacity" in fields else None,
        device=fields.get("device"),
        chain_steps_per_s=float(fields["chain_steps_per_s"]) if "chain_steps_per_s" in fields else None,
        slowdown=float(fields["slowdown"]) if "slowdown" in fields else None,
        progress_age_s=float(fields.get("progress_age_s", 0.0)),
        lanes=LANES.validate_json(fields.get("lanes", "[]")),
        **{name: int(fields.get(name, 0)) for name in ("chains_stepping", "chain_steps_left", "chain_steps_waiting")},
    )


def queue_view(name: str, depth: int, oldest_created_at: bytes | None, backlog: int, work: float) -> QueueView:
    """A queue from its length, the creation time of its first job and its backlog in chain-steps and in 10^12 operations."""
    born = timestamp(oldest_created_at)
    age_s = max(0.0, time.time() - born) if born else 0.0
    steps = max(0, backlog) if depth else 0
    return QueueView(name=name, depth=depth, oldest_age_s=age_s, backlog_chain_steps=steps, backlog_tflop=work)


def _seconds(moment: datetime | None) -> float | None:
    return moment.timestamp() if moment else None

"""One training job, run in a process of its own: trains, reports, and ends with a version, a reason or a request to go on elsewhere."""

import os
import shlex
from typing import TYPE_CHECKING, Any

from rq import Retry, get_current_job

from models.checkpoints import Store
from workers.jobs import Problem, TrainJob, TrainResult
from workers.queue.artifacts import Artifacts
from workers.queue.broker import Broker
from workers.queue.views import reason_text
from workers.settings import WorkerSettings
from workers.training.options import assignments
from workers.training.reports import JobEvents, StopFlag

if TYPE_CHECKING:
    from models.training.trainer import TrainSettings

LOST = 3  # exit status of the process of a job that its worker no longer has
STOP = StopFlag()  # set in the process of a job when its worker has to leave


class JobFailedError(Exception):
    """Ends a training job with a problem people can read."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(reason_text(problem))


def train_job(job: dict[str, Any]) -> dict[str, Any] | Retry:
    """What a training job names as its function; runs in a process of its own."""
    settings, wanted = WorkerSettings(), TrainJob.model_validate(job)
    return run_job(wanted, settings, command_line(wanted))


def command_line(wanted: "TrainSettings | TrainJob") -> str:
    """The command that trains exactly this."""
    settings = wanted.model_dump(exclude={"calibrate", "kind", "options"})
    words = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    words += [word for assignment in assignments(wanted.family, wanted.options) for word in ("--set", assignment)]
    return shlex.join(["python", "-m", "workers.training", *words, *([] if wanted.calibrate else ["--no-calibrate"])])


def run_job(wanted: TrainJob, settings: WorkerSettings, command: str) -> dict[str, Any] | Retry:
    """Trains what the current RQ job asks for; a Retry puts the job back because this worker has to leave."""
    from models.device import resolve, settle
    from models.training.trainer import Diverged, TrainingStopped, TrainSettings, train

    rq_job = get_current_job()
    assert rq_job is not None
    broker = Broker.connect(settings)
    events = JobEvents(rq_job.id, os.environ["RQ_WORKER_ID"], broker, Artifacts.open(settings.artifacts, broker.redis), STOP)
    broker.publish(rq_job.id, "started", {"worker": rq_job.worker_name})
    run_folder, store = settings.runs_folder / rq_job.id, Store(settings.checkpoints)
    train_settings = TrainSettings.model_validate(wanted.model_dump(exclude={"kind"}))
    device = resolve(settings.device)
    settle(device, settings.threads)
    try:
        card = train(train_settings, run_folder=run_folder, store=store, command=command, reporter=events, device=device)
    except TrainingStopped:
        return _stopped(events)
    except Diverged as error:
        raise JobFailedError(Problem(reason="diverged", detail=str(error))) from error
    result = TrainResult(
        model=card.name, version=card.version, digest=card.digest, seconds=card.training.seconds, artifacts=tuple(events.samples)
    )
    return result.model_dump(mode="json")


def _stopped(events: JobEvents) -> Retry:
    if events.lost:
        os._exit(LOST)  # the job has another worker by now, or soon; nothing of this process may be recorded
    if events.canceled:
        raise JobFailedError(Problem(reason="canceled", detail="canceled on request"))
    return Retry(max=1_000_000, enqueue_at_front=True)

"""The handler of training jobs: trains, reports, and ends with a version, a reason or a request to go on elsewhere."""

import shlex
from typing import TYPE_CHECKING

from rq import Retry

from models.checkpoints import StoreUnavailable
from workers import computing, training_lock
from workers.jobs import Problem, TrainJob, TrainResult
from workers.settings import WorkerSettings
from workers.training.options import as_assignments
from workers.training.process import JobFailed, begun, current_events, end_early, opened_store
from workers.training.tensorboard import recorded

if TYPE_CHECKING:
    import torch

    from models.training.run import TrainSettings

NO_SETTINGS = {"kind", "caller", "tflop", "promote", "traceparent"}  # fields of a job that do not say how to train


def command_line(wanted: "TrainSettings | TrainJob") -> str:
    """The command that trains exactly this."""
    settings = wanted.model_dump(exclude={"calibrate", "options", *NO_SETTINGS})
    words = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    words += [word for assignment in as_assignments(wanted.family, wanted.options) for word in ("--set", assignment)]
    return shlex.join(["python", "-m", "workers.training", *words, *([] if wanted.calibrate else ["--no-calibrate"])])


def train_job(wanted: TrainJob) -> TrainResult | Retry:
    """Trains what the current RQ job asks for, in its process; a Retry puts the job back because this worker has to leave."""
    settings = WorkerSettings()
    with begun(wanted), training_lock.holding(settings.training_lock):
        return _run(wanted, settings, computing.begin(settings))


def _run(wanted: TrainJob, settings: WorkerSettings, device: "torch.device") -> TrainResult | Retry:
    from models.costs import Unsuitable
    from models.datasets import DatasetUnavailable
    from models.training.run import Diverged, TrainingStopped, TrainSettings
    from models.training.trainer import train

    events = current_events(settings)
    run_folder, store = settings.runs_folder / events.job_id, opened_store(settings)
    train_settings = TrainSettings.model_validate(wanted.model_dump(exclude=NO_SETTINGS))
    try:
        with recorded(events, settings.tensorboard, f"{wanted.name}-{events.job_id}") as reporter:
            card = train(
                train_settings,
                run_folder=run_folder,
                store=store,
                command=command_line(wanted),
                reporter=reporter,
                device=device,
                data=settings.datasets,
            )
    except TrainingStopped:
        return end_early(events)
    except Diverged as error:
        raise JobFailed(Problem(reason="diverged", detail=str(error))) from error
    except (DatasetUnavailable, Unsuitable, StoreUnavailable) as error:
        raise JobFailed(Problem(reason="unavailable", detail=str(error))) from error
    assert card is not None  # a job trains in one process
    if wanted.promote:
        store.promote(card.name, card.version)
    return TrainResult(
        model=card.name,
        version=card.version,
        digest=card.digest,
        default_version=store.default(card.name),
        seconds=card.training.seconds,
        artifacts=tuple(events.samples),
    )

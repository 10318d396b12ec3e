"""The handler of calibration jobs: ends with a version, or with the reason why there is none."""

from typing import TYPE_CHECKING

from rq import Retry

from models.checkpoints import CheckpointError
from workers import computing, training_lock
from workers.jobs import CalibrateJob, CalibrateResult, Problem
from workers.settings import WorkerSettings
from workers.training.process import JobFailed, begun, current_events, end_early, opened_store

if TYPE_CHECKING:
    import torch


def calibrate_job(wanted: CalibrateJob) -> CalibrateResult | Retry:
    """Calibrates what the current RQ job asks for, in its process; a Retry puts the job back because this worker has to leave."""
    settings = WorkerSettings()
    with begun(wanted), training_lock.holding(settings.training_lock):
        return _run(wanted, settings, computing.begin(settings))


def _run(wanted: CalibrateJob, settings: WorkerSettings, device: "torch.device") -> CalibrateResult | Retry:
    from models.datasets import DatasetUnavailable
    from models.training.calibration import Plan
    from models.training.recalibration import CalibrationStopped, NoGain, Unfit, recalibrate

    events, store = current_events(settings), opened_store(settings)
    plan = Plan(wanted.settings, wanted.dataset, wanted.seed)
    try:
        card = store.card(wanted.model, wanted.version)
        card = recalibrate(
            card,
            plan,
            store=store,
            device=device,
            should_stop=events.should_stop,
            report=events.progress,
            data=settings.datasets,
        )
    except CalibrationStopped:
        return end_early(events)
    except NoGain as error:
        raise JobFailed(Problem(reason="no-gain", detail=str(error))) from error
    except (Unfit, CheckpointError, DatasetUnavailable) as error:
        raise JobFailed(Problem(reason="unavailable", detail=str(error))) from error
    assert card.calibration is not None
    assert card.calibration.test is not None
    figures = card.calibration.test
    if wanted.promote:
        store.promote(card.name, card.version)
    return CalibrateResult(
        model=card.name,
        version=card.version,
        digest=card.digest,
        default_version=store.default(card.name),
        fid_prior=figures.fid_prior,
        fid_reweighted=figures.fid_reweighted,
    )

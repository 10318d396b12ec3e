"""A published version, calibrated anew: the same generator and critic with another log density ratio, as the model's next version."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from models import datasets
from models.calibration.assessment import needed_gain
from models.cards import ModelCard
from models.checkpoints import Store
from models.families import family
from models.families.base import Size
from models.metrics.base import Evaluator
from models.training.calibration import Judges, Plan, calibrated
from models.training.measurement import Trained
from models.training.progress import Report, Stages, untold
from models.training.publication import place


class NoGain(Exception):
    """The calibration did not lower FID on `validation` by more than its spread."""


class Unfit(Exception):
    """This version cannot be calibrated on this dataset."""


class CalibrationStopped(Exception):
    """`should_stop` returned True; nothing was published."""


def recalibrate(
    card: ModelCard,
    plan: Plan,
    *,
    store: Store,
    device: torch.device,
    should_stop: Callable[[], bool],
    report: Report = untold,
    data: Path = datasets.HERE,
) -> ModelCard:
    """Calibrates a version as planned, and publishes and returns the model's next version.

    `data` is the folder of datasets. Raises NoGain if it does not help, Unfit for a wrong dataset or family, DatasetUnavailable,
    DamagedWeights, and CalibrationStopped when asked to stop.
    """
    trained = _read(card, store, device)
    splits = _splits(plan.dataset, data, card)

    def go_on() -> None:
        if should_stop():
            raise CalibrationStopped(f"the calibration of {card.name}@{card.version} was stopped")

    stages = Stages(report, go_on)
    evaluator = Evaluator(splits.evaluator, plan.dataset, device=device)
    judges = Judges(evaluator.against(splits.validation), evaluator.against(splits.test))
    outcome = calibrated(trained, plan, splits.to(device), judges, stages)
    if outcome.calibration is None:
        seen = outcome.validation
        assert seen is not None
        raise NoGain(
            f"{plan.settings.method} on {plan.dataset}: reweighting takes FID on validation from {seen.fid_prior:g} to "
            f"{seen.fid_reweighted:g}, and it has to be lower by {needed_gain(seen):.3g}; nothing was published"
        )
    return place(outcome, evaluator, splits, store, stages)


def _read(card: ModelCard, store: Store, device: torch.device) -> Trained:
    """The networks of a version. Raises Unfit where its family needs no calibration."""
    if not card.needs_calibration:
        raise Unfit(f"{card.name} is of the family {card.family}, whose samplers need no calibration")
    kind, size = family(card.family, card.options), Size.model_validate(card.networks)
    networks = kind.assemble(size).eval()
    networks.load_state_dict(store.weights(card))
    return Trained(card.name, card.family, kind, networks.to(device), size, card.training, device)


def _splits(dataset: str, data: Path, card: ModelCard) -> datasets.Splits:
    """The dataset's splits. Raises Unfit where its images are not those of the version."""
    splits = datasets.load(dataset, data)
    shape = tuple(splits.train.images.shape[1:])
    if shape != card.image_shape:
        raise Unfit(f"{dataset} has images of {shape}, {card.name}@{card.version} of {card.image_shape} (channels, height, width)")
    return splits

"""Trains a family on a dataset, step by step and resumable, then calibrates, measures and publishes what came out."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from models import datasets, joint
from models.cards import ModelCard, Training
from models.checkpoints import Store
from models.device import name_of
from models.families import family
from models.families.base import Size
from models.training.measurement import Trained
from models.training.progress import Stages
from models.training.publication import publish
from models.training.run import Reporter, Run, TrainSettings
from models.training.selection import Best, Judge

CPU = torch.device("cpu")


def train(
    settings: TrainSettings,
    *,
    run_folder: Path,
    store: Store,
    command: str,
    reporter: Reporter,
    device: torch.device = CPU,
    data: Path = datasets.HERE,
) -> ModelCard | None:
    """Trains, or goes on where `run_folder` stopped, and publishes a new version; all of it computes on the device.

    Where `torchrun` started several processes, they train together on the joint batch; the first one publishes, and only it returns a card.

    The version has the weights with the lowest FID to `validation`, or the last ones where nothing is evaluated. Raises ValueError
    for an unknown family, option or dataset, Diverged for losses that stay non-finite, TrainingStopped when asked to stop,
    DatasetUnavailable where `data` lacks the files of the dataset.
    """
    kind, splits = family(settings.family, settings.options), datasets.load(settings.dataset, data)
    size = Size(
        image_shape=tuple(splits.train.images.shape[1:]),
        latent_size=settings.latent_size,
        width=settings.width,
        classes=splits.classes,
    )
    if settings.batch_size % joint.ranks():
        raise ValueError(f"batch_size={settings.batch_size} cannot be shared evenly by {joint.ranks()} processes")
    judge = Judge(kind, size, settings.dataset, splits, device) if settings.evaluations else None
    run = Run(settings, run_folder, reporter, kind, kind.begin(size, settings.seed, device), judge)
    run.resume()
    run.fit(*splits.train.to(device))
    first = run.is_first
    joint.end()
    if not first:
        return None
    networks, best = run.outcome()
    trained = Trained(settings.name, settings.family, kind, networks.to(device), size, _origin(run, command, best), device)
    card = publish(trained, splits, store, Stages(reporter.progress, run.go_on), calibrate=settings.calibrate)
    shutil.rmtree(run_folder, ignore_errors=True)
    return card


def _origin(run: Run, command: str, best: Best | None) -> Training:
    """The card's account of a run that has taken its steps."""
    return Training(
        command=command,
        dataset=run.settings.dataset,
        steps=run.settings.steps,
        seed=run.settings.seed,
        seconds=round(run.seconds),
        torch=torch.__version__,
        device=name_of(run.state.device),
        images_per_second=round(run.images_per_second, 1),
        best_step=best.step if best else None,
        validation_fid=round(best.fid, 3) if best else None,
        rollbacks=run.account.rollbacks,
    )

"""Trains one model here and now, without Redis: in this process, or in those that `torchrun` starts."""

import argparse
import io
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from models.checkpoints import Store
from workers import computing, training_lock
from workers.settings import WorkerSettings
from workers.training.job import command_line
from workers.training.reports import StopFlag, Terminal
from workers.training.tensorboard import recorded

if TYPE_CHECKING:
    import torch

    from models.cards import ModelCard
    from models.training.run import Reporter, TrainSettings


def train_here(given: argparse.Namespace, settings: WorkerSettings) -> int:
    """Trains and publishes into `--checkpoints`; Ctrl-C saves, and the same command goes on. Gives back the exit code.

    Of several processes the first one speaks and publishes.
    """
    device = computing.begin(settings)
    from models import joint
    from models.datasets import DatasetUnavailable
    from models.training.run import TrainingStopped, TrainSettings

    joint.begin(device)
    is_first, stop = joint.rank() == 0, StopFlag()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop.note)
    out = sys.stdout if is_first else io.StringIO()
    wanted = TrainSettings.model_validate({name: getattr(given, name) for name in TrainSettings.model_fields})
    print(command_line(wanted), file=out, flush=True)
    try:
        with (
            training_lock.holding(settings.training_lock),
            recorded(Terminal(stop, out), settings.tensorboard if is_first else "", wanted.name) as reporter,
        ):
            card = _train(wanted, settings, given.checkpoints, reporter, device)
    except DatasetUnavailable as error:
        raise SystemExit(str(error)) from None
    except TrainingStopped as stopped:
        print(f"{stopped}; the same command goes on from {settings.runs_folder / wanted.name}", file=out)
        return 130
    if card is not None:
        print(f"published {card.name} version {card.version} in {given.checkpoints / card.name / str(card.version)}")
    return 0


def _train(
    wanted: "TrainSettings", settings: WorkerSettings, checkpoints: Path, reporter: "Reporter", device: "torch.device"
) -> "ModelCard | None":
    from models.training.trainer import train

    return train(
        wanted,
        run_folder=settings.runs_folder / wanted.name,
        store=Store(checkpoints),
        command=command_line(wanted),
        reporter=reporter,
        device=device,
        data=settings.datasets,
    )

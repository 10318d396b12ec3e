"""Trains one model here and now, without Redis: in this process, or in those that `torchrun` starts."""

import argparse
import io
import signal
import sys
from typing import TYPE_CHECKING

from models.checkpoints import Store, StoreUnavailable
from workers import computing, training_lock
from workers.bucket import open_store
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
    try:
        store = open_store(settings.model_copy(update={"checkpoints": given.checkpoints}))
    except StoreUnavailable as error:
        raise SystemExit(str(error)) from None
    out = sys.stdout if is_first else io.StringIO()
    wanted = TrainSettings.model_validate({name: getattr(given, name) for name in TrainSettings.model_fields})
    print(command_line(wanted), file=out, flush=True)
    try:
        with (
            training_lock.holding(settings.training_lock),
            recorded(Terminal(stop, out), settings.tensorboard if is_first else "", wanted.name) as reporter,
        ):
            card = _train(wanted, settings, store, reporter, device)
    except DatasetUnavailable as error:
        raise SystemExit(str(error)) from None
    except TrainingStopped as stopped:
        print(f"{stopped}; the same command goes on from {settings.runs_folder / wanted.name}", file=out)
        return 130
    if card is not None:
        print(f"published {card.name} version {card.version} in {given.checkpoints / card.name / str(card.version)}")
        if given.promote:
            store.promote(card.name, card.version)
        elif store.default(card.name) != card.version:
            print(f"version {store.default(card.name)} stays the default")
    return 0


def _train(
    wanted: "TrainSettings", settings: WorkerSettings, store: Store, reporter: "Reporter", device: "torch.device"
) -> "ModelCard | None":
    from models.training.trainer import train

    return train(
        wanted,
        run_folder=settings.runs_folder / wanted.name,
        store=store,
        command=command_line(wanted),
        reporter=reporter,
        device=device,
        data=settings.datasets,
    )

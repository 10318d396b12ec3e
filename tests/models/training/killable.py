"""A training run in a process of its own, from first step to publication, that says where it is: to be killed. Nothing is measured."""

import sys
from pathlib import Path

import torch

from models.calibration.settings import RatioHead
from models.checkpoints import Store
from models.training import calibration, publication
from models.training.run import TrainSettings
from models.training.trainer import train
from tests.models.training.reporters import Silent

SETTINGS = TrainSettings(
    name="toy",
    family="sngan",
    dataset="digits",
    steps=40,
    batch_size=8,
    width=8,
    latent_size=4,
    seed=1,
    options={"ema": 0.9},
    evaluations=4,
)


class Loud(Silent):
    """Prints a line for each report of progress."""

    def progress(self, done, total, stage):
        print(stage, done, total, flush=True)


def quickly() -> None:
    """A short calibration that is always kept, kernels as they are, and no figures."""
    publication.RatioHead = lambda: RatioHead(steps=200)
    calibration.helps = lambda assessment: True
    publication.tuned = lambda subject, name, kernel, reference, *, advance: kernel
    publication.measured = lambda *given: ()


if __name__ == "__main__":
    torch.set_num_threads(1)
    quickly()
    folder = Path(sys.argv[1])
    train(SETTINGS, run_folder=folder / "run", store=Store(folder / "published", folder / "shipped"), command="", reporter=Loud())

"""Trains a family on a dataset, step by step and resumable, then calibrates, measures and publishes what came out."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from models import datasets, sampling
from models.cards import Frozen, ModelCard, ModelName, Training
from models.checkpoints import Store
from models.families import family
from models.families.base import Family, Size, TrainState, published
from models.images import to_pixels
from models.training.publication import Trained, publish
from models.training.state import restore, save

REPORT_EVERY = 20  # steps between progress reports
SAVE_EVERY_S = 20.0  # a killed run loses at most this much work
SAMPLES = 25


class TrainSettings(Frozen):
    """Everything that decides what a training run produces."""

    name: ModelName
    family: str
    dataset: str
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    width: int = Field(ge=4)
    latent_size: int = Field(ge=1)
    seed: int = Field(ge=0, lt=2**63)
    calibrate: bool = True


class Reporter(Protocol):
    """Who hears how a run goes, and may stop it."""

    def progress(self, step: int, total: int) -> None: ...

    def metrics(self, step: int, values: dict[str, float]) -> None: ...

    def sample(self, step: int, images: np.ndarray) -> None:
        """uint8, (images, height, width, channels)."""
        ...

    def should_stop(self) -> bool: ...


class TrainingStopped(Exception):
    """The reporter asked to stop; the run folder holds everything to go on from."""


def train(settings: TrainSettings, *, run_folder: Path, store: Store, command: str, reporter: Reporter, device: torch.device) -> ModelCard:
    """Trains, or goes on where `run_folder` stopped, and publishes a new version.

    Raises ValueError for an unknown family or dataset, Diverged for a non-finite loss, TrainingStopped when asked to stop.
    """
    kind, images = family(settings.family), datasets.load(settings.dataset)
    size = Size(image_shape=tuple(images.train.shape[1:]), latent_size=settings.latent_size, width=settings.width)
    state = kind.begin(size, settings.seed)
    run = Run(settings, run_folder, reporter, state, started=time.monotonic())
    run.seconds_before = restore(state, run_folder, settings.model_dump_json())
    run.fit(kind, images.train)
    origin = Training(
        command=command,
        dataset=settings.dataset,
        steps=settings.steps,
        seed=settings.seed,
        seconds=round(run.seconds),
        torch=torch.__version__,
    )
    trained = Trained(settings.name, settings.family, published(kind, state), size, origin, settings.calibrate)
    card = publish(trained, images, store, run.go_on)
    shutil.rmtree(run_folder, ignore_errors=True)
    return card


@dataclass
class Run:
    """A training run under way."""

    settings: TrainSettings
    folder: Path
    reporter: Reporter
    state: TrainState
    started: float
    seconds_before: float = 0.0
    saved: float = 0.0

    @property
    def seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def fit(self, kind: Family, images: Tensor) -> None:
        """Takes the steps that are left, each on images drawn by the run's own random stream."""
        state, total = self.state, self.settings.steps
        sample_every = max(total // 10, 1)
        while state.step < total:
            rows = torch.randint(len(images), (self.settings.batch_size,), generator=state.random)
            values = kind.train_step(state, images[rows])
            if state.step % REPORT_EVERY == 0 or state.step == total:
                self.reporter.progress(state.step, total)
                self.reporter.metrics(state.step, values)
            if state.step % sample_every == 0 or state.step == total:
                self.reporter.sample(state.step, sample(kind, state.size, published(kind, state)))
            self._save_or_stop()
        self._save()

    def go_on(self) -> None:
        """Raises TrainingStopped where the reporter wants no more."""
        if self.reporter.should_stop():
            raise TrainingStopped(f"stopped after step {self.state.step} of {self.settings.steps}")

    def _save_or_stop(self) -> None:
        try:
            self.go_on()
        except TrainingStopped:
            self._save()
            raise
        if time.monotonic() - self.saved > SAVE_EVERY_S:
            self._save()

    def _save(self) -> None:
        save(self.state, self.folder, self.settings.model_dump_json(), self.seconds)
        self.saved = time.monotonic()


def sample(kind: Family, size: Size, networks: nn.ModuleDict, images: int = SAMPLES) -> np.ndarray:
    """Images of the family's preview sampler, always from the same latents; uint8, (images, height, width, channels)."""
    random = torch.Generator().manual_seed(0)
    z = torch.randn(images, size.latent_size, generator=random)
    kernel = kind.samplers()[kind.preview_sampler]
    if kernel is not None:
        z = sampling.run(kernel, kind.targets(networks)[kind.preview_sampler], z, random=random).chains.z
    with torch.no_grad():
        return to_pixels(kind.decoder(networks)(z))

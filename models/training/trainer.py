"""Trains a family on a dataset, step by step and resumable, then calibrates, measures and publishes what came out."""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from pydantic import Field, JsonValue
from torch import Tensor, nn

from models import datasets, sampling
from models.cards import Frozen, ModelCard, ModelName, Training
from models.checkpoints import Store
from models.device import read, send
from models.families import family
from models.families.base import Family, Size, TrainState, published, spaces
from models.images import to_pixels
from models.training.measurement import Trained
from models.training.publication import publish
from models.training.state import restore, save

CPU = torch.device("cpu")
REPORT_EVERY = 20  # steps between progress reports, and at most between two looks at the losses
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
    options: dict[str, JsonValue] = {}


class Diverged(Exception):
    """A loss or a weight became non-finite."""


class Reporter(Protocol):
    """Receives the progress of a run, and may stop it."""

    def progress(self, step: int, total: int) -> None: ...

    def metrics(self, step: int, values: dict[str, float]) -> None: ...

    def sample(self, step: int, images: np.ndarray) -> None:
        """uint8, (images, height, width, channels)."""
        ...

    def should_stop(self) -> bool: ...


class TrainingStopped(Exception):
    """The reporter asked to stop; the run folder holds everything to go on from."""


def train(
    settings: TrainSettings,
    *,
    run_folder: Path,
    store: Store,
    command: str,
    reporter: Reporter,
    device: torch.device = CPU,
    data: Path = datasets.HERE,
) -> ModelCard:
    """Trains, or goes on where `run_folder` stopped, and publishes a new version; all of it computes on the device.

    Raises ValueError for an unknown family, option or dataset, Diverged for a non-finite loss, TrainingStopped when asked to stop,
    DatasetUnavailable where `data` lacks the files of the dataset.
    """
    kind, splits = family(settings.family, settings.options), datasets.load(settings.dataset, data)
    size = Size(
        image_shape=tuple(splits.train.images.shape[1:]),
        latent_size=settings.latent_size,
        width=settings.width,
        classes=splits.classes,
    )
    state = kind.begin(size, settings.seed, device)
    run = Run(settings, run_folder, reporter, state, started=time.monotonic())
    run.seconds_before = restore(state, run_folder, settings.model_dump_json())
    run.fit(kind, *splits.train.to(device))
    origin = Training(
        command=command,
        dataset=settings.dataset,
        steps=settings.steps,
        seed=settings.seed,
        seconds=round(run.seconds),
        torch=torch.__version__,
    )
    trained = Trained(settings.name, settings.family, kind, published(kind, state).to(device), size, origin, device)
    card = publish(trained, splits, store, run.go_on, calibrate=settings.calibrate)
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
    unread: list[dict[str, Tensor]] = field(default_factory=list)  # figures of the last steps, still on the device

    @property
    def seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def fit(self, kind: Family, images: Tensor, labels: Tensor) -> None:
        """Takes the steps that are left, each on images drawn by the run's own random stream."""
        state, total = self.state, self.settings.steps
        sample_every = max(total // 10, 1)
        while state.step < total:
            rows = send(
                torch.randint(len(images), (kind.batches_per_step * self.settings.batch_size,), generator=state.random), state.device
            )
            self.unread.append(kind.train_step(state, images[rows], labels[rows]))
            if state.step % REPORT_EVERY == 0 or state.step == total:
                values = self.read()
                self.reporter.progress(state.step, total)
                self.reporter.metrics(state.step, values)
            if state.step % sample_every == 0 or state.step == total:
                self.reporter.sample(state.step, sample(kind, state.size, published(kind, state).to(state.device)))
            self._save_or_stop()
        self._save()

    def read(self) -> dict[str, float]:
        """Figures of the last step, after one look at those of every step since the last look. Raises Diverged."""
        if not self.unread:
            return {}
        names, first = tuple(self.unread[0]), self.state.step - len(self.unread) + 1
        looked: list[list[float]] = read(torch.stack([torch.stack([figures[name] for name in names]) for figures in self.unread])).tolist()
        self.unread.clear()
        for step, values in enumerate(looked, first):
            for name, value in zip(names, values, strict=True):
                if not math.isfinite(value):
                    raise Diverged(f"{name} is {value} at training step {step}")
        return dict(zip(names, looked[-1], strict=True))

    def go_on(self) -> None:
        """Raises TrainingStopped if the reporter asks to stop."""
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
        """Saves a state that has not diverged. Raises Diverged."""
        self.read()
        if not read(torch.stack([parameter.isfinite().all() for parameter in self.state.networks.parameters()]).all()):
            raise Diverged(f"a weight is not finite after training step {self.state.step}")
        save(self.state, self.folder, self.settings.model_dump_json(), self.seconds)
        self.saved = time.monotonic()


def sample(kind: Family, size: Size, networks: nn.ModuleDict, images: int = SAMPLES) -> np.ndarray:
    """Images of the family's preview sampler, always from the same latents; uint8, (images, height, width, channels)."""
    random, sampler = torch.Generator().manual_seed(0), kind.preview_sampler
    found = spaces(kind, networks, size)
    normals = torch.randn(images, *found["prior"].shape, generator=random)
    points = found[sampler].start(send(normals, next(networks.parameters()).device))
    kernel = kind.samplers()[sampler]
    if kernel is not None:
        points = sampling.run(kernel, kind.targets(networks)[sampler], points, random=random).chains.z
    return to_pixels(found[sampler].decode(points))

"""A training run under way: takes the steps that are left, reports, evaluates, saves, and stops when asked to."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from pydantic import Field, JsonValue
from torch import Tensor, nn

from models import joint
from models.cards import Frozen, ModelName
from models.device import read, send
from models.families.base import Family, TrainState, published
from models.images import to_pixels
from models.training.selection import Best, Judge, Kept, preview
from models.training.state import LAST, SOUND, Account, restore, save

REPORT_EVERY = 20  # steps between progress reports, and at most between two looks at the losses
SAVE_EVERY_S = 20.0  # a killed run loses at most this much work
TRAINING = "training"  # the stage of the steps
CHECKS = 10  # states to go back to, in a run without evaluations
PREVIEWS = 10  # sample grids in a run
SAMPLES = 25  # images of one
MOST_ROLLBACKS = 3  # after one more divergence the run fails


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
    evaluations: int = Field(10, ge=0, le=1000)
    calibrate: bool = True
    options: dict[str, JsonValue] = {}


class Diverged(Exception):
    """A loss, a weight or a score became non-finite."""


class Reporter(Protocol):
    """Receives the progress of a run, and may stop it."""

    def progress(self, done: int, total: int, stage: str) -> None:
        """So many parts of a stage are done: steps of `training`, then the stages of publication."""
        ...

    def metrics(self, step: int, values: dict[str, float]) -> None: ...

    def sample(self, step: int, images: np.ndarray) -> None:
        """uint8, (images, height, width, channels)."""
        ...

    def note(self, step: int, text: str) -> None:
        """Something people should know of the run."""
        ...

    def should_stop(self) -> bool: ...


class TrainingStopped(Exception):
    """The reporter asked to stop; the run folder holds everything to go on from."""


@dataclass
class Run:
    """Takes steps from where `state` is; `judge` is None where nothing is evaluated and the last weights are the result."""

    settings: TrainSettings
    folder: Path
    reporter: Reporter
    kind: Family
    state: TrainState
    judge: Judge | None = None
    account: Account = field(default_factory=Account)  # of the processes before this one
    started: float = field(default_factory=time.monotonic)
    aside_s: float = 0.0  # spent by this process on evaluations and previews
    taken: int = 0  # steps of this process
    saved: float = 0.0
    reported: tuple[int, float] = (0, 0.0)  # steps taken and stepping time at the last report
    unread: list[dict[str, Tensor]] = field(default_factory=list)  # figures of the last steps, still on the device

    @property
    def fingerprint(self) -> str:
        return self.settings.model_dump_json()

    @property
    def kept(self) -> Kept:
        return Kept(self.folder, self.fingerprint)

    @property
    def seconds(self) -> float:
        return self.account.seconds + time.monotonic() - self.started

    @property
    def stepping_s(self) -> float:
        return self.account.stepping_s + time.monotonic() - self.started - self.aside_s

    @property
    def is_first(self) -> bool:
        """Whether this process writes and reports: the others only compute."""
        return joint.rank() == 0

    @property
    def images_per_step(self) -> int:
        return self.kind.batches_per_step * self.settings.batch_size

    @property
    def images_per_second(self) -> float:
        """Real images used a second while stepping, in the whole run."""
        return (self.account.steps + self.taken) * self.images_per_step / max(self.stepping_s, 1e-9)

    def resume(self) -> None:
        """Goes on where the folder's state is, if it holds one. Raises ValueError for another run's folder."""
        self.account = restore(self.state, self.folder, self.fingerprint)
        slow_down(self.state, len(self.account.rollbacks))
        self.reported = (self.taken, self.stepping_s)

    def fit(self, images: Tensor, labels: Tensor) -> None:
        """Takes the steps that are left, each on images drawn by the run's own random stream; goes back where it diverges.

        Raises Diverged where that does not help.
        """
        while True:
            try:
                return self._take_steps(images, labels)
            except Diverged as error:
                self._roll_back(error)

    def outcome(self) -> tuple[nn.ModuleDict, Best | None]:
        """The networks to publish, on the CPU, and how they scored: the best that were evaluated, or the last ones."""
        best = self.kept.best() if self.judge else None
        if best is None:
            return published(self.kind, self.state), None
        return self.kept.fill(self.kind.build(self.state.size).eval()), best

    def read(self) -> dict[str, float]:
        """Figures of the last step, after one look at those of every step since the last look. Raises Diverged."""
        if not self.unread:
            return {}
        names, first = tuple(self.unread[0]), self.state.step - len(self.unread) + 1
        figures = read(torch.stack([torch.stack([figures[name] for name in names]) for figures in self.unread]))  # (steps, names)
        looked: list[list[float]] = joint.mean(figures).tolist()
        self.unread.clear()
        for step, values in enumerate(looked, first):
            for name, value in zip(names, values, strict=True):
                if not math.isfinite(value):
                    raise Diverged(f"{name} is {value} at training step {step}")
        return dict(zip(names, looked[-1], strict=True))

    def go_on(self) -> None:
        """Raises TrainingStopped if the reporter asks to stop."""
        if self.reporter.should_stop():
            raise self._stopped()

    def _stopped(self) -> TrainingStopped:
        return TrainingStopped(f"stopped after step {self.state.step} of {self.settings.steps}")

    def _take_steps(self, images: Tensor, labels: Tensor) -> None:
        state = self.state
        while state.step < self.settings.steps:
            drawn = torch.randint(len(images), (self.images_per_step,), generator=state.random)
            rows = send(joint.own(drawn, self.kind.batches_per_step), state.device)
            self.unread.append(self.kind.train_step(state, images[rows], labels[rows]))
            state.average(self.kind.averaged)
            self.taken += 1
            self._report()
            self._save_or_stop()
        self._save()

    def _roll_back(self, reason: Diverged) -> None:
        """Goes back to the last evaluation, with half the learning rates and other random numbers: the same ones in a resumed run."""
        reasons = (*self.account.rollbacks, str(reason))
        if len(reasons) > MOST_ROLLBACKS:
            raise Diverged(f"{reason}; went back {MOST_ROLLBACKS} times before: {'; '.join(reasons[:-1])}") from reason
        self.state = self.kind.begin(self.state.size, self.settings.seed, self.state.device)
        restore(self.state, self.folder, self.fingerprint, file=SOUND)
        self.state.random.manual_seed(reseeded(self.settings.seed, len(reasons)))
        slow_down(self.state, len(reasons))
        self.account = self.account.model_copy(update={"rollbacks": reasons})
        self.unread.clear()
        self.reporter.note(
            self.state.step, f"{reason}: goes on from step {self.state.step} with {2 ** -len(reasons)} of the learning rates"
        )

    def _report(self) -> None:
        """Tells the reporter what is due after this step. Raises Diverged."""
        checked = self._is_due(max(self.settings.steps // (self.settings.evaluations or CHECKS), 1))
        judged = checked and self.judge is not None
        if judged or self._is_due(REPORT_EVERY):
            values = self.read() | self._speed()
            self.reporter.progress(self.state.step, self.settings.steps, TRAINING)
            self.reporter.metrics(self.state.step, values | (self._evaluate() if judged else {}))
        if checked:
            self._save(SOUND)
            self._save()
        if self.is_first and self._is_due(max(self.settings.steps // PREVIEWS, 1)):
            with self._aside():
                images = preview(self.kind, self.state.size, self._published(), SAMPLES)
                self.reporter.sample(self.state.step, to_pixels(images))

    def _is_due(self, every: int) -> bool:
        return self.state.step % every == 0 or self.state.step == self.settings.steps

    def _speed(self) -> dict[str, float]:
        """Images a second since the last report; call it when the device has finished its steps."""
        now, (taken, then) = self.stepping_s, self.reported
        self.reported = (self.taken, now)
        return {"images_per_second": (self.taken - taken) * self.images_per_step / max(now - then, 1e-9)}

    def _evaluate(self) -> dict[str, float]:
        """FID of these weights to `validation`; keeps them where it is the lowest. Raises Diverged."""
        assert self.judge is not None
        self._check_weights()
        with self._aside():
            networks = self._published()
            fid = self.judge.score(networks) if self.is_first else 0.0
        (fid,) = joint.agreed([fid])
        if not math.isfinite(fid):
            raise Diverged(f"the FID to validation is {fid} at training step {self.state.step}")
        if self.is_first:
            self.kept.offer(Best(fid, self.state.step), networks)
        return {"validation_fid": fid}

    def _published(self) -> nn.ModuleDict:
        return published(self.kind, self.state).to(self.state.device)

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """What is done in here is no step, and each process's own business."""
        began = time.monotonic()
        with joint.alone():
            yield
        self.aside_s += time.monotonic() - began

    def _save_or_stop(self) -> None:
        """Where several processes train, the first one decides for all, now and then."""
        if joint.ranks() > 1 and not self._is_due(REPORT_EVERY):
            return
        stop, save = joint.agreed([self.reporter.should_stop(), time.monotonic() - self.saved > SAVE_EVERY_S])
        if stop or save:
            self._save()
        if stop:
            raise self._stopped()

    def _save(self, file: str = LAST) -> None:
        """Saves a state that has not diverged. Raises Diverged."""
        self.read()
        self._check_weights()
        steps = self.account.steps + self.taken
        account = self.account.model_copy(update={"seconds": self.seconds, "stepping_s": self.stepping_s, "steps": steps})
        if self.is_first:
            save(self.state, self.folder, self.fingerprint, account, file=file)
        self.saved = time.monotonic()

    def _check_weights(self) -> None:
        """Raises Diverged where a weight is not finite."""
        if not read(torch.stack([tensor.isfinite().all() for tensor in self.state.networks.state_dict().values()]).all()):
            raise Diverged(f"a weight is not finite after training step {self.state.step}")


def reseeded(seed: int, rollbacks: int) -> int:
    """The seed of a run's random stream after so many rollbacks, unrelated to that of any other run."""
    return int(np.random.SeedSequence([seed, rollbacks]).generate_state(1, np.uint64)[0] >> 1)


def slow_down(state: TrainState, rollbacks: int) -> None:
    """Halves the family's learning rates once for each rollback; `state` has the family's own."""
    for optimizer in state.optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] *= 0.5**rollbacks

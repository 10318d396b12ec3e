"""Reports of a training run: lines in a terminal, or events of a job. Both may ask the run to stop."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from models.images import encode_png, grid
from workers.queue.artifacts import ArtifactError, Artifacts
from workers.queue.broker import Broker
from workers.queue.connection import is_full

if TYPE_CHECKING:
    import numpy as np

_logger = logging.getLogger("rq.worker")
LOOK_EVERY_S = 0.5  # between two reads of whether the job was canceled


@contextmanager
def unless_full() -> Iterator[None]:
    """Leaves a report or a heartbeat out where there is no room for it: hours of training matter more."""
    try:
        yield
    except Exception as error:
        if not is_full(error) and not isinstance(error, ArtifactError):
            raise
        _logger.warning("left out, as there is no room: %s", error)


class StopFlag:
    """Remembers that a signal came; calling it returns whether to stop."""

    def __init__(self) -> None:
        self._noted = False

    def note(self, number: int, frame: object) -> None:
        self._noted = True

    def __call__(self) -> bool:
        return self._noted


class Terminal:
    """Prints one line a report; stops the run when `stop_requested` returns True."""

    def __init__(self, stop_requested: Callable[[], bool], out: TextIO = sys.stdout) -> None:
        self.should_stop = stop_requested
        self._out = out
        self._started = time.monotonic()
        self._line = ""

    def progress(self, done: int, total: int, stage: str) -> None:
        if stage == "training":  # its figures follow on the same line
            self._line = f"step {done}/{total}  {time.monotonic() - self._started:7.1f} s"
        else:
            print(f"{stage} {done / total:4.0%}  {time.monotonic() - self._started:7.1f} s", file=self._out, flush=True)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        print(self._line, *(f"{name} {value:.4g}" for name, value in values.items()), sep="  ", file=self._out, flush=True)

    def note(self, step: int, text: str) -> None:
        print(f"step {step}: {text}", file=self._out, flush=True)

    def sample(self, step: int, images: "np.ndarray") -> None:
        """Prints nothing: the published version has samples.png."""


class JobEvents:
    """Publishes a run as events and artifacts of its job; stops the run when the job is canceled, its worker leaves or has lost the job."""

    def __init__(self, job_id: str, worker: str, broker: Broker, artifacts: Artifacts, stop_requested: Callable[[], bool]) -> None:
        self.job_id = job_id
        self.samples: list[str] = []
        self.canceled = self.lost = False
        self._worker = worker
        self._broker, self._artifacts, self._stop_requested = broker, artifacts, stop_requested
        self._worker_pid = os.getppid()
        self._look_at = 0.0

    def progress(self, done: int, total: int, stage: str) -> None:
        with unless_full():
            self._broker.report_progress(self.job_id, done=done, total=total, stage=stage)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        with unless_full():
            self._broker.publish(self.job_id, "metrics", {"step": step, **values})

    def sample(self, step: int, images: "np.ndarray") -> None:
        name = f"sample-{step}.png"
        with unless_full():
            self._artifacts.put(self.job_id, name, encode_png(grid(images), {"step": str(step)}), self._broker.limits.failure_ttl_s)
            self._broker.publish(self.job_id, "sample", {"step": step, "artifact": name})
            self.samples.append(name)

    def note(self, step: int, text: str) -> None:
        with unless_full():
            self._broker.publish(self.job_id, "note", {"step": step, "text": text})

    def should_stop(self) -> bool:
        """Sets `lost` where another worker has the job or will get it: two must not train in one folder, nor publish one version twice."""
        if time.monotonic() >= self._look_at:
            held, self.canceled = self._broker.standing(self.job_id, self._worker)
            self.lost = not held
            self._look_at = time.monotonic() + LOOK_EVERY_S
        self.lost = self.lost or os.getppid() != self._worker_pid
        return self.canceled or self.lost or self._stop_requested()

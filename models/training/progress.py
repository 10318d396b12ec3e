"""How far the part of a run that follows training is: named stages, each with a count of its parts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

REPORT_EVERY_S = 0.5  # at most so often, apart from the ends of a stage


class Report(Protocol):
    """Takes what is done of a stage."""

    def __call__(self, done: int, total: int, stage: str) -> None: ...


def untold(done: int, total: int, stage: str) -> None:
    """Reports nothing."""


@dataclass
class Stages:
    """The stages of a run. Calling it asks whether to go on; what `go_on` raises ends the run there. Without arguments it does neither."""

    report: Report = untold
    go_on: Callable[[], None] = lambda: None
    name: str = ""
    done: int = 0
    total: int = 0
    reported: float = 0.0

    def __call__(self) -> None:
        self.go_on()

    def stage(self, name: str, total: int) -> None:
        """Begins a stage of so many parts, such as `calibrating` or `measuring`."""
        self.name, self.done, self.total = name, 0, max(total, 1)
        self._tell()
        self.go_on()

    def advance(self, parts: int = 1) -> None:
        """So many more parts of the stage are done; never more than all, so an estimate of the total may be low."""
        self.done = min(self.done + parts, self.total)
        if self.done == self.total or time.monotonic() - self.reported > REPORT_EVERY_S:
            self._tell()
        self.go_on()

    def _tell(self) -> None:
        self.report(self.done, self.total, self.name)
        self.reported = time.monotonic()

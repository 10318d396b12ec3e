"""Work split into slices, so that ticks can run between them."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import TypeAlias, TypeVar

T = TypeVar("T")
Slices: TypeAlias = Generator[None, None, T]  # stops where others may have their turn, and comes to a T


class UnderWay:
    """Work that goes on as time is given to it."""

    def __init__(self, work: Slices[None]) -> None:
        self._work = work
        self.seconds = 0.0  # spent on it so far, without the pauses

    def advance(self, budget_s: float) -> bool:
        """One slice, and more while there is time for another like the last; whether the work is done. Raises what it raises."""
        done, spent, last = False, 0.0, 0.0
        while not done and spent + last <= budget_s:
            begun = time.perf_counter()
            done = bool(next(self._work, True))
            last = time.perf_counter() - begun
            spent += last
            self.seconds += last
        return done

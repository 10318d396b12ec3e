"""How many threads an engine computes with: all it was given, fewer while a training run is under way on this machine."""

import time
from collections.abc import Callable

from workers import training_lock
from workers.settings import WorkerSettings

LOOK_EVERY_S = 0.5


class SharedThreads:
    """Gives way to training runs; `set_threads` is called in the thread that computes."""

    def __init__(self, settings: WorkerSettings, set_threads: Callable[[int], None]) -> None:
        self._settings, self._set_threads = settings, set_threads
        self._threads = settings.threads
        self._look_at = 0.0

    def share(self) -> int:
        """The threads to compute with now, already set. It looks for a training run at most twice a second, so every tick may call it."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY_S
            self._use(
                self._settings.threads_beside_training if training_lock.is_held(self._settings.training_lock) else self._settings.threads
            )
        return self._threads

    def _use(self, threads: int) -> None:
        if threads != self._threads:
            self._set_threads(threads)
            self._threads = threads

"""`python -m tests.system.poisoned`: a generation worker like any other, but for seeds that kill its processes without a word."""

import os
import signal

from workers.engine.engine import Engine
from workers.generation.__main__ import main

POISON, POISON_FOR_THE_ENGINE = 666, 667


def poisoned(self: Engine) -> object:
    seeds = {run.job.seed for run in self._runs.values()}
    if POISON in seeds:
        os.kill(os.getppid(), signal.SIGKILL)
    if seeds & {POISON, POISON_FOR_THE_ENGINE}:
        os.kill(os.getpid(), signal.SIGKILL)
    return honest(self)


if __name__ == "__main__":
    honest, Engine.tick = Engine.tick, poisoned  # type: ignore[assignment, method-assign]
    main()

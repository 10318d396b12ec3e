"""`python -m tests.system.poisoned`: a generation worker like any other, but for one seed that kills its process without a word."""

import os
import signal

from workers.engine import Engine
from workers.generation import main

POISON = 666


def poisoned(self: Engine) -> object:
    if any(run.job.seed == POISON for run in self._runs.values()):
        os.kill(os.getpid(), signal.SIGKILL)
    return honest(self)


if __name__ == "__main__":
    honest, Engine.tick = Engine.tick, poisoned  # type: ignore[assignment, method-assign]
    main()

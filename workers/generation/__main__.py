"""`python -m workers.generation`: one device, the chains of all jobs in one running batch, in a process beside the one that serves them."""

import argparse
from collections.abc import Sequence

from workers import logs
from workers.engine.allocator import keep_freed
from workers.generation.assembly import assemble, start_engine
from workers.generation.engine_process import EngineDied
from workers.settings import WorkerSettings


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves the queues until SIGTERM or SIGINT, then finishes what runs."""
    parser = argparse.ArgumentParser(prog="python -m workers.generation", description=__doc__)
    parser.add_argument("--burst", action="store_true", help="leave when the queues are empty")
    given = parser.parse_args(arguments)
    settings = WorkerSettings()
    logs.set_up(settings)
    keep_freed()  # in both processes
    try:
        with start_engine(settings) as engine:
            assemble(settings, engine).work(burst=given.burst)
    except EngineDied as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()

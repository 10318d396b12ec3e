"""RQ's base worker with a stop that raises nothing: RQ's own handler raises an exception in the main thread at a signal."""

import signal

from rq.worker import BaseWorker


class StoppableWorker(BaseWorker):
    """Stops at the first SIGTERM or SIGINT; a second one, over a second later, ends the process as RQ does."""

    stopping = False  # read it in the work loop: take no more jobs, end what runs, leave

    def handle_signals(self) -> None:
        """Has SIGTERM and SIGINT call `stop` from now on. Main thread only."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.request_stop)

    def stop(self) -> None:
        """Asks the worker to leave; an override may take no lock, as the interrupted main thread may hold it."""
        self.stopping = True

    def _shutdown(self) -> None:
        self.stop()

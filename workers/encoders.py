"""Threads that turn finished jobs into stored PNGs beside the stepping thread; a store that refuses fails that job alone."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING

from workers.artifacts import ArtifactError, Artifacts
from workers.connection import BrokerUnavailable
from workers.encoding import encode
from workers.jobs import GenerateResult, Problem, Timings
from workers.rq_bulk import Ended, Taken
from workers.settings import WorkerSettings

if TYPE_CHECKING:
    from workers.engine import Finished

_logger = logging.getLogger("rq.worker")
RETRY_EVERY_S = 0.2  # while the store is out of reach


class Encoders:
    """Takes finished jobs and gives back how they ended; `done` is called after each."""

    def __init__(self, artifacts: Artifacts, settings: WorkerSettings, worker: str, done: Callable[[], None]) -> None:
        self._artifacts, self._settings, self._worker, self._done = artifacts, settings, worker, done
        self._pool = ThreadPoolExecutor(settings.encoders, thread_name_prefix="encoder")
        self._ended: SimpleQueue[Ended] = SimpleQueue()
        self._given_up = False

    def submit(self, taken: Taken, outcome: "Finished") -> None:
        self._pool.submit(self._work, taken, outcome)

    def sweep(self) -> None:
        """Deletes images that have outlived their time, when a thread is free."""
        self._pool.submit(self._sweep)

    def ended(self) -> list[Ended]:
        """What is done since the last call."""
        found = []
        while not self._ended.empty():
            found.append(self._ended.get())
        return found

    def close(self) -> None:
        """Waits for no store any longer."""
        self._given_up = True
        self._pool.shutdown(cancel_futures=True)

    def _sweep(self) -> None:
        try:
            self._artifacts.sweep()
        except Exception as error:  # another worker may sweep the same folder
            _logger.warning("cannot delete old images: %s", error)

    def _work(self, taken: Taken, outcome: "Finished") -> None:
        try:
            ended = Ended(taken, self._result(taken, outcome))
        except ArtifactError as error:
            ended = Ended(taken, Problem(reason="unavailable", detail=str(error)))
        except Exception as error:  # a job must end, whatever is wrong with its images
            ended = Ended(taken, Problem(reason="internal", detail=f"cannot encode: {error!r}"))
        self._ended.put(ended)
        self._done()

    def _result(self, taken: Taken, outcome: "Finished") -> GenerateResult:
        assert taken.request is not None
        begun = time.perf_counter()
        files = encode(taken.request, outcome.images, outcome.diagnostics)
        encoding_s = time.perf_counter() - begun
        self._store(taken.id, files)
        return GenerateResult(
            artifacts=tuple(files),
            diagnostics=outcome.diagnostics,
            chains=outcome.chains,
            timings=Timings(queue_s=max(0.0, taken.started_at - taken.created_at), sampling_s=outcome.sampling_s, encoding_s=encoding_s),
            worker=self._worker,
            device=self._settings.device,
        )

    def _store(self, job_id: str, files: dict[str, bytes]) -> None:
        """Waits for a Redis that is away: these images were computed, and computing them again costs more."""
        while True:
            try:
                self._artifacts.put_many(job_id, files, self._settings.result_ttl_s)
                return
            except BrokerUnavailable:
                if self._given_up:
                    raise
                time.sleep(RETRY_EVERY_S)

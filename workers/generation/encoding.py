"""From finished jobs to stored PNG files, each carrying the whole request; a store that refuses fails that job alone.

Threads of their own encode; but a few small images for Redis are encoded by the thread that sends them there, so that no other has to wake.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING

from models.images import encode_png, grid
from workers.jobs import ClassData, Contract, Diagnostics, GenerateJob, GenerateResult, Problem, Timings
from workers.leases.leases import Ended, Taken
from workers.messages import Finished
from workers.queue.artifacts import Artifacts
from workers.settings import WorkerSettings
from workers.version import version

if TYPE_CHECKING:
    import numpy as np

GRID = "grid.png"
_logger = logging.getLogger("rq.worker")
SMALL = 1 << 16  # bytes of images that end together and take a few milliseconds to encode: nothing steps in this process
TOGETHER = 8  # jobs that a thread encodes in one go; other threads take the rest


class Encoders:
    """Takes finished jobs and gives back how they ended; `done` is called when another thread has one to give back."""

    def __init__(self, artifacts: Artifacts, settings: WorkerSettings, worker: str, done: Callable[[], None]) -> None:
        self._artifacts, self._settings, self._worker, self._done = artifacts, settings, worker, done
        self._pool = ThreadPoolExecutor(settings.encoders, thread_name_prefix="encoder")
        self._ended: SimpleQueue[Ended] = SimpleQueue()
        self._small: list[tuple[Taken, Finished]] = []  # encoded by the next call of `ended`

    def fail(self, taken: Taken, problem: Problem) -> None:
        """A job that has no images to encode."""
        self._ended.put(Ended(taken, problem))
        self._done()

    def encode(self, finished: Sequence[tuple[Taken, Finished]]) -> None:
        """Jobs that ended together; they travel together, in as many groups as it takes to keep them small."""
        if self._artifacts.in_redis and sum(len(outcome.pixels) for _, outcome in finished) <= SMALL:
            self._small += finished
            return
        for first in range(0, len(finished), TOGETHER):
            self._pool.submit(self._work, finished[first : first + TOGETHER])

    def sweep(self) -> None:
        """Deletes images that have outlived their time, when a thread is free."""
        self._pool.submit(self._sweep)

    def ended(self) -> list[Ended]:
        """What is done since the last call; encodes the small images that came since."""
        ended = [self._ended.get() for _ in range(self._ended.qsize())]
        small, self._small = self._small, []
        return [*ended, *(self._encoded(*one) for one in small)]

    def close(self) -> None:
        """What has not begun to be encoded will not be."""
        self._pool.shutdown(cancel_futures=True)

    def _sweep(self) -> None:
        try:
            self._artifacts.sweep()
        except Exception as error:  # another worker may sweep the same folder
            _logger.warning("cannot delete old images: %s", error)

    def _work(self, finished: Sequence[tuple[Taken, Finished]]) -> None:
        for one in self._stored([self._encoded(taken, outcome) for taken, outcome in finished]):
            self._ended.put(one)
        self._done()

    def _encoded(self, taken: Taken, outcome: Finished) -> Ended:
        """A job must end, whatever is wrong with its images."""
        assert taken.request is not None
        begun = time.perf_counter()
        try:
            files = encode(taken.request, outcome.images, outcome.diagnostics, outcome.contract)
        except Exception as error:
            return Ended(taken, Problem(reason="internal", detail=f"cannot encode: {error!r}"))
        encoding_s = time.perf_counter() - begun
        result = GenerateResult(
            artifacts=tuple(files),
            diagnostics=outcome.diagnostics,
            chains=outcome.chains,
            timings=Timings(queue_s=max(0.0, taken.started_at - taken.created_at), sampling_s=outcome.sampling_s, encoding_s=encoding_s),
            worker=self._worker,
            device=self._settings.device,
        )
        return Ended(taken, result, files)

    def _stored(self, ended: list[Ended]) -> list[Ended]:
        """The jobs as they end once their files are stored. Redis stores files of its own in the step that ends a job."""
        if self._artifacts.in_redis:
            return ended
        refused = self._refused({one.taken.id: one.files for one in ended if one.files})
        return [
            Ended(one.taken, Problem(reason="unavailable", detail=str(refused[one.taken.id])))
            if one.taken.id in refused
            else Ended(one.taken, one.outcome, stored=sum(map(len, one.files.values())))
            for one in ended
        ]

    def _refused(self, jobs: dict[str, Mapping[str, bytes]]) -> Mapping[str, Exception]:
        """Stores all files; the jobs refused, and why."""
        try:
            return self._artifacts.put_each(jobs, self._settings.result_ttl_s)
        except Exception as error:  # as above: they must end
            return dict.fromkeys(jobs, error)


def encode(job: GenerateJob, images: "np.ndarray", diagnostics: Diagnostics, contract: Contract) -> dict[str, bytes]:
    """Every image as `<index>.png`, and where a grid of several was asked for, `grid.png`; images as uint8 (n, height, width, channels)."""
    shared = provenance(job, diagnostics, contract)
    files = {f"{index}.png": encode_png(image, shared | _own(job, index)) for index, image in enumerate(images)}
    if job.layout == "grid" and len(images) > 1:
        files[GRID] = encode_png(grid(images), shared | {"image": "grid"})
    return files


def _own(job: GenerateJob, index: int) -> dict[str, str]:
    """The text chunks of one image alone."""
    label = {"class": str(job.data.label_of(index))} if isinstance(job.data, ClassData) else {}
    return {"image": str(index), **label}


def provenance(job: GenerateJob, diagnostics: Diagnostics, contract: Contract) -> dict[str, str]:
    """The text chunks of a job's PNGs: everything that made them and nothing that did not, such as when, for whom or how urgently."""
    request = job.model_dump(mode="json", exclude={"priority", "deadline_s", *job.aside})
    return {
        "ebbtide": _canonical(request),
        "seed": str(job.seed),
        "digest": job.digest,
        "diagnostics": _canonical(diagnostics.model_dump(mode="json")),
        "contract": _canonical(contract.model_dump(mode="json")),
        "software": f"ebbtide {version()}",
    }


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode

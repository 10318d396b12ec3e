"""Bounds on what is kept of jobs, of each caller and in all: a job beyond a bound is refused with 429 before Redis is full.

A job counts from its submission on with what it will leave at most, and from its end until it expires with what it has left.
"""

import math

from models import datasets
from models.checkpoints import Store
from service.protocol.errors import Refusal
from service.settings import Settings
from workers.jobs import RECORD_BYTES, AnyJob, ClassData, GenerateJob, ImageData, TrainJob
from workers.queue.submissions import Answer, KeptLimits

FILE_BYTES = 3000  # of a PNG beside its pixels: the request, diagnostics and contract it carries
REPORT_BYTES, TRACE_BYTES = 400, 2000  # of a chain's report, and of its energies
PREVIEW_IMAGES = 10 * 25  # of a training run: sample grids, and images of each
EVENT_BYTES = 200_000  # of the events of a training run
LONGEST_S = 3600  # Retry-After, at most


class ResultLimits:
    """The bounds of one server."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.kept = KeptLimits(settings.max_result_bytes, settings.max_caller_result_bytes)
        self._store, self._ttl_s = store, settings.result_ttl_s

    def expected(self, job: AnyJob) -> int:
        """Bytes that a job will leave, at most."""
        if isinstance(job, GenerateJob):
            return RECORD_BYTES + self._of_images(job)
        if isinstance(job, TrainJob):
            return RECORD_BYTES + EVENT_BYTES + PREVIEW_IMAGES * math.prod(datasets.outline(job.dataset).image_shape)
        return RECORD_BYTES

    def _of_images(self, job: GenerateJob) -> int:
        pixels = math.prod(self._store.card(job.model, job.version).image_shape)
        carried = FILE_BYTES
        if isinstance(job.data, ImageData):
            carried += len(job.data.pixels)
        elif isinstance(job.data, ClassData):
            carried += 12 * len(job.data.labels)
        in_a_grid = job.num_images * pixels + carried if job.layout == "grid" and job.num_images > 1 else 0
        report = REPORT_BYTES + (TRACE_BYTES if job.mcmc else 0)
        return job.num_images * (pixels + carried + report) + in_a_grid

    def most(self, share: float | None) -> int | None:
        """Bytes that may be kept of a caller with a share of all; None without one."""
        return None if share is None else min(self.kept.caller, int(share * self.kept.all))

    def check(self, answer: Answer, share: float | None = None) -> None:
        """Raises Refusal where a job was refused because of what is kept already."""
        if answer.full is None:
            return
        own = self.most(share) or self.kept.caller
        whose, limit = ("this caller", own) if answer.full.whose == "caller" else ("all callers", self.kept.all)
        wait_s = min(LONGEST_S, answer.full.next_gone_s)
        detail = f"jobs of {whose} keep {answer.full.kept} bytes, and this one would exceed the limit of {limit}; results are kept for "
        detail += f"{self._ttl_s} s; try again in {wait_s} s"
        raise Refusal("results-full", detail, headers={"Retry-After": str(wait_s)})

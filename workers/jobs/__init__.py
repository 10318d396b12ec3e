"""The wire format: what Redis holds of a job. One kind a file: the folder is the registry. Imports no torch, no Redis, no other folder."""

import pkgutil
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, TypeAdapter

from models.cards import Frozen
from models.registry import classes
from workers.jobs.base import EVENT_ID, RECORD_BYTES, Event, Job, Problem, Progress, Result, Seed, Status
from workers.jobs.calibrate import CalibrateJob, CalibrateResult
from workers.jobs.generate import (
    MAX_IMAGES,
    ChainReport,
    ClassData,
    Contract,
    Diagnostics,
    GenerateJob,
    GenerateResult,
    ImageData,
    Layout,
    Priority,
    Timings,
)
from workers.jobs.train import TrainJob, TrainResult

KINDS: dict[str, type[Job]] = classes(__name__, __path__, Job)

if TYPE_CHECKING:
    AnyJob = Job
    AnyResult = Result
else:  # each kind keeps its own schema in /docs
    AnyJob = Annotated[reduce(or_, KINDS.values()), Field(discriminator="kind")]
    AnyResult = Annotated[reduce(or_, (kind.result for kind in KINDS.values())), Field(discriminator="kind")]

JOB: TypeAdapter[Job] = TypeAdapter(AnyJob)
RESULT: TypeAdapter[Result] = TypeAdapter(AnyResult)


class JobView(Frozen):
    """Everything known of a job, read from Redis in one go."""

    id: str
    status: Status
    job: AnyJob
    created_at: float = Field(description="Unix seconds")
    started_at: float | None = None
    ended_at: float | None = None
    queue_position: int | None = Field(None, description="jobs ahead of it, 0 when it is next; None once it runs")
    progress: Progress | None = None
    result: AnyResult | None = None
    problem: Problem | None = None
    worker: str | None = None


def run(job: dict[str, Any]) -> Any:
    """The function that every queued job names, whatever its kind: RQ calls it, and it calls the handler of the job's kind.

    Returns the result as JSON, or what else the handler returns, such as `rq.Retry`. Raises TypeError where the kind has no handler.
    """
    asked = JOB.validate_python(job)
    if asked.handler is None:
        raise TypeError(f"{asked.kind} jobs are run many at once by `python -m workers.generation`, not one by one by RQ's own worker")
    result = pkgutil.resolve_name(asked.handler)(asked)
    return result.model_dump(mode="json") if isinstance(result, Result) else result


__all__ = [
    "EVENT_ID",
    "JOB",
    "KINDS",
    "MAX_IMAGES",
    "RECORD_BYTES",
    "RESULT",
    "AnyJob",
    "AnyResult",
    "CalibrateJob",
    "CalibrateResult",
    "ChainReport",
    "ClassData",
    "Contract",
    "Diagnostics",
    "Event",
    "GenerateJob",
    "GenerateResult",
    "ImageData",
    "Job",
    "JobView",
    "Layout",
    "Priority",
    "Problem",
    "Progress",
    "Result",
    "Seed",
    "Status",
    "Timings",
    "TrainJob",
    "TrainResult",
    "run",
]

"""What every kind of job has: a queue, a cost, a handler, a result, and the words for where it stands."""

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from models.cards import Frozen

Seed = Annotated[int, Field(ge=0, lt=2**63)]
RECORD_BYTES = 4096  # that Redis keeps of a job beside its result and files, about
EVENT_ID = r"^\d{1,19}(-\d{1,19})?$"  # a millisecond and a number within it; Redis takes no more than 64 bits of each


class Status(StrEnum):
    """Where a job stands, in the words of the API."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"

    @property
    def over(self) -> bool:
        return self not in (Status.QUEUED, Status.RUNNING)


class Result(Frozen):
    """What a finished job leaves in Redis beside its files."""

    kind: str
    artifacts: tuple[str, ...] = Field((), description="names of the job's files")


class Job(Frozen):
    """A request with every choice made. Each file of this folder defines one kind as a subclass; no other list of kinds exists."""

    kind: str
    caller: str = Field("", max_length=100, description="who asks, for fair turns; the result does not depend on it")

    traceparent: str = Field(
        "",
        max_length=100,
        exclude_if=lambda text: not text,
        description="trace of the request; the result does not depend on it",
    )

    asked: str = Field(
        "",
        max_length=64,
        exclude_if=lambda text: not text,
        description="sha256 of a request with an Idempotency-Key; the result does not depend on it",
    )

    # Fields that are not part of what is asked for.
    aside: ClassVar[frozenset[str]] = frozenset({"caller", "traceparent", "asked"})
    queues: ClassVar[tuple[str, ...]]  # every queue of this kind
    result: ClassVar[type[Result]]
    # "module:function", which gets the job in a process of its own and returns the result. None: a generation worker runs many at once.
    handler: ClassVar[str | None] = None
    timeout_s: ClassVar[int | None] = None  # how long a job may run; None for the setting `job_timeout_s`, -1 for no limit

    @property
    def queue(self) -> str:
        """The queue this job waits in."""
        return self.queues[0]

    @property
    def cost(self) -> int:
        """Chain-steps a generation worker makes for it; 0 where the job needs no generation worker."""
        return 0

    @property
    def work(self) -> float:
        """Floating-point operations of a training worker, in 10^12, as estimated when it was accepted."""
        return 0.0

    @property
    def chains(self) -> int:
        """Chains, one an image."""
        return 1

    @property
    def only_decodes(self) -> bool:
        """Whether images are decoded without a step of any chain."""
        return False

    @property
    def expires_after_s(self) -> float | None:
        """Seconds after the submission at which the job expires; None for never."""
        return None

    @property
    def model_name(self) -> str:
        """The model it samples or makes, for metrics; empty where there is none."""
        return ""

    def describe(self) -> str:
        """A line for logs and dashboards."""
        return self.kind


class Problem(Frozen):
    """Why a job has no result."""

    reason: Literal["diverged", "expired", "canceled", "abandoned", "unavailable", "no-gain", "internal"]
    detail: str


class Progress(Frozen):
    """How far a running job is."""

    done: int
    total: int
    unit: Literal["chain-steps", "steps"] = "chain-steps"
    stage: str | None = Field(
        None, exclude_if=lambda stage: stage is None, description="of a job with several: `training`, `calibrating`, `measuring`"
    )


class Event(Frozen):
    """One thing that happened to a job, in the order it happened."""

    id: str = Field(description="its place among the job's events; resume after it with Last-Event-ID")
    name: Literal["queued", "started", "progress", "metrics", "sample", "note", "end"]
    data: dict[str, object]

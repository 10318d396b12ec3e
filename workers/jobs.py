"""The wire format: what Redis holds for a request and what comes back. Pydantic only, no torch."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from models.cards import Digest, Frozen, ModelName, SamplerName
from models.kernels import AnyKernel

MAX_IMAGES = 256
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Priority = Literal["high", "normal", "low"]
Layout = Literal["grid", "images"]


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


class GenerateJob(Frozen):
    """A request for images with every choice made: together with the weights it determines the bytes."""

    kind: Literal["generate"] = "generate"
    model: ModelName
    version: int = Field(ge=1)
    digest: Digest
    sampler: SamplerName
    mcmc: AnyKernel | None = Field(description="None for `prior`")
    num_images: int = Field(ge=1, le=MAX_IMAGES)
    seed: Seed
    layout: Layout = "grid"
    priority: Priority = "normal"
    deadline_s: float | None = Field(None, gt=0, description="seconds after submission at which the job expires")
    caller: str = Field("", max_length=100, description="who asks, for fair turns; the bytes do not depend on it")


class TrainJob(Frozen):
    """A request for a new version of a model."""

    kind: Literal["train"] = "train"
    name: ModelName
    family: str
    dataset: str
    steps: int = Field(ge=1, le=1_000_000)
    batch_size: int = Field(ge=2, le=4096)
    width: int = Field(ge=4, le=1024, description="channels of the widest layers: the one dial of size")
    latent_size: int = Field(ge=1, le=4096)
    seed: Seed
    calibrate: bool = Field(True, description="calibrate afterwards, where the family has samplers that need it")
    options: dict[str, JsonValue] = Field({}, description="the family's own options; what is missing has its default")


AnyJob = Annotated[GenerateJob | TrainJob, Field(discriminator="kind")]


class ChainReport(Frozen):
    """What one chain did on its way to one image."""

    energy_first: float | None = Field(description="None for `prior`, which has no chain")
    energy_last: float | None
    acceptance: float | None = Field(description="fraction of proposals accepted; None for kernels that accept everything")
    energy_trace: tuple[float, ...] = Field((), description="at most 64 energies, evenly spaced from the first to the last")


class Diagnostics(Frozen):
    """What can honestly be said of a job's samples."""

    exact: bool | None = Field(description="whether the kernel leaves its target invariant; None for `prior`")
    effective_temperature: float
    acceptance: float | None = None
    energy_first: float | None = Field(None, description="mean over the chains")
    energy_last: float | None = Field(None, description="mean over the chains")
    nonfinite_chains: int = 0
    ess: float | None = Field(None, description="effective sample size of all chains' energies, second half; None under 100 draws a chain")
    r_hat: float | None = Field(None, description="split R-hat of the energies, second half; None under 100 draws a chain or 2 chains")
    calibration: str | None = Field(None, description="method of the calibration that the sampler rests on; None where there is none")
    warnings: tuple[str, ...] = ()


class Contract(Frozen):
    """What may change an image's bytes though request and weights are the same; workers that agree in all of it give the same bytes."""

    device: str = Field(description="`cpu`, or the GPU's name as torch tells it")
    instructions: str | None = Field(description="vector instructions torch uses on the CPU; None on a GPU")
    torch: str
    sampling_reference: int | None = Field(description="batch size whose bits energies and gradients have; None for `prior`")
    decoding_reference: int = Field(description="the same for images")
    reproducible: bool = Field(True, description="False where no batch size was found in which neighbours do not change the bits")


class Timings(Frozen):
    """Seconds a job spent in each phase."""

    queue_s: float
    sampling_s: float
    encoding_s: float


class GenerateResult(Frozen):
    """What a finished GenerateJob leaves in RQ: everything but the images themselves, which are artifacts `0.png` ... and `grid.png`."""

    kind: Literal["generate"] = "generate"
    artifacts: tuple[str, ...]
    diagnostics: Diagnostics
    chains: tuple[ChainReport, ...]
    timings: Timings
    worker: str
    device: str


class TrainResult(Frozen):
    """What a finished TrainJob leaves: the version it published."""

    kind: Literal["train"] = "train"
    model: ModelName
    version: int
    digest: Digest
    seconds: float
    artifacts: tuple[str, ...] = ()


AnyResult = Annotated[GenerateResult | TrainResult, Field(discriminator="kind")]


class Problem(Frozen):
    """Why a job has no result."""

    reason: Literal["diverged", "expired", "canceled", "abandoned", "unavailable", "internal"]
    detail: str


class Progress(Frozen):
    """How far a running job is."""

    done: int
    total: int
    unit: Literal["chain-steps", "steps"] = "chain-steps"


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


EVENT_ID = r"^\d{1,19}(-\d{1,19})?$"  # a millisecond and a number within it; Redis takes no more than 64 bits of each


class Event(Frozen):
    """One thing that happened to a job, in the order it happened."""

    id: str = Field(description="its place among the job's events; resume after it with Last-Event-ID")
    name: Literal["queued", "started", "progress", "metrics", "sample", "end"]
    data: dict[str, object]

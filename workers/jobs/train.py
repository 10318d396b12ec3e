"""Training jobs: a new version of a model."""

from typing import ClassVar, Literal

from pydantic import Field, JsonValue

from models.cards import Digest, ModelName
from workers.jobs.base import Job, Result, Seed


class TrainResult(Result):
    """The version that a finished TrainJob published."""

    kind: Literal["train"] = "train"
    model: ModelName
    version: int
    digest: Digest
    default_version: int | None = Field(None, description="of the model, when the job ended: the version that requests without one get")
    seconds: float


class TrainJob(Job):
    """A request for a new version of a model."""

    kind: Literal["train"] = "train"
    name: ModelName
    family: str
    dataset: str
    steps: int = Field(ge=1, le=1_000_000)
    batch_size: int = Field(ge=2, le=4096)
    width: int = Field(ge=4, le=1024, description="channels of the widest layers; sets the size of the networks")
    latent_size: int = Field(ge=1, le=4096)
    seed: Seed
    evaluations: int = Field(10, ge=0, le=1000, description="times the weights are scored; 0 publishes the last ones")
    calibrate: bool = Field(True, description="calibrate afterwards, where the family has samplers that need it")
    options: dict[str, JsonValue] = Field({}, description="the family's own options; missing ones have their defaults")
    promote: bool = Field(False, description="make the new version the default")
    tflop: float = Field(0, ge=0, description="floating-point operations it is estimated to take, in 10^12")

    queues: ClassVar[tuple[str, ...]] = ("train",)
    result: ClassVar[type[Result]] = TrainResult
    handler: ClassVar[str | None] = "workers.training.job:train_job"
    timeout_s: ClassVar[int | None] = -1

    @property
    def work(self) -> float:
        return self.tflop

    @property
    def model_name(self) -> str:
        return self.name

    def describe(self) -> str:
        return f"train {self.name} ({self.family} on {self.dataset}, {self.steps} steps)"

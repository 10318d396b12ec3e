"""Calibration jobs: a new version of a model with the same weights but another log density ratio."""

from typing import ClassVar, Literal

from pydantic import Field

from models.calibration.settings import Method
from models.cards import Digest, ModelName
from workers.jobs.base import Job, Result, Seed


class CalibrateResult(Result):
    """The version that a finished CalibrateJob published."""

    kind: Literal["calibrate"] = "calibrate"
    model: ModelName
    version: int
    digest: Digest
    default_version: int | None = Field(None, description="of the model, when the job ended: the version that requests without one get")
    fid_prior: float = Field(description="on `test`")
    fid_reweighted: float = Field(description="on `test`, of the prior's images reweighted by the new ratio")


class CalibrateJob(Job):
    """A request to calibrate a version of a model anew. It fails with the reason `no-gain`, publishing nothing, if that does not help."""

    kind: Literal["calibrate"] = "calibrate"
    model: ModelName
    version: int = Field(ge=1)
    digest: Digest
    settings: Method
    dataset: str
    seed: Seed
    promote: bool = Field(False, description="make the new version the default")
    tflop: float = Field(0, ge=0, description="floating-point operations it is estimated to take, in 10^12")

    queues: ClassVar[tuple[str, ...]] = ("calibrate",)
    result: ClassVar[type[Result]] = CalibrateResult
    handler: ClassVar[str | None] = "workers.training.calibrate:calibrate_job"
    timeout_s: ClassVar[int | None] = -1

    @property
    def work(self) -> float:
        return self.tflop

    @property
    def model_name(self) -> str:
        return self.model

    def describe(self) -> str:
        return f"calibrate {self.model} v{self.version} by {self.settings.method} on {self.dataset}, seed {self.seed}"

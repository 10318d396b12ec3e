"""The card: what a published checkpoint is, in JSON, readable without torch."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from models import targets
from models.kernels import AnyKernel

NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"
SAMPLERS = ("prior", *targets.names())  # every sampler that a card may offer
SamplerName = Annotated[str, Field(pattern=NAME)]
ModelName = Annotated[str, Field(pattern=NAME, description="lower-case letters, digits and hyphens")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="sha256 of weights.safetensors")]


class Frozen(BaseModel):
    """An immutable record for a wire or a disk; refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Metric(Frozen):
    """One figure measured on this checkpoint, with everything needed to measure it again."""

    name: str = Field(examples=["fid"])
    sampler: SamplerName | None = None
    value: float
    spread: float | None = Field(None, description="standard deviation over the seeds")
    evaluator: str = Field(description="what measured it")
    images: int = Field(description="sample size of each seed")
    seeds: tuple[int, ...]


class Calibration(Frozen):
    """How a log density ratio of data to the prior's images was fitted, and whether that helped on held-out data."""

    method: str = Field(examples=["ratio-head"])
    held_out_loss: float = Field(description="binary cross-entropy in nats, both classes summed; 2 log 2 = 1.386 is chance")
    weights_ess: float = Field(description="effective fraction of prior samples under weights exp(d)")
    fid_prior: float
    fid_reweighted: float = Field(description="of prior samples resampled by exp(d): the oracle without MCMC")
    fid_spread: float = Field(description="standard deviation of the prior's FID over seeds")


class Training(Frozen):
    """Where the weights came from."""

    command: str
    dataset: str
    steps: int
    seed: int
    seconds: float
    torch: str
    images_per_second: float | None = Field(None, description="real images used a second while stepping")
    best_step: int | None = Field(None, description="the step whose weights these are: those with the lowest FID to `validation`")
    validation_fid: float | None = Field(None, description="of these weights, by the sampler of the previews")
    rollbacks: tuple[str, ...] = Field((), description="why the run went back to an earlier step, once for each time")


class ModelCard(Frozen):
    """A checkpoint without its weights."""

    name: ModelName
    version: int = Field(ge=1)
    family: str
    description: str
    image_shape: tuple[int, int, int] = Field(description="channels, height, width")
    latent_shape: tuple[int, ...]
    networks: dict[str, Any] = Field(description="size of the networks, from which the family rebuilds them")
    options: dict[str, JsonValue] = Field({}, description="the family's own options")
    samplers: dict[SamplerName, AnyKernel | None] = Field(
        description="samplers offered, with their default kernel; None where there is none"
    )
    default_sampler: SamplerName
    needs_calibration: dict[SamplerName, str] = Field(
        {}, description="samplers that rest on a calibration, and what a result says where there is none"
    )
    calibration: Calibration | None = None
    remarks: dict[SamplerName, str] = Field({}, description="what was found on `validation` that results of a sampler warn of")
    metrics: tuple[Metric, ...] = ()
    training: Training
    digest: Digest

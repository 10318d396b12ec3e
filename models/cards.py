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
    floor: float | None = Field(None, description="the same figure of as many real images of another split")
    split: str = Field(description="the real images it was measured against", examples=["test"])
    extractor: str | None = Field(None, description="the network whose features were compared; None where pixels were")
    images: int = Field(description="how many of each seed were measured, at most")
    seeds: tuple[int, ...]


class Evaluation(Frozen):
    """What `ebbtide evaluate` found of a checkpoint; its rows are named like those of a card, with oracles beside the samplers."""

    model: ModelName
    version: int
    digest: Digest
    dataset: str
    torch: str
    device: str = Field(description="what drew and measured the images: `cpu` or the name of a GPU")
    metrics: tuple[Metric, ...]


class Assessment(Frozen):
    """Figures of a log density ratio d of data to the prior's images, on images of one split and on generated ones."""

    real: int = Field(description="images of the split")
    generated: int = Field(description="images of the prior, over all seeds")
    slope: float = Field(description="of a logistic regression on d; 1 for a density ratio")
    intercept: float = Field(description="of the same regression; 0 for a density ratio")
    z: float = Field(description="Σ(y - p)/√Σp(1 - p); within ±2 for a density ratio, unless the split fitted it")
    data_mean: float = Field(description="mean of exp(-d) over data; 1 for a density ratio")
    model_mean: float = Field(description="mean of exp(d) over generated images; 1 for a density ratio")
    calibration_error: float = Field(description="expected calibration error of σ(d), data and model weighing the same; 0 at best")
    loss: float = Field(description="binary cross-entropy in nats, both classes summed; 2 log 2 = 1.386 is chance")
    weights_ess: float = Field(description="effective share of the prior's images under weights exp(d)")
    fid_prior: float
    fid_prior_spread: float = Field(description="standard deviation over the seeds")
    fid_reweighted: float = Field(description="of the prior's images reweighted by exp(d): the oracle without MCMC")
    fid_reweighted_spread: float = Field(description="standard deviation over the seeds")
    classes_prior: float = Field(description="total variation between the classes' proportions of data and of the prior")
    classes_reweighted: float = Field(description="the same after reweighting")


class Calibration(Frozen):
    """How a log density ratio of data to the prior's images was fitted, and whether that helped on held-out data."""

    method: str = Field(examples=["ratio-head"])
    settings: dict[str, JsonValue] = Field({}, description="of the method")
    made: str = Field("", description="what was kept of what was tried")
    optimum: str = Field("", description="what the log ratio would be if it were perfect")
    fitted_slope: float = Field(1.0, description="on `validation`, before it was divided out")
    fitted_intercept: float = Field(0.0, description="on `validation`, before it was taken off")
    dataset: str = ""
    seed: int = 0
    validation: Assessment | None = Field(None, description="what decided to keep it")
    test: Assessment | None = Field(None, description="of the log ratio as it is served, on images that decided nothing")


class Training(Frozen):
    """Where the weights came from."""

    command: str
    dataset: str
    steps: int
    seed: int
    seconds: float
    torch: str
    device: str | None = Field(None, description="what trained it: `cpu` or the name of a GPU")
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
    classes: int = Field(0, description="a request may choose one of so many; 0 where the model takes no class")
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

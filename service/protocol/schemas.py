"""The bodies of requests and answers, as shown in /docs."""

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ConfigDict, Field, JsonValue, WrapValidator
from pydantic_core import PydanticCustomError

from models import datasets, families
from models.calibration.settings import METHODS, Method
from models.cards import SAMPLERS, Frozen, ModelCard, ModelName
from models.families import FAMILIES
from models.kernels import KERNELS
from workers.jobs import MAX_IMAGES, JobView, Layout, Priority, Seed


def _as_given(value: object, _: object) -> dict[str, Any]:
    """Settings stay as they are: what they are checked against depends on another field or on the model's card."""
    if not isinstance(value, dict):
        raise PydanticCustomError("settings", "must be an object of settings, or absent")
    return value


if TYPE_CHECKING:
    GivenSettings = dict[str, Any]
    GivenOptions = dict[str, Any]
    GivenMethod = dict[str, Any]
else:  # /docs shows the settings of every kernel and the options of every family
    GivenSettings = Annotated[reduce(or_, KERNELS.values()), WrapValidator(_as_given)]
    GivenOptions = Annotated[reduce(or_, FAMILIES.values()), WrapValidator(_as_given)]
    GivenMethod = Annotated[Method, WrapValidator(_as_given)]


DEFAULT_SEED = "default: 63 random bits; the answer names it, in `X-Ebbtide-Seed` as text, since numbers of JavaScript hold 53"
PROMOTE = "make the new version the default, which requests that name no version get; the first version of a model is it anyway"
AnySampler = Annotated[str, Field(max_length=100, json_schema_extra={"enum": list(SAMPLERS)})]

Label = Annotated[int, Field(ge=0, lt=2**31)]
ChosenClasses = Label | Annotated[list[Label], Field(min_length=1, max_length=MAX_IMAGES)]


class Body(Frozen):
    """A request body; JSON types are not converted into one another."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class GenerateRequest(Body):
    """Which images to sample and how; only `model` is required."""

    model_config = ConfigDict(json_schema_extra={"example": {"model": "mnist-sngan", "num_images": 16}})

    model: str = Field(max_length=100, description="name of a checkpoint, or name@version", examples=["mnist-sngan", "mnist-sngan@1"])
    sampler: AnySampler | None = Field(None, description="default: the checkpoint's default sampler")
    mcmc: GivenSettings | None = Field(
        None,
        description="kernel and its settings; missing ones come from the card's kernel, all of them for `{}`. `prior` takes none",
    )
    num_images: int = Field(1, ge=1, le=MAX_IMAGES)
    seed: Seed | None = Field(None, description=DEFAULT_SEED)
    class_: ChosenClasses | None = Field(
        None,
        alias="class",
        description="of a model with classes: one from 0 on for all images, or a list for the images in turn; default: drawn by the seed",
    )
    layout: Layout = Field("grid", description="`grid`: one picture of all images; `images`: one picture for each")
    priority: Priority = "normal"
    deadline_s: float | None = Field(None, gt=0, le=7 * 86_400, description="seconds until the job expires")


class TrainRequest(Body):
    """Which model to train and how."""

    model_config = ConfigDict(json_schema_extra={"example": {"name": "my-digits", "family": "sngan", "dataset": "digits", "steps": 500}})

    name: ModelName
    family: str = Field(max_length=100, json_schema_extra={"enum": list(families.names())})
    dataset: str = Field(
        max_length=100,
        description=f"one of {', '.join(datasets.choices())}; the training worker has the data",
        json_schema_extra={"pattern": datasets.pattern()},
    )
    steps: int = Field(2000, ge=1, le=1_000_000)
    batch_size: int = Field(64, ge=2, le=4096)
    width: int = Field(64, ge=4, le=1024, description="channels of the widest layers; sets the size of the networks")
    latent_size: int = Field(64, ge=1, le=4096)
    seed: Seed | None = Field(None, description=DEFAULT_SEED)
    evaluations: int = Field(
        10,
        ge=0,
        le=1000,
        description="times in the run that FID to `validation` is measured; the best weights are published, at 0 the last",
    )
    calibrate: bool = Field(True, description="calibrate afterwards, where the family has samplers that need it")
    promote: bool = Field(False, description=PROMOTE)
    options: GivenOptions = Field(default_factory=dict, description="the family's own options; missing ones have their defaults")


class CalibrateRequest(Body):
    """How to calibrate a model anew; nothing is required."""

    model_config = ConfigDict(json_schema_extra={"example": {"method": "ratio-head", "options": {"steps": 1200}}})

    method: str = Field("ratio-head", max_length=100, json_schema_extra={"enum": list(METHODS)})
    options: GivenMethod = Field(default_factory=dict, description="of the method; missing ones have their defaults")
    dataset: str | None = Field(
        None, max_length=100, description="default: the one it was trained on", json_schema_extra={"enum": [*datasets.names(), None]}
    )
    seed: Seed | None = Field(None, description="default: random; the answer names it")
    promote: bool = Field(False, description=PROMOTE)


class JobLinks(Frozen):
    """The paths of a job's parts."""

    self: str
    events: str
    images: tuple[str, ...] = ()
    grid: str | None = None
    artifacts: tuple[str, ...] = Field((), description="other files of the job, such as samples drawn during training")


class JobReply(JobView):
    """A job with its links and the time it still needs."""

    eta_s: float | None = Field(None, description="estimated seconds until the job ends; None where no pace has been measured")
    links: JobLinks
    pictures: tuple[str, ...] | None = Field(
        None, exclude_if=lambda pictures: pictures is None, description="each image as base64 of its PNG; with `?images=base64` alone"
    )


class JobList(Frozen):
    """Recent jobs, newest first."""

    jobs: tuple[JobReply, ...]
    next: str | None = Field(None, description="path of the jobs before these; None where there are none")


class ModelReply(ModelCard):
    """A card, all versions of the model and the path of its samples."""

    versions: tuple[int, ...]
    default_version: int = Field(description="of the model: the version that requests without one get")
    samples: str = Field(description="path of a picture of its samples")
    reliability: str | None = Field(description="path of a plot of what its density ratio says against what is true; None without one")


class ModelList(Frozen):
    """The default version of each model."""

    models: tuple[ModelReply, ...]


class Version(Frozen):
    """What is running."""

    version: str = Field(description="of Ebbtide", examples=["0.1.0"])


class Health(Frozen):
    """The answer to a probe."""

    status: str


class Fault(Frozen):
    """One invalid field of a request."""

    field: str = Field(description="path of the field, such as `mcmc.steps`; empty for the whole body")
    value: JsonValue = None
    reason: str
    choices: tuple[str, ...] = ()


class ProblemDetails(Frozen):
    """An error answer (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    job: str | None = Field(None, description="path of the job, where the problem is about one")
    errors: tuple[Fault, ...] = ()

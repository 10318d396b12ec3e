"""Bodies of requests and answers, as they stand in /docs."""

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ConfigDict, Field, JsonValue, WrapValidator
from pydantic_core import PydanticCustomError

from models import datasets, families
from models.cards import SAMPLERS, Frozen, ModelCard, ModelName
from models.families import FAMILIES
from models.kernels import AnyKernel
from workers.jobs import MAX_IMAGES, JobView, Layout, Priority, Seed


def _as_given(value: object, _: object) -> dict[str, Any]:
    """Settings stay as they came: what they are checked against depends on another field or on the model's card."""
    if not isinstance(value, dict):
        raise PydanticCustomError("settings", "must be an object of settings, or absent")
    return value


if TYPE_CHECKING:
    GivenSettings = dict[str, Any]
    GivenOptions = dict[str, Any]
else:  # /docs show the settings of every kernel and the options of every family
    GivenSettings = Annotated[AnyKernel, WrapValidator(_as_given)]
    GivenOptions = Annotated[reduce(or_, FAMILIES.values()), WrapValidator(_as_given)]


AnySampler = Annotated[str, Field(max_length=100, json_schema_extra={"enum": list(SAMPLERS)})]


class Body(Frozen):
    """What a caller sends: JSON types are not converted into one another."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class GenerateRequest(Body):
    """Images wanted, and how; everything but `model` may be left out."""

    model_config = ConfigDict(json_schema_extra={"example": {"model": "mnist-sngan", "num_images": 16}})

    model: str = Field(max_length=100, description="name of a checkpoint, or name@version", examples=["mnist-sngan", "mnist-sngan@2"])
    sampler: AnySampler | None = Field(None, description="default: the checkpoint's default sampler")
    mcmc: GivenSettings | None = Field(
        None, description="kernel and its settings; what is missing comes from the checkpoint's default kernel. None for `prior`"
    )
    num_images: int = Field(1, ge=1, le=MAX_IMAGES)
    seed: Seed | None = Field(None, description="default: drawn below 2**32 and told in the answer")
    layout: Layout = Field("grid", description="`grid`: one picture of all images; `images`: each by itself")
    priority: Priority = "normal"
    deadline_s: float | None = Field(None, gt=0, le=7 * 86_400, description="seconds from now at which the job expires")


class TrainRequest(Body):
    """A new version of a model, and how to train it."""

    model_config = ConfigDict(json_schema_extra={"example": {"name": "my-digits", "family": "sngan", "dataset": "digits", "steps": 500}})

    name: ModelName
    family: str = Field(max_length=100, json_schema_extra={"enum": list(families.names())})
    dataset: str = Field(max_length=100, json_schema_extra={"enum": list(datasets.names())})
    steps: int = Field(2000, ge=1, le=1_000_000)
    batch_size: int = Field(64, ge=2, le=4096)
    width: int = Field(64, ge=4, le=1024, description="channels of the widest layers: the one dial of size")
    latent_size: int = Field(64, ge=1, le=4096)
    seed: Seed | None = Field(None, description="default: drawn below 2**32 and told in the answer")
    calibrate: bool = Field(True, description="calibrate afterwards, where the family has samplers that need it")
    options: GivenOptions = Field({}, description="the family's own options; what is missing has its default")


class JobLinks(Frozen):
    """Where the parts of a job are."""

    self: str
    events: str
    images: tuple[str, ...] = ()
    grid: str | None = None
    artifacts: tuple[str, ...] = Field((), description="what else the job left, such as samples drawn while training")


class JobReply(JobView):
    """A job as the API tells it."""

    eta_s: float | None = Field(None, description="estimate of the seconds until the job ends; None where no pace has been measured yet")
    links: JobLinks


class JobList(Frozen):
    """Recent jobs, newest first."""

    jobs: tuple[JobReply, ...]


class ModelReply(ModelCard):
    """A card with the versions there are of it and the address of its samples."""

    versions: tuple[int, ...]
    samples: str = Field(description="address of a picture of its samples")


class ModelList(Frozen):
    """The newest version of each model."""

    models: tuple[ModelReply, ...]


class Health(Frozen):
    """What a probe wants to know."""

    status: str


class Fault(Frozen):
    """One thing that is wrong with a request."""

    field: str = Field(description="path of the field, dots between; empty for the whole body")
    value: JsonValue = None
    reason: str
    choices: tuple[str, ...] = ()


class ProblemDetails(Frozen):
    """A refusal (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    job: str | None = Field(None, description="address of the job, where the refusal is about one")
    errors: tuple[Fault, ...] = ()

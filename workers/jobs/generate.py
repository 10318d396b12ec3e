"""Generation jobs: images from a checkpoint, by chains that step together with those of other jobs."""

import binascii
import math
from base64 import b64decode
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from models.cards import Digest, Frozen, ModelName, SamplerName
from models.kernels import AnyKernel
from workers.jobs.base import Job, Result, Seed

if TYPE_CHECKING:
    import numpy as np

MAX_IMAGES = 256
Priority = Literal["high", "normal", "low"]
Layout = Literal["grid", "images"]
GENERATE_QUEUES = ("generate-high", "generate", "generate-low")  # highest priority first, see `queue/scripts/pieces/turns.lua`
ALONE_QUEUE = "generate-alone"  # jobs of any priority that run alone, see `leases/quarantine.py`


class ImageData(Frozen):
    """An image for every chain of a job to be conditioned on, as the `posterior` target needs one."""

    kind: Literal["image"] = "image"
    shape: tuple[PositiveInt, PositiveInt, PositiveInt] = Field(description="channels, height, width")
    pixels: str = Field(repr=False, description="base64 of uint8 pixels in the order of `shape`")

    @model_validator(mode="after")
    def _check_length(self) -> Self:
        try:
            found = len(b64decode(self.pixels, validate=True))
        except binascii.Error as error:
            raise ValueError(f"pixels must be base64: {error}") from error
        if found != math.prod(self.shape):
            raise ValueError(f"pixels hold {found} bytes where shape {self.shape} needs {math.prod(self.shape)}")
        return self

    def array(self) -> "np.ndarray":
        """The image as float32 (channels, height, width) in [-1, 1]: pixel v becomes v / 127.5 - 1, the inverse of `images.to_pixels`."""
        import numpy as np  # the API does without

        return (np.frombuffer(b64decode(self.pixels), np.uint8).astype(np.float32) / 127.5 - 1).reshape(self.shape)


class ClassData(Frozen):
    """The classes that a job's chains are conditioned on."""

    kind: Literal["class"] = "class"
    labels: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        min_length=1, max_length=MAX_IMAGES, description="image i has label i, counted from the first again after the last"
    )

    @classmethod
    def drawn(cls, seed: int, images: int, classes: int) -> "ClassData":
        """A label for every image, uniform over the classes: a function of seed and image index alone."""
        words = (sha256(f"{seed}/{index}".encode()).digest()[:8] for index in range(images))
        return cls(labels=tuple(int.from_bytes(word) % classes for word in words))

    def label_of(self, image: int) -> int:
        """The label of one image."""
        return self.labels[image % len(self.labels)]

    def array(self) -> "np.ndarray":
        """The labels as int64 (labels,)."""
        import numpy as np

        return np.array(self.labels, np.int64)


class ChainReport(Frozen):
    """What one chain did on its way to one image."""

    energy_first: float | None = Field(description="None for `prior`, which has no chain")
    energy_last: float | None
    acceptance: float | None = Field(description="fraction of proposals accepted; None for kernels that accept everything")
    energy_trace: tuple[float, ...] = Field((), description="at most 64 energies, evenly spaced from the first to the last")
    moved: bool | None = Field(None, description="whether its energy changed in the second half of its steps; None for `prior`")


RHat = float | Literal["Infinity"]  # a string, since JSON has no such number: float() of Python and Number() of JavaScript read it


class Diagnostics(Frozen):
    """What can honestly be said of a job's samples. ESS and R-hat are of the chains' energies; `reasons` says why a field is null."""

    exact: bool | None = Field(description="whether the kernel leaves its target invariant; None for `prior`")
    effective_temperature: float
    acceptance: float | None = Field(None, description="fraction of proposals accepted, of all chains")
    jump_rate: float | None = Field(None, description="fraction of i-SIR draws that took a fresh point, of `local-global`")
    mala_acceptance: float | None = Field(
        None, description="of `langevin`: how often MALA would accept a step and its reverse, mean of the second half; low where bias shows"
    )
    energy_first: float | None = Field(None, description="mean over the chains")
    energy_last: float | None = Field(None, description="mean over the chains")
    nonfinite_chains: int = 0
    stuck_chains: int = Field(0, description="chains whose energy never changed in the second half of their steps")
    draws: int = Field(0, description="draws of each chain: energies after each of its last steps, half of all, at most 1000")
    ess_bulk: float | None = Field(None, description="effective sample size for the centre, of all chains together")
    ess_tail: float | None = Field(None, description="the smaller effective sample size for the 5 % and the 95 % quantile")
    r_hat: RHat | None = Field(None, description="split R-hat, rank-normalised and folded; of one chain it compares the halves")
    nested_r_hat: RHat | None = Field(None, description="nested R-hat with each chain a superchain of its own")
    calibration: str | None = Field(None, description="method of the calibration that the sampler rests on; None where there is none")
    reasons: dict[str, str] = Field({}, description="for each field that is null, why")
    warnings: tuple[str, ...] = ()


class Contract(Frozen):
    """What may change an image's bytes though request and weights are the same; workers that agree in all of it give the same bytes."""

    device: str = Field(description="`cpu`, or the GPU's name as torch reports it")
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


class GenerateResult(Result):
    """What is known of a finished job's images, which are its artifacts `0.png` ... and, of several in one picture, `grid.png`."""

    kind: Literal["generate"] = "generate"
    diagnostics: Diagnostics
    chains: tuple[ChainReport, ...]
    timings: Timings
    worker: str
    device: str


class GenerateJob(Job):
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
    data: Annotated[ImageData | ClassData, Field(discriminator="kind")] | None = Field(
        None, exclude_if=lambda data: data is None, description="what the target is conditioned on; None for targets that need nothing"
    )

    queues: ClassVar[tuple[str, ...]] = (*GENERATE_QUEUES, ALONE_QUEUE)
    result: ClassVar[type[Result]] = GenerateResult

    @property
    def queue(self) -> str:
        return queue_for(self.priority)

    @property
    def cost(self) -> int:
        """Evaluations of one chain, where decoding an image counts as one."""
        return self.num_images * (self.mcmc.ticks if self.mcmc else 1)

    @property
    def points(self) -> int:
        """Points that all its chains together may ask for in one tick."""
        return self.num_images * self.mcmc.points_per_chain if self.mcmc else 0

    @property
    def chains(self) -> int:
        return self.num_images

    @property
    def only_decodes(self) -> bool:
        return self.mcmc is None

    @property
    def expires_after_s(self) -> float | None:
        return self.deadline_s

    @property
    def model_name(self) -> str:
        return self.model

    def describe(self) -> str:
        return f"{self.num_images} x {self.model} v{self.version} by {self.sampler}, seed {self.seed}"


def queue_for(priority: str) -> str:
    """The queue of generation jobs of a priority."""
    return "generate" if priority == "normal" else f"generate-{priority}"

"""What the engine's process and its worker send each other: orders in, ended jobs, measurements and progress out."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import Field

from models.cards import Frozen
from workers.capacity import Room
from workers.jobs import ChainReport, Contract, Diagnostics, GenerateJob, Problem, Progress

if TYPE_CHECKING:
    import numpy as np


class Finished(Frozen):
    """A job whose chains are all done."""

    job_id: str
    shape: tuple[int, int, int, int] = Field(description="images, height, width, channels")
    pixels: bytes = Field(b"", exclude=True, repr=False, description="uint8; sent beside the JSON")
    chains: tuple[ChainReport, ...]
    diagnostics: Diagnostics
    contract: Contract
    sampling_s: float

    @property
    def images(self) -> "np.ndarray":  # uint8, (images, height, width, channels)
        import numpy as np  # importing this module must not load numpy

        return np.frombuffer(self.pixels, np.uint8).reshape(self.shape)


class Failed(Frozen):
    """A job that ended without images, and why."""

    job_id: str
    problem: Problem


class Stepped(Frozen):
    """One evaluation for the chains of one model and sampler."""

    kind: Literal["stepped"] = "stepped"
    model: str
    sampler: str
    chains: int
    bucket: int
    seconds: float


class EngineTicked(Frozen):
    """One tick in which chains stepped: the steps, the images of chains that ended, and a slice of loading."""

    kind: Literal["ticked"] = "ticked"
    seconds: float


class ChainsRetired(Frozen):
    """Chains of one job that ended."""

    kind: Literal["retired"] = "retired"
    model: str
    sampler: str
    chains: int
    acceptance: float | None = None
    nonfinite: int = 0


class Loaded(Frozen):
    """A checkpoint was read from disk."""

    kind: Literal["loaded"] = "loaded"
    model: str
    version: int
    seconds: float = Field(description="without the steps of other jobs in between")


class Warmed(Frozen):
    """What one evaluation costs at each batch size that gives the same bits."""

    kind: Literal["warmed"] = "warmed"
    model: str
    sampler: str
    seconds: dict[int, float] = Field(description="by batch size")
    taken: dict[int, int] = Field(description="bytes of memory at the peak, by batch size")


Measurement = Annotated[Stepped | EngineTicked | ChainsRetired | Loaded | Warmed, Field(discriminator="kind")]
Observer = Callable[[Measurement], None]


class Admit(Frozen):
    """A job to run; its outcome carries the label."""

    label: str
    job: GenerateJob
    expires_at: float | None


class EndEarly(Frozen):
    """A job to end early."""

    label: str
    problem: Problem


class Orders(Frozen):
    """What the worker sends to the engine."""

    admit: tuple[Admit, ...] = ()
    end_early: tuple[EndEarly, ...] = ()


class Sent(NamedTuple):
    """Jobs sent so far, and the points their chains may ask for in a tick."""

    jobs: int = 0
    points: int = 0

    def with_(self, job: Admit) -> "Sent":
        """The count with one job more."""
        return Sent(self.jobs + 1, self.points + job.job.points)


class State(NamedTuple):
    """The load of an engine, and how much more it can take."""

    device: str
    capacity: int  # chains that may run at once; fewer than configured while memory is short
    admitted: Sent
    room: Room  # once those are admitted
    threads: int  # it computes with


class Turn(Frozen):
    """What the engine sends to the worker: everything new since its last turn."""

    state: State
    outcomes: tuple[Finished | Failed, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    progress: dict[str, Progress] | None = None

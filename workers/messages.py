"""What comes out of an engine: jobs that are over, and what it tells whoever counts."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import Field

from models.cards import Frozen
from workers.capacity import Room, points
from workers.jobs import ChainReport, Contract, Diagnostics, GenerateJob, Problem, Progress

if TYPE_CHECKING:
    import numpy as np


class Finished(Frozen):
    """A job whose chains are all done."""

    job_id: str
    shape: tuple[int, int, int, int] = Field(description="images, height, width, channels")
    pixels: bytes = Field(b"", exclude=True, repr=False, description="uint8; beside the text where this travels")
    chains: tuple[ChainReport, ...]
    diagnostics: Diagnostics
    contract: Contract
    sampling_s: float

    @property
    def images(self) -> "np.ndarray":  # uint8, (images, height, width, channels)
        import numpy as np  # the API, which gets here by way of others, does without

        return np.frombuffer(self.pixels, np.uint8).reshape(self.shape)


class Failed(Frozen):
    """A job that will have no images, and why."""

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
    """All that was done in a tick in which chains stepped, with the images of those that ended and a slice of what loads."""

    kind: Literal["ticked"] = "ticked"
    seconds: float


class ChainsRetired(Frozen):
    """Chains of one job that are over."""

    kind: Literal["retired"] = "retired"
    model: str
    sampler: str
    chains: int
    acceptance: float | None = None
    nonfinite: int = 0


class Loaded(Frozen):
    """A checkpoint, from disk."""

    kind: Literal["loaded"] = "loaded"
    model: str
    version: int
    seconds: float = Field(description="spent on it, without the steps of others in between")


class Warmed(Frozen):
    """What an evaluation takes of each batch size that gives the same bits as the others."""

    kind: Literal["warmed"] = "warmed"
    model: str
    sampler: str
    seconds: dict[int, float]
    taken: dict[int, int] = Field(description="bytes at its peak")


Event = Annotated[Stepped | EngineTicked | ChainsRetired | Loaded | Warmed, Field(discriminator="kind")]
Observer = Callable[[Event], None]


class Admit(Frozen):
    """A job to run, under the label it will come out with."""

    label: str
    job: GenerateJob
    expires_at: float | None


class Cancel(Frozen):
    """A job to end early."""

    label: str
    problem: Problem


class Orders(Frozen):
    """What goes to the engine."""

    admit: tuple[Admit, ...] = ()
    cancel: tuple[Cancel, ...] = ()


class Sent(NamedTuple):
    """Jobs so far, and the points their chains may ask for in a tick."""

    jobs: int = 0
    points: int = 0

    def with_(self, job: Admit) -> "Sent":
        return Sent(self.jobs + 1, self.points + points(job.job))


class State(NamedTuple):
    """How an engine stands."""

    device: str
    capacity: int  # chains that may run at once, as things are
    admitted: Sent
    room: Room  # after that
    threads: int  # it computes with


class Turn(Frozen):
    """What comes from the engine: all that is new since the last one."""

    state: State
    outcomes: tuple[Finished | Failed, ...] = ()
    events: tuple[Event, ...] = ()
    progress: dict[str, Progress] | None = None

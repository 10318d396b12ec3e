"""What a kernel is: frozen settings and two functions over columns of chains, `propose` and `update`, that read nothing from the device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from torch import Tensor


class Noise(Protocol):
    """The random numbers of one tick; every call within a tick returns the same ones, so a kernel may ask twice."""

    def normal(self) -> Tensor:
        """Standard normals, one latent's worth for each chain, (chains, *latent)."""
        ...

    def normals(self) -> Tensor:
        """As many as the kernel's `normals_per_tick`, (chains, normals, *latent); the first are those of `normal`."""
        ...

    def log_uniform(self) -> Tensor:
        """Logarithms of uniforms on (0, 1), (chains,)."""
        ...


class Evaluated(NamedTuple):
    """Points with their energy and its gradient."""

    z: Tensor  # (rows, *latent)
    energy: Tensor  # (rows,)
    gradient: Tensor  # (rows, *latent)


class Info(NamedTuple):
    """What people look at: how many of the tick's proposals each chain accepted, and whether it took a fresh point that it was offered."""

    accepted: Tensor  # (chains,)
    jumped: Tensor | None = None  # (chains,), 1 where a chain moved to a fresh point; None of kernels that offer none


@dataclass
class Chains:
    """What the next tick needs, one row for each chain: where it is, its kernel's settings, what its kernel remembers."""

    z: Tensor  # (chains, *latent), a latent of any shape
    energy: Tensor  # (chains,)
    gradient: Tensor  # (chains, *latent)
    settings: dict[str, Tensor]  # each (chains, 1, ...), of as many dimensions as z
    memory: dict[str, Tensor] = field(default_factory=dict)  # each (chains, ...)
    wide: Tensor | None = None  # (wide chains,) int64: the rows for which `Kernel.is_wide` holds in this tick

    def across(self, column: Tensor) -> Tensor:
        """A column, (chains,), that broadcasts over latents, (chains, 1, ...)."""
        return column.reshape(-1, *(1,) * (self.z.dim() - 1))

    def move(self, accepted: Tensor, points: Evaluated) -> None:
        """Moves the chains that `accepted` marks, (chains,), to their points, one for each chain."""
        rows = self.across(accepted)
        self.z = points.z.where(rows, self.z)
        self.energy = points.energy.where(accepted, self.energy)
        self.gradient = points.gradient.where(rows, self.gradient)


def squared_norm(latents: Tensor) -> Tensor:
    """|z|², over all dimensions but the first: (rows, *latent) -> (rows,)."""
    return latents.square().flatten(1).sum(1)


def tempered(points: Evaluated, beta: Tensor) -> Evaluated:
    """Points under the density p(z)^β N(z; 0, I)^(1-β), given their energy under p: E becomes βE + (1-β)|z|²/2.

    `beta` is a column, (rows, 1, ...), and a β of 1 changes no bit.
    """
    flat = beta.flatten()
    energy = flat * points.energy + (1 - flat) * 0.5 * squared_norm(points.z)
    gradient = beta * points.gradient + (1 - beta) * points.z
    return Evaluated(points.z, points.energy.where(flat == 1, energy), points.gradient.where(beta == 1, gradient))


class Kernel(BaseModel):
    """Settings of one MCMC transition: request body, queue payload and kernel in one object.

    Steps follow DDLS (Che et al. 2020): drift ε/2 · ∇E with ε = `step_size`, noise √ε · `noise_scale` · √`temperature`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kernel: str
    steps: int = Field(60, ge=1, le=10_000, description="transitions a chain makes")
    temperature: float = Field(1.0, gt=0, le=100, description="T of the density exp(-E/T) aimed at")
    beta: float = Field(
        1.0,
        ge=0,
        le=100,
        exclude_if=lambda beta: beta == 1,
        description="β of the density p(z)^β N(z; 0, I)^(1-β): for DDLS the critic's temperature, p0(z) exp(β d(G(z)))",
    )

    exact: ClassVar[bool]  # leaves exp(-E/T) invariant at any step size
    columns: ClassVar[tuple[str, ...]]  # the settings that `propose` and `update` read from the batch
    points_per_chain: ClassVar[int] = 1  # the most points that a chain proposes in one tick
    normals_per_tick: ClassVar[int] = 1  # latents' worth of normals a chain may draw in one tick

    @property
    def ticks(self) -> int:
        """Energy-and-gradient evaluations a chain makes after that of its first latent."""
        return self.steps

    @property
    def decisions(self) -> int:
        """Accept-or-reject decisions of a whole chain: what acceptance is a fraction of."""
        return self.steps

    @property
    def offers(self) -> int:
        """How often a chain is offered fresh points: what `jumped` is a fraction of."""
        return 0

    @property
    def effective_temperature(self) -> float:
        """Temperature of the density that small steps sample: noise variance over twice the drift, σ²/2h."""
        return self.temperature

    def is_wide(self, ticks: int) -> bool:
        """Whether a chain proposes `points_per_chain` points in its next tick, after `ticks` ticks; otherwise it proposes one."""
        return False

    @classmethod
    def begin(cls, chains: Chains) -> None:
        """Gives newly evaluated chains the memory that the kernel keeps between ticks; most keep none."""

    @classmethod
    def propose(cls, chains: Chains, noise: Noise) -> Tensor:
        """The points whose energy and gradient the chains need next, (rows, *latent)."""
        raise NotImplementedError

    @classmethod
    def owners(cls, chains: Chains) -> Tensor | None:
        """The chain that each proposed point belongs to, (rows,) int64; None where point and chain have the same row."""
        return None

    @classmethod
    def update(cls, chains: Chains, points: Evaluated, noise: Noise) -> Info:
        """Moves the chains, given the points they proposed."""
        raise NotImplementedError

    @classmethod
    def log_ratio(cls, chains: Chains, points: Evaluated) -> Tensor | None:
        """For kernels that accept every point: the logarithm of MALA's ratio for the moves to come, times the temperature, (chains,).

        It is called before `update`, and only where chains are served: it shows the bias and moves nothing.
        """
        return None

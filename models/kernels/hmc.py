"""Hamiltonian Monte Carlo: leapfrog steps of size √ε along p' = -∇E, accepted with min(1, exp(-ΔH/T))  (Neal 2011, arXiv 1206.1901)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from models.kernels.base import Chains, Evaluated, Info, Kernel, Noise, squared_norm

if TYPE_CHECKING:
    from torch import Tensor


class Hmc(Kernel):
    """Exact and far-reaching; with one leapfrog step it is MALA with the same ε. A tick is a leapfrog step."""

    kernel: Literal["hmc"] = "hmc"
    steps: int = Field(20, ge=1, le=10_000, description="trajectories a chain makes")
    step_size: float = Field(0.1, gt=0, lt=4, description="ε: the leapfrog step is √ε")
    leapfrog_steps: int = Field(5, ge=1, le=100, description="evaluations of one trajectory")

    exact: ClassVar[bool] = True
    columns: ClassVar[tuple[str, ...]] = ("step_size", "leapfrog_steps", "temperature")

    @property
    def ticks(self) -> int:
        return self.steps * self.leapfrog_steps

    @classmethod
    def begin(cls, chains: Chains) -> None:
        """Where the trajectory is: its place, the gradient there, its momentum, its kinetic energy at the start, steps made."""
        zero = chains.z.new_zeros(chains.energy.shape)
        chains.memory |= {"place": chains.z, "slope": chains.gradient, "momentum": chains.z, "kinetic": zero, "made": zero}

    @classmethod
    def propose(cls, chains: Chains, noise: Noise) -> Tensor:
        held, root = chains.memory, chains.settings["step_size"].sqrt()
        first = held["made"] == 0
        rows = chains.across(first)
        drawn = noise.normal() * chains.settings["temperature"].sqrt()
        place, slope = chains.z.where(rows, held["place"]), chains.gradient.where(rows, held["slope"])
        momentum = drawn.where(rows, held["momentum"])
        held["kinetic"] = (0.5 * squared_norm(drawn)).where(first, held["kinetic"])
        held["momentum"] = momentum - 0.5 * root * slope
        return place + root * held["momentum"]

    @classmethod
    def update(cls, chains: Chains, points: Evaluated, noise: Noise) -> Info:
        held, root = chains.memory, chains.settings["step_size"].sqrt()
        momentum = held["momentum"] - 0.5 * root * points.gradient
        last = held["made"] + 1 == chains.settings["leapfrog_steps"].flatten()
        lost = points.energy + 0.5 * squared_norm(momentum) - chains.energy - held["kinetic"]
        log_ratio = -lost / chains.settings["temperature"].flatten()
        accepted = last & ~(noise.log_uniform() >= log_ratio)  # a NaN is accepted, so that it shows as divergence
        chains.move(accepted, points)
        held |= {"place": points.z, "slope": points.gradient, "momentum": momentum, "made": (held["made"] + 1).where(~last, 0.0)}
        return Info(accepted=accepted.to(chains.energy.dtype))

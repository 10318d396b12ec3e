"""Metropolis-adjusted Langevin: ULA's proposal, accepted with probability min(1, exp(-ΔE/T) q(z|z')/q(z'|z))  (Roberts & Tweedie 1996)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from models.kernels.base import Chains, Evaluated, Info, Kernel, Noise, squared_norm
from models.kernels.langevin import Langevin

if TYPE_CHECKING:
    from torch import Tensor


class Mala(Kernel):
    """Exact at any step size; a low acceptance shows that the step is too long, and 57 % is best on a Gaussian in many dimensions."""

    kernel: Literal["mala"] = "mala"
    step_size: float = Field(0.3, gt=0, lt=4, description="ε of DDLS: drift ε/2, noise √ε")
    noise_scale: float = Field(1.0, gt=0, le=10, description="factor on the proposal's noise; the density sampled stays the same")

    exact: ClassVar[bool] = True
    columns: ClassVar[tuple[str, ...]] = ("step_size", "noise_scale", "temperature")

    @classmethod
    def propose(cls, chains: Chains, noise: Noise) -> Tensor:
        return Langevin.propose(chains, noise)

    @classmethod
    def update(cls, chains: Chains, points: Evaluated, noise: Noise) -> Info:
        accepted = cls.accepts(chains, points, noise)
        chains.move(accepted, points)
        return Info(accepted=accepted.to(chains.energy.dtype))

    @classmethod
    def accepts(cls, chains: Chains, points: Evaluated, noise: Noise) -> Tensor:
        """Which chains accept their point, (chains,); a NaN is accepted, so that it shows as divergence and not as a rejection."""
        epsilon, scale, temperature = (chains.settings[name] for name in cls.columns)
        back = chains.z - points.z + 0.5 * epsilon * points.gradient  # (chains, *latent)
        forth_density = 0.5 * squared_norm(noise.normal())
        back_density = 0.5 * squared_norm(back) / (epsilon * temperature * scale.square()).flatten()
        log_ratio = (chains.energy - points.energy) / temperature.flatten() + forth_density - back_density
        return ~(noise.log_uniform() >= log_ratio)

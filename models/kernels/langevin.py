"""Unadjusted Langevin: z' = z - (ε/2)∇E(z) + √ε · noise_scale · √T · n  (DDLS, Che et al. 2020, arXiv 2003.06060, eq. 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from models.kernels.base import Chains, Evaluated, Info, Kernel, Noise

if TYPE_CHECKING:
    from torch import Tensor


class Langevin(Kernel):
    """Cheap and biased: on N(0, v) its stationary variance is v / (1 - ε/4v), so smaller steps are truer and slower."""

    kernel: Literal["langevin"] = "langevin"
    temperature: float = Field(1.0, ge=0, le=100, description="T of the density exp(-E/T) aimed at; 0 is gradient descent")
    step_size: float = Field(0.01, gt=0, lt=4, description="ε of DDLS: drift ε/2, noise √ε")
    noise_scale: float = Field(1.0, ge=0, le=10, description="factor on the noise; other than 1 changes the temperature sampled at")

    exact: ClassVar[bool] = False
    columns: ClassVar[tuple[str, ...]] = ("step_size", "noise_scale", "temperature")

    @property
    def decisions(self) -> int:
        return 0

    @property
    def effective_temperature(self) -> float:
        return self.noise_scale**2 * self.temperature

    @classmethod
    def propose(cls, chains: Chains, noise: Noise) -> Tensor:
        epsilon, scale, temperature = (chains.settings[name] for name in cls.columns)
        return chains.z - 0.5 * epsilon * chains.gradient + (epsilon * temperature).sqrt() * scale * noise.normal()

    @classmethod
    def update(cls, chains: Chains, points: Evaluated, noise: Noise) -> Info:
        chains.z, chains.energy, chains.gradient = points
        return Info(accepted=chains.energy.new_zeros(chains.energy.shape))

    @classmethod
    def log_ratio(cls, chains: Chains, points: Evaluated) -> Tensor:
        """T log α of z → z', both ends being known: E - E' + ½(g + g')·(z' - z - (ε/4)(g' - g)), T the effective temperature."""
        gap = (points.z - chains.z).addcmul(chains.settings["step_size"], points.gradient - chains.gradient, value=-0.25)
        work = (gap * (chains.gradient + points.gradient)).flatten(1).sum(1)
        return (chains.energy - points.energy).add(work, alpha=0.5)

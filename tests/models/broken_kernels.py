"""Kernels that are broken on purpose, each in one way that public code has shown or that is easily written."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.kernels import Chains, Evaluated, Info, Kernel, Noise
from models.kernels.hmc import Hmc
from models.kernels.langevin import Langevin
from models.kernels.local_global import PROPOSALS, LocalGlobal
from models.kernels.mala import Mala


@dataclass
class Scaled:
    """Noise with its normals multiplied, and uniforms that may be certain to accept or to reject."""

    noise: Noise
    factor: float | Tensor = 1.0
    log_uniforms: float | None = None

    def normal(self) -> Tensor:
        return self.factor * self.noise.normal()

    def normals(self) -> Tensor:
        return self.factor * self.noise.normals()

    def log_uniform(self) -> Tensor:
        drawn = self.noise.log_uniform()
        return drawn if self.log_uniforms is None else torch.full_like(drawn, self.log_uniforms)


@contextmanager
def pretending(chains: Chains, **settings: float) -> Iterator[None]:
    """Other settings than the chains have, for as long as it lasts."""
    kept = dict(chains.settings)
    chains.settings |= {name: torch.full_like(kept[name], value) for name, value in settings.items()}
    yield
    chains.settings |= kept


class UphillLangevin(Langevin):
    @classmethod
    def propose(cls, chains: Chains, noise: Noise) -> Tensor:
        return super().propose(replace(chains, gradient=-chains.gradient), noise)


class FullDriftLangevin(Langevin):
    """ε∇E where (ε/2)∇E is right."""

    @classmethod
    def propose(cls, chains: Chains, noise: Noise) -> Tensor:
        return super().propose(replace(chains, gradient=2 * chains.gradient), noise)


class NoisyLangevin(Langevin):
    """√(2ε) where √ε is right."""

    @classmethod
    def propose(cls, chains: Chains, noise: Noise) -> Tensor:
        return super().propose(chains, Scaled(noise, math.sqrt(2)))


class StandardDeviationLangevin(Langevin):
    """ε, a variance, in the place of √ε, a standard deviation."""

    @classmethod
    def propose(cls, chains: Chains, noise: Noise) -> Tensor:
        return super().propose(chains, Scaled(noise, chains.settings["step_size"].sqrt()))


class ColdLangevin(Langevin):
    """√T forgotten."""

    @classmethod
    def propose(cls, chains: Chains, noise: Noise) -> Tensor:
        with pretending(chains, temperature=1.0):
            return super().propose(chains, noise)


def careless(kernel: type[Kernel]) -> type[Kernel]:
    """The kernel, but that it accepts everything; i-SIR keeps the present point."""

    class Careless(kernel):
        @classmethod
        def update(cls, chains: Chains, points: Evaluated, noise: Noise) -> Info:
            return super().update(chains, points, Scaled(noise, log_uniforms=-math.inf))

    return Careless


class StubbornMala(Mala):
    """Accepts nothing: it stays wherever it begins."""

    @classmethod
    def update(cls, chains: Chains, points: Evaluated, noise: Noise) -> Info:
        return super().update(chains, points, Scaled(noise, log_uniforms=math.inf))


class SymmetricMala(Mala):
    """Metropolis's ratio, as if the proposal were symmetric."""

    @classmethod
    def accepts(cls, chains: Chains, points: Evaluated, noise: Noise) -> Tensor:
        return noise.log_uniform() < (chains.energy - points.energy) / chains.settings["temperature"].flatten()


class ReversedMala(Mala):
    """The sign of ΔE turned around."""

    @classmethod
    def accepts(cls, chains: Chains, points: Evaluated, noise: Noise) -> Tensor:
        return super().accepts(replace(chains, energy=points.energy), points._replace(energy=chains.energy), noise)


class NoisyMala(Mala):
    """Proposes with √(2ε) and judges as if with √ε."""

    @classmethod
    def propose(cls, chains: Chains, noise: Noise) -> Tensor:
        return super().propose(chains, Scaled(noise, math.sqrt(2)))


class ColdMala(Mala):
    """Judges without T."""

    @classmethod
    def update(cls, chains: Chains, points: Evaluated, noise: Noise) -> Info:
        with pretending(chains, temperature=1.0):
            return super().update(chains, points, noise)


class AdaptingMala(Mala):
    """Its step doubles where it accepts and halves where it does not, for ever: where a chain stands and its step depend on each other."""

    @classmethod
    def update(cls, chains: Chains, points: Evaluated, noise: Noise) -> Info:
        info = super().update(chains, points, noise)
        chains.settings["step_size"] = chains.settings["step_size"] * chains.across(2 ** (2 * info.accepted - 1))
        return info


class FullKickHmc(Hmc):
    """The first kick of a trajectory is a whole one."""

    @classmethod
    def propose(cls, chains: Chains, noise: Noise) -> Tensor:
        return super().propose(replace(chains, gradient=2 * chains.gradient), noise)


class ForgetfulHmc(Hmc):
    """The kinetic energy at the start is left out of ΔH."""

    @classmethod
    def update(cls, chains: Chains, points: Evaluated, noise: Noise) -> Info:
        chains.memory["kinetic"] = torch.zeros_like(chains.energy)
        return super().update(chains, points, noise)


class ColdHmc(Hmc):
    """Momenta without √T."""

    @classmethod
    def propose(cls, chains: Chains, noise: Noise) -> Tensor:
        with pretending(chains, temperature=1.0):
            return super().propose(chains, noise)


class ColdJudgeHmc(Hmc):
    """ΔH not divided by T."""

    @classmethod
    def update(cls, chains: Chains, points: Evaluated, noise: Noise) -> Info:
        with pretending(chains, temperature=1.0):
            return super().update(chains, points, noise)


class PlainLocalGlobal(LocalGlobal):
    """i-SIR written a second time, with parts to break; right as it is, where all chains resample at once."""

    @classmethod
    def log_weight(cls, z: Tensor, energy: Tensor, temperature: Tensor) -> Tensor:
        """log w = |z|²/2 - E/T of candidates, (candidates, chains, latent)."""
        return 0.5 * z.square().sum(-1) - energy / temperature

    @classmethod
    def candidates(cls, own: Tensor, fresh: Tensor) -> Tensor:
        return torch.cat([own.unsqueeze(0), fresh])

    @classmethod
    def update(cls, chains: Chains, points: Evaluated, noise: Noise) -> Info:
        if not len(chains.wide):
            return super().update(chains, points, noise)
        owns = (chains.z, chains.energy, chains.gradient)
        z, energy, gradient = (cls.candidates(own, fresh_of(column, len(own))) for own, column in zip(owns, points, strict=True))
        share = cls.log_weight(z, energy, chains.settings["temperature"].flatten()).softmax(0)  # (candidates, chains)
        chosen = (share.cumsum(0) < noise.log_uniform().exp()).sum(0).clamp(max=len(z) - 1)
        chains.z, chains.energy, chains.gradient = (column[chosen, torch.arange(len(chosen))] for column in (z, energy, gradient))
        return Info(accepted=torch.zeros_like(chains.energy))


def fresh_of(column: Tensor, chains: int) -> Tensor:
    """The ten proposals of each chain: (10 · chains, ...) -> (10, chains, ...)."""
    rest = column[chains:].unflatten(0, (chains, PROPOSALS - 1)).transpose(0, 1)
    return torch.cat([column[:chains].unsqueeze(0), rest])


class PriorlessLocalGlobal(PlainLocalGlobal):
    """Weights without the density that the candidates come from."""

    @classmethod
    def log_weight(cls, z: Tensor, energy: Tensor, temperature: Tensor) -> Tensor:
        return -energy / temperature


class ReversedLocalGlobal(PlainLocalGlobal):
    @classmethod
    def log_weight(cls, z: Tensor, energy: Tensor, temperature: Tensor) -> Tensor:
        return -super().log_weight(z, energy, temperature)


class ColdLocalGlobal(PlainLocalGlobal):
    @classmethod
    def log_weight(cls, z: Tensor, energy: Tensor, temperature: Tensor) -> Tensor:
        return super().log_weight(z, energy, torch.ones_like(temperature))


class RestlessLocalGlobal(PlainLocalGlobal):
    """The present point is no candidate: ten fresh ones only."""

    @classmethod
    def candidates(cls, own: Tensor, fresh: Tensor) -> Tensor:
        return fresh


class LocalOnly(PlainLocalGlobal):
    """The present point always wins: MALA, exact and slow between modes."""

    @classmethod
    def log_weight(cls, z: Tensor, energy: Tensor, temperature: Tensor) -> Tensor:
        return super().log_weight(z, energy, temperature).index_fill(0, torch.arange(1, len(z)), -math.inf)


class StrangersLocalGlobal(LocalGlobal):
    """Candidates are evaluated with what their neighbour is conditioned on."""

    @classmethod
    def owners(cls, chains: Chains) -> Tensor:
        return super().owners(chains).roll(1)

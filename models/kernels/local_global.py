"""Ex2MCMC's local-global kernel: i-SIR over proposals from N(0, I), then MALA steps  (Samsonov et al. 2022, arXiv 2111.02702, algorithm 2).

i-SIR weighs fresh points from the prior and the present one by w(z) = exp(-E(z)/T) / N(z; 0, I), and moves to one of them with
probability proportional to its weight: jumps between modes that local steps would not find. MALA then explores the mode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from models.kernels.base import Chains, Evaluated, Info, Kernel, Noise
from models.kernels.mala import Mala

if TYPE_CHECKING:
    from torch import Tensor

PROPOSALS = 10


class LocalGlobal(Kernel):
    """Exact. The first tick of a transition evaluates ten points a chain, each of the MALA ticks one."""

    kernel: Literal["local-global"] = "local-global"
    steps: int = Field(20, ge=1, le=10_000, description="transitions a chain makes, each an i-SIR and then MALA")
    step_size: float = Field(0.3, gt=0, lt=4, description="ε of the MALA steps")
    mala_steps: int = Field(3, ge=1, le=100, description="MALA steps after each i-SIR")
    noise_scale: ClassVar[float] = 1.0

    exact: ClassVar[bool] = True
    columns: ClassVar[tuple[str, ...]] = (*Mala.columns, "mala_steps")
    points_per_chain: ClassVar[int] = PROPOSALS
    normals_per_tick: ClassVar[int] = PROPOSALS

    @property
    def ticks(self) -> int:
        return self.steps * (1 + self.mala_steps)

    @property
    def decisions(self) -> int:
        return self.steps * self.mala_steps

    @classmethod
    def begin(cls, chains: Chains) -> None:
        """Ticks made of the present transition; 0 is i-SIR."""
        chains.memory |= {"made": chains.z.new_zeros(chains.energy.shape)}

    @classmethod
    def propose(cls, chains: Chains, noise: Noise) -> Tensor:
        """A point of every chain, then nine more of each chain in i-SIR: (chains + 9 jumping, latent)."""
        jumping = chains.memory["made"] == 0
        fresh = noise.normals()  # (chains, 10, latent)
        first = fresh[:, 0].where(jumping.unsqueeze(-1), Mala.propose(chains, noise))
        return _under(first, fresh[jumping, 1:].flatten(0, 1))

    @classmethod
    def owners(cls, chains: Chains) -> Tensor:
        made = chains.memory["made"]
        everyone = made.new_ones(len(made)).cumsum(0).long() - 1
        return _under(everyone, everyone[made == 0].repeat_interleave(PROPOSALS - 1))

    @classmethod
    def update(cls, chains: Chains, points: Evaluated, noise: Noise) -> Info:
        held, count = chains.memory["made"], len(chains.energy)
        jumping = held == 0
        first = Evaluated(points.z[:count], points.energy[:count], points.gradient[:count])
        accepted = Mala.accepts(chains, first, noise) & ~jumping
        rows = jumping.nonzero().squeeze(-1)
        chosen = _resampled(chains, points, rows, noise)
        chains.move(accepted, first)
        chains.z = chains.z.index_copy(0, rows, chosen.z)
        chains.energy = chains.energy.index_copy(0, rows, chosen.energy)
        chains.gradient = chains.gradient.index_copy(0, rows, chosen.gradient)
        chains.memory["made"] = (held + 1).where(held < chains.settings["mala_steps"].squeeze(-1), 0.0)
        return Info(accepted=accepted.to(chains.energy.dtype))


def _under(first: Tensor, rest: Tensor) -> Tensor:
    """Two blocks of rows, one under the other: (a, ...), (b, ...) -> (a + b, ...)."""
    both = first.new_empty(len(first) + len(rest), *first.shape[1:])
    both[: len(first)], both[len(first) :] = first, rest
    return both


def _candidates(column: Tensor, own: Tensor, rows: Tensor, count: int) -> Tensor:
    """Of each chain in i-SIR: where it stands, its first point, its nine others; (chains, ...), (rows, ...) -> (jumping, 11, ...)."""
    rest = column[count:].unflatten(0, (len(rows), PROPOSALS - 1))
    both: Tensor = rest.new_empty(len(rows), PROPOSALS + 1, *column.shape[1:])
    both[:, 0], both[:, 1], both[:, 2:] = own[rows], column[rows], rest
    return both


def _resampled(chains: Chains, points: Evaluated, rows: Tensor, noise: Noise) -> Evaluated:
    """i-SIR: one candidate a chain, drawn by weight; a NaN among the energies is drawn, so that it shows as divergence."""
    count = len(chains.energy)
    owns = (chains.z, chains.energy, chains.gradient)
    z, energy, gradient = (_candidates(column, own, rows, count) for column, own in zip(points, owns, strict=True))
    log_weight = 0.5 * z.square().sum(-1) - energy / chains.settings["temperature"][rows]
    share = log_weight.softmax(-1).cumsum(-1)
    index = (share < noise.log_uniform()[rows].exp().unsqueeze(-1)).sum(-1).clamp(max=PROPOSALS)
    broken = energy.isnan()
    index = broken.int().argmax(-1).where(broken.any(-1), index)
    row = index.new_ones(len(rows)).cumsum(0) - 1
    return Evaluated(z[row, index], energy[row, index], gradient[row, index])

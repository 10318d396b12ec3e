"""Ex2MCMC's local-global kernel: i-SIR over proposals from N(0, I), then MALA steps  (Samsonov et al. 2022, arXiv 2111.02702, algorithm 2).

i-SIR weighs fresh points from the prior and the present one by w(z) = exp(-E(z)/T) / N(z; 0, I), and moves to one of them with
probability proportional to its weight: jumps between modes that local steps would not find. MALA then explores the mode.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from models.kernels.base import Chains, Evaluated, Info, Kernel, Noise
from models.kernels.mala import Mala

if TYPE_CHECKING:
    from torch import Tensor

PROPOSALS = 10


class LocalGlobal(Kernel):
    """Exact. The first tick of a transition evaluates ten points for each chain, every MALA tick one."""

    kernel: Literal["local-global"] = "local-global"
    steps: int = Field(20, ge=1, le=10_000, description="transitions a chain makes, each an i-SIR and then MALA")
    step_size: float = Field(0.3, gt=0, lt=4, description="ε of the MALA steps")
    mala_steps: int = Field(3, ge=1, le=100, description="MALA steps after each i-SIR")
    noise_scale: ClassVar[float] = 1.0

    exact: ClassVar[bool] = True
    columns: ClassVar[tuple[str, ...]] = Mala.columns
    points_per_chain: ClassVar[int] = PROPOSALS
    normals_per_tick: ClassVar[int] = PROPOSALS

    @property
    def ticks(self) -> int:
        return self.steps * (1 + self.mala_steps)

    @property
    def decisions(self) -> int:
        return self.steps * self.mala_steps

    @property
    def offers(self) -> int:
        return self.steps

    def is_wide(self, ticks: int) -> bool:
        """The first tick of each transition is i-SIR."""
        return ticks % (1 + self.mala_steps) == 0

    @classmethod
    def propose(cls, chains: Chains, noise: Noise) -> Tensor:
        """A point for every chain, then nine more for each chain in i-SIR: (chains + 9 jumping, *latent)."""
        fresh = noise.normals()  # (chains, 10, *latent)
        first = fresh[:, 0].where(chains.across(_jumps(chains)), Mala.propose(chains, noise))
        return _under(first, fresh[_jumping(chains), 1:].flatten(0, 1))

    @classmethod
    def owners(cls, chains: Chains) -> Tensor:
        jumping = _jumping(chains)
        everyone = jumping.new_ones(len(chains.energy)).cumsum(0) - 1
        return _under(everyone, jumping.repeat_interleave(PROPOSALS - 1))

    @classmethod
    def update(cls, chains: Chains, points: Evaluated, noise: Noise) -> Info:
        count, jumping = len(chains.energy), _jumping(chains)
        first = Evaluated(points.z[:count], points.energy[:count], points.gradient[:count])
        accepted = Mala.accepts(chains, first, noise) & ~_jumps(chains)
        chosen, fresh = _resampled(chains, points, noise)
        chains.move(accepted, first)
        chains.z = chains.z.index_copy(0, jumping, chosen.z)
        chains.energy = chains.energy.index_copy(0, jumping, chosen.energy)
        chains.gradient = chains.gradient.index_copy(0, jumping, chosen.gradient)
        jumped = chains.energy.new_zeros(count).index_copy(0, jumping, fresh.to(chains.energy.dtype))
        return Info(accepted=accepted.to(chains.energy.dtype), jumped=jumped)


def _jumping(chains: Chains) -> Tensor:
    """The rows of the chains in i-SIR, (jumping,) int64."""
    assert chains.wide is not None
    return chains.wide


def _jumps(chains: Chains) -> Tensor:
    """Whether each chain is in i-SIR, (chains,)."""
    return chains.energy.new_zeros(len(chains.energy)).bool().index_fill(0, _jumping(chains), 1)


def _under(first: Tensor, rest: Tensor) -> Tensor:
    """Two blocks of rows, one under the other: (a, ...), (b, ...) -> (a + b, ...)."""
    both = first.new_empty(len(first) + len(rest), *first.shape[1:])
    both[: len(first)], both[len(first) :] = first, rest
    return both


def _candidates(column: Tensor, own: Tensor, rows: Tensor) -> Tensor:
    """Each jumping chain's present point, first proposal and nine others: (points, ...), (chains, ...) -> (jumping, 11, ...)."""
    rest = column[len(own) :].unflatten(0, (len(rows), PROPOSALS - 1))
    both: Tensor = rest.new_empty(len(rows), PROPOSALS + 1, *column.shape[1:])
    both[:, 0], both[:, 1], both[:, 2:] = own[rows], column[rows], rest
    return both


def _resampled(chains: Chains, points: Evaluated, noise: Noise) -> tuple[Evaluated, Tensor]:
    """i-SIR: one candidate a chain, drawn by weight, and whether it is a fresh one, (jumping,).

    A candidate of weight 0 is never drawn, whatever the uniform. NaN or -inf among the energies is drawn, so that it shows as divergence.
    """
    rows, owns = _jumping(chains), (chains.z, chains.energy, chains.gradient)
    z, energy, gradient = (_candidates(column, own, rows) for column, own in zip(points, owns, strict=True))
    temperature = chains.settings["temperature"].flatten()[rows].unsqueeze(-1)
    log_weight = 0.5 * z.square().flatten(2).sum(-1) - energy / temperature
    share = log_weight.softmax(-1).double()
    reached = (share.unsqueeze(-2) * share.new_ones(PROPOSALS + 1, PROPOSALS + 1).tril()).sum(-1).float()  # cumsum on CUDA may vary
    possible = share > 0
    within = possible & (reached >= noise.log_uniform()[rows].exp().unsqueeze(-1))
    last = PROPOSALS - possible.flip(-1).int().argmax(-1)  # where rounding leaves all of them under the uniform
    index = within.int().argmax(-1).where(within.any(-1), last)
    broken = ~(energy > -math.inf)
    index = broken.int().argmax(-1).where(broken.any(-1), index)
    row = index.new_ones(len(rows)).cumsum(0) - 1
    return Evaluated(z[row, index], energy[row, index], gradient[row, index]), index != 0

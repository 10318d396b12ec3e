"""Chains of one kernel on one target, as columns: they join and leave between ticks, and each draws its own noise."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models import noise
from models.kernels import Chains, Evaluated, Kernel
from models.noise import Draws, Streams
from workers.engine.scheduler import ChainName

if TYPE_CHECKING:
    from collections.abc import Sequence

TICKS_AHEAD = 16  # noise is drawn for so many ticks in one go: a tick alone costs ten times its share


@dataclass
class Chain:
    """One chain's identity, and what is kept of it for people to look at."""

    job_id: str
    index: int
    seed: int
    kernel: Kernel
    data: Tensor | None = None  # (channels, height, width), for a conditional target
    ends_at: int = 0  # on the clock of its group
    began_at: int = 0
    energies: list[Tensor] = field(default_factory=list)  # of consecutive ticks

    @property
    def name(self) -> ChainName:
        return ChainName(self.job_id, self.index)


@dataclass(frozen=True)
class Retired:
    """A chain that left, with where it ended."""

    chain: Chain
    z: Tensor  # (latent,)
    energies: Tensor  # (ticks + 1,)
    accepted: float
    finite: bool


@dataclass(frozen=True)
class Parked:
    """A chain that waits outside the batch, as it left it."""

    chain: Chain
    state: Chains  # of one row
    accepted: Tensor  # (1,)
    done: int  # ticks


class TickNoise:
    """The numbers of one tick: what a kernel sees of the noise drawn ahead."""

    def __init__(self, draws: Draws, tick: int, latent: int) -> None:
        self._draws = draws
        self._tick = tick
        self._latent = latent

    def normal(self) -> Tensor:
        return self._draws.normal[self._tick][:, : self._latent].contiguous()

    def normals(self) -> Tensor:
        drawn = self._draws.normal[self._tick]
        return drawn.reshape(len(drawn), -1, self._latent)

    def log_uniform(self) -> Tensor:
        return self._draws.log_uniform[self._tick]


class ChainGroup:
    """One batch of chains in step; `now` counts its ticks."""

    def __init__(self, kernel: type[Kernel], latent: int, device: torch.device) -> None:
        self.kernel = kernel
        self._latent = latent
        self.members: list[Chain] = []
        self.now = 0
        empty = torch.empty(0, latent, device=device)
        self._chains = Chains(empty, empty[:, 0], empty, dict.fromkeys(kernel.columns, empty[:, :1]))
        kernel.begin(self._chains)
        self._streams = Streams(empty[:, 0].long(), empty[:, 0].long())
        self._data: Tensor | None = None  # (chains, channels, height, width)
        self._began = empty[:, 0].long()  # (chains,), so that a chain's step is now - began
        self._accepted = empty[:, 0]
        self._energies: list[Tensor] = []  # since chains last joined or left
        self._draws: Draws | None = None
        self._drawn_at = 0
        self._next_end = 0  # the tick at which the first of its chains ends
        self.longest = 0  # ticks of its longest chain, from start to end

    def join(self, newcomers: Sequence[Chain], points: Evaluated) -> None:
        """New chains stand at points already evaluated, in the same order."""
        device = points.z.device
        columns = {
            name: torch.tensor([[float(getattr(chain.kernel, name))] for chain in newcomers], device=device) for name in self.kernel.columns
        }
        chains = Chains(*points, columns)
        self.kernel.begin(chains)
        for chain, energy in zip(newcomers, points.energy.cpu(), strict=True):
            chain.energies.append(energy.reshape(1))
        self._add(newcomers, chains, 0, points.energy.new_zeros(len(newcomers)))

    def resume(self, parked: Parked) -> None:
        """A chain goes on as it left."""
        self._add([parked.chain], parked.state, parked.done, parked.accepted)

    def _add(self, newcomers: Sequence[Chain], chains: Chains, done: int, accepted: Tensor) -> None:
        """Chains that have made `done` ticks."""
        self._settle()
        for chain in newcomers:
            chain.began_at, chain.ends_at = self.now - done, self.now - done + chain.kernel.ticks
        streams = streams_of(newcomers, accepted.device)
        began = streams.seed.new_full((len(newcomers),), self.now - done)
        if self._draws is not None:
            self._draws = _beside(self._draws, self._draw(streams, began))
        self.members += newcomers
        self._chains = _concatenated(self._chains, chains)
        self._data = data_of(self.members)
        self._streams = Streams(torch.cat([self._streams.seed, streams.seed]), torch.cat([self._streams.chain, streams.chain]))
        self._began = torch.cat([self._began, began])
        self._accepted = torch.cat([self._accepted, accepted])
        self._note_ends()

    def propose(self) -> Tensor:
        """The points this tick wants evaluated, (rows, latent)."""
        if self._draws is None or self.now - self._drawn_at == TICKS_AHEAD:
            self._drawn_at = self.now
            self._draws = self._draw(self._streams, self._began)
        return self.kernel.propose(self._chains, self._noise(self._draws))

    def data(self) -> Tensor | None:
        """The image that goes with each of the points proposed, (rows, channels, height, width); None where chains bring none."""
        if self._data is None:
            return None
        owners = self.kernel.owners(self._chains)
        return self._data if owners is None else self._data[owners]

    def update(self, points: Evaluated) -> list[Retired]:
        """Moves every chain; gives back those that are done, or not finite any more."""
        assert self._draws is not None
        info = self.kernel.update(self._chains, points, self._noise(self._draws))
        self._accepted = self._accepted + info.accepted
        self._energies.append(self._chains.energy)
        self.now += 1
        if not self._chains.energy.isfinite().all():
            bad = (~self._chains.energy.isfinite()).nonzero().flatten().tolist()
            return self.leave({*bad, *self._ended()})
        return self.leave(set(self._ended())) if self.now >= self._next_end else []

    def leave(self, rows: set[int]) -> list[Retired]:
        """Takes some chains out of the batch."""
        if not rows:
            return []
        self._settle()
        finite, accepted = self._chains.energy.isfinite().tolist(), self._accepted.tolist()
        gone = [
            Retired(self.members[row], self._chains.z[row], torch.cat(self.members[row].energies), accepted[row], finite[row])
            for row in sorted(rows)
        ]
        self._keep([row for row in range(len(self.members)) if row not in rows])
        return gone

    def park(self, rows: set[int]) -> list[Parked]:
        """Takes some chains out of the batch that are to come back."""
        self._settle()
        parked = []
        for row in sorted(rows):
            index = torch.tensor([row], device=self._began.device)
            chain = self.members[row]
            parked.append(Parked(chain, _taken(self._chains, index), self._accepted[index], self.now - chain.began_at))
        self._keep([row for row in range(len(self.members)) if row not in rows])
        return parked

    def rows_of(self, job_id: str) -> set[int]:
        """Where a job's chains stand."""
        return {row for row, chain in enumerate(self.members) if chain.job_id == job_id}

    def _ended(self) -> list[int]:
        return [row for row, chain in enumerate(self.members) if chain.ends_at <= self.now]

    def _keep(self, rows: list[int]) -> None:
        index = torch.tensor(rows, dtype=torch.int64, device=self._began.device)
        self.members = [self.members[row] for row in rows]
        self._chains = _taken(self._chains, index)
        self._data = data_of(self.members)
        self._streams = self._streams.take(index)
        self._began, self._accepted = self._began[index], self._accepted[index]
        if self._draws is not None:
            self._draws = Draws(self._draws.normal[:, index], self._draws.log_uniform[:, index])
        self._note_ends()

    def _note_ends(self) -> None:
        self._next_end = min((chain.ends_at for chain in self.members), default=self.now)
        self.longest = max((chain.kernel.ticks for chain in self.members), default=0)

    def _settle(self) -> None:
        """Hands the energies seen since the last change of members to the chains they belong to."""
        if self._energies:
            columns = torch.stack(self._energies, dim=1).cpu()  # (chains, ticks)
            for chain, energies in zip(self.members, columns, strict=True):
                chain.energies.append(energies)
            self._energies = []

    def _noise(self, draws: Draws) -> TickNoise:
        return TickNoise(draws, self.now - self._drawn_at, self._latent)

    def _draw(self, streams: Streams, began: Tensor) -> Draws:
        """Noise from the tick last drawn at; a chain that has not begun by then draws numbers that nobody uses."""
        ticks = torch.arange(self._drawn_at, self._drawn_at + TICKS_AHEAD, device=began.device)
        return noise.draw(streams, ticks.unsqueeze(1) - began, self._latent * self.kernel.normals_per_tick)


def streams_of(chains: Sequence[Chain], device: torch.device) -> Streams:
    """The random streams of some chains: the job's seed and the image's index."""
    return Streams(
        torch.tensor([chain.seed for chain in chains], dtype=torch.int64, device=device),
        torch.tensor([chain.index for chain in chains], dtype=torch.int64, device=device),
    )


def data_of(chains: Sequence[Chain]) -> Tensor | None:
    """What some chains bring, one row a chain; None where they bring nothing."""
    images = [chain.data for chain in chains if chain.data is not None]
    return torch.stack(images) if images else None


def _beside(left: Draws, right: Draws) -> Draws:
    return Draws(torch.cat([left.normal, right.normal], dim=1), torch.cat([left.log_uniform, right.log_uniform], dim=1))


def _concatenated(left: Chains, right: Chains) -> Chains:
    return Chains(
        torch.cat([left.z, right.z]),
        torch.cat([left.energy, right.energy]),
        torch.cat([left.gradient, right.gradient]),
        {name: torch.cat([left.settings[name], right.settings[name]]) for name in left.settings},
        {name: torch.cat([left.memory[name], right.memory[name]]) for name in left.memory},
    )


def _taken(chains: Chains, rows: Tensor) -> Chains:
    return Chains(
        chains.z[rows],
        chains.energy[rows],
        chains.gradient[rows],
        {name: column[rows] for name, column in chains.settings.items()},
        {name: held[rows] for name, held in chains.memory.items()},
    )

"""The chains of one kernel in a lane, as columns: they join and leave between ticks, and each draws its own noise.

Nothing here reads from the device: when chains end, and which of them propose many points, follows from the ticks they have made.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models import device, noise
from models.kernels import Chains, Evaluated, Kernel, tempered
from models.noise import Draws, Streams
from workers.engine.chains import Block, Chain, Departed, Traces, data_of, streams_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

TICKS_AHEAD = 16  # noise is drawn for this many ticks at once: a tick alone costs ten times its share


class TickNoise:
    """The numbers of one tick, out of those drawn ahead."""

    def __init__(self, draws: Draws, tick: int, shape: tuple[int, ...]) -> None:
        self._draws = draws
        self._tick = tick
        self._shape = shape
        self._normal: Tensor | None = None

    def normal(self) -> Tensor:
        if self._normal is None:
            drawn = self._draws.normal[self._tick][:, : math.prod(self._shape)]
            self._normal = drawn.contiguous().reshape(-1, *self._shape)
        return self._normal

    def normals(self) -> Tensor:
        drawn = self._draws.normal[self._tick]
        return drawn.reshape(len(drawn), -1, *self._shape)

    def log_uniform(self) -> Tensor:
        return self._draws.log_uniform[self._tick]


class ChainGroup:
    """Chains with latents of one shape; `now` counts the group's ticks."""

    def __init__(self, kernel: type[Kernel], shape: tuple[int, ...], on: torch.device) -> None:
        self.kernel = kernel
        self._shape = shape
        self._device = on
        self.members: list[Chain] = []
        self.now = 0
        self.longest = 0  # ticks of its longest chain, from start to end
        self._next_end = 0  # the tick at which the first of its chains ends
        self._tempered = False  # whether any of its chains has a β other than 1
        self._chains: Chains | None = None
        self._accepted = torch.empty(0, device=on)  # (chains,), proposals accepted
        self.health = self._accepted  # (chains,), 0 while all energies were finite, NaN ever after
        self._streams = Streams(*torch.empty(2, 0, dtype=torch.int64, device=on))
        self._began = self._streams.seed  # (chains,) int64
        self._data: Tensor | None = None  # (chains, ...)
        self._traces = Traces.empty()  # each (chains,), since chains last joined or left
        self._draws: Draws | None = None
        self._drawn_at = 0
        self._noise: TickNoise | None = None

    def join(self, newcomers: Sequence[Chain], points: Evaluated) -> None:
        """New chains start at points already evaluated, in the same order."""
        names = (*self.kernel.columns, "beta")
        asked = [[float(getattr(chain.kernel, name)) for chain in newcomers] for name in names]
        columns = device.put(asked, self._device, points.z.dtype).reshape(len(asked), len(newcomers), *(1,) * len(self._shape))
        settings = dict(zip(names, columns, strict=True))
        chains = Chains(*(tempered(points, settings["beta"]) if _any_tempered(newcomers) else points), settings)
        self.kernel.begin(chains)
        for chain, energy in zip(newcomers, points.energy.unsqueeze(1).unbind(), strict=True):
            chain.traces.energies.append(energy)
        self._add([Block(newcomers, chains, torch.zeros_like(points.energy), 0 * points.energy, done=0)])

    def resume(self, parked: Sequence[Block]) -> None:
        """Parked chains go on as they left."""
        self._add(parked)

    def _add(self, blocks: Sequence[Block]) -> None:
        self._settle()
        for block in blocks:
            for chain in block.members:
                chain.began_at = self.now - block.done
        newcomers = [chain for block in blocks for chain in block.members]
        streams = streams_of(newcomers, self._device)
        began = device.put([chain.began_at for chain in newcomers], self._device, torch.int64)
        if self._draws is not None:
            self._draws = _beside(self._draws, self._draw(streams, began))
        self.members = [*self.members, *newcomers]
        self._chains = _concatenated([*([] if self._chains is None else [self._chains]), *(block.state for block in blocks)])
        self._data = data_of(self.members)
        self._streams = Streams(torch.cat([self._streams.seed, streams.seed]), torch.cat([self._streams.chain, streams.chain]))
        self._began = torch.cat([self._began, began])
        self._accepted = torch.cat([self._accepted, *(block.accepted for block in blocks)])
        self.health = torch.cat([self.health, *(block.health for block in blocks)])
        self._note_members()

    def propose(self) -> Tensor:
        """The points that this tick needs evaluated, (rows, *latent)."""
        if self._draws is None or self.now - self._drawn_at == TICKS_AHEAD:
            self._drawn_at = self.now
            self._draws = self._draw(self._streams, self._began)
        chains = self._columns()
        if self.kernel.points_per_chain > 1:
            wide = [row for row, chain in enumerate(self.members) if chain.kernel.is_wide(self.now - chain.began_at)]
            chains.wide = device.put(wide, self._device, torch.int64)
        self._noise = TickNoise(self._draws, self.now - self._drawn_at, self._shape)
        return self.kernel.propose(chains, self._noise)

    def data(self) -> Tensor | None:
        """What each of the points proposed is conditioned on, (rows, ...); None where chains need nothing."""
        if self._data is None:
            return None
        return self._of_points(self._data)

    def _of_points(self, column: Tensor) -> Tensor:
        """A column of the chains, (chains, ...), for each of the points proposed, (rows, ...)."""
        owners = self.kernel.owners(self._columns())
        return column if owners is None else column[owners]

    def update(self, points: Evaluated) -> None:
        """Moves every chain, given the points proposed and what they are under the target."""
        chains = self._columns()
        if self._tempered:
            points = tempered(points, self._of_points(chains.settings["beta"]))
        assert self._noise is not None
        log_ratio = self.kernel.log_ratio(chains, points)
        info = self.kernel.update(chains, points, self._noise)
        self._accepted = self._accepted + info.accepted
        self.health = self.health + 0 * chains.energy
        for trace, seen in zip(self._traces, (chains.energy, info.jumped, log_ratio), strict=True):
            trace += [] if seen is None else [seen]
        self.now += 1

    @property
    def ending(self) -> bool:
        """Whether any chain is done."""
        return bool(self.members) and self.now >= self._next_end

    @property
    def ended(self) -> list[int]:
        """The rows of the chains that are done."""
        return [row for row, chain in enumerate(self.members) if chain.ends_at <= self.now] if self.ending else []

    def leave(self, rows: Collection[int]) -> list[Departed]:
        """Takes some chains out of the batch for good."""
        if not rows:
            return []
        self._settle()
        chains = self._columns()
        index = device.put(leaving := sorted(rows), self._device, torch.int64)
        ends = zip(leaving, chains.z[index].unbind(), self._accepted[index].unsqueeze(1).unbind(), strict=True)
        departed = [Departed(self.members[row], z, accepted) for row, z, accepted in ends]
        self._keep([row for row in range(len(self.members)) if row not in rows])
        return departed

    def park(self, rows: Collection[int]) -> list[Block]:
        """Takes some chains out of the batch that are to come back."""
        self._settle()
        parked = []
        for row in sorted(rows):
            index, chain = device.put([row], self._device, torch.int64), self.members[row]
            state = _taken(self._columns(), index)
            parked.append(Block([chain], state, self._accepted[index], self.health[index], self.now - chain.began_at))
        self._keep([row for row in range(len(self.members)) if row not in rows])
        return parked

    def rows_of(self, job_id: str) -> set[int]:
        """The rows of a job's chains."""
        return {row for row, chain in enumerate(self.members) if chain.job_id == job_id}

    def _columns(self) -> Chains:
        assert self._chains is not None
        return self._chains

    def _keep(self, rows: list[int]) -> None:
        index = device.put(rows, self._device, torch.int64)
        self.members = [self.members[row] for row in rows]
        self._chains = _taken(self._columns(), index)
        self._data = data_of(self.members)
        self._streams = self._streams.take(index)
        self._began, self._accepted, self.health = self._began[index], self._accepted[index], self.health[index]
        if self._draws is not None:
            self._draws = Draws(self._draws.normal[:, index], self._draws.log_uniform[:, index])
        self._note_members()

    def _note_members(self) -> None:
        self._next_end = min((chain.ends_at for chain in self.members), default=self.now)
        self.longest = max((chain.kernel.ticks for chain in self.members), default=0)
        self._tempered = _any_tempered(self.members)

    def _settle(self) -> None:
        """Hands the traces since the last change of members to the chains they belong to."""
        for place, ticks in enumerate(self._traces):
            if ticks:
                for chain, trace in zip(self.members, torch.stack(ticks, dim=1).unbind(), strict=True):
                    chain.traces[place].append(trace)
                ticks.clear()

    def _draw(self, streams: Streams, began: Tensor) -> Draws:
        """Noise from the tick last drawn at; a chain that had not begun by then draws some unused numbers."""
        ticks = torch.arange(self._drawn_at, self._drawn_at + TICKS_AHEAD, device=self._device)
        return noise.draw(streams, ticks.unsqueeze(1) - began, math.prod(self._shape) * self.kernel.normals_per_tick)


def _any_tempered(chains: Sequence[Chain]) -> bool:
    return any(chain.kernel.beta != 1 for chain in chains)


def _beside(left: Draws, right: Draws) -> Draws:
    return Draws(torch.cat([left.normal, right.normal], dim=1), torch.cat([left.log_uniform, right.log_uniform], dim=1))


def _concatenated(parts: Sequence[Chains]) -> Chains:
    if len(parts) == 1:
        return parts[0]
    return Chains(
        torch.cat([part.z for part in parts]),
        torch.cat([part.energy for part in parts]),
        torch.cat([part.gradient for part in parts]),
        {name: torch.cat([part.settings[name] for part in parts]) for name in parts[0].settings},
        {name: torch.cat([part.memory[name] for part in parts]) for name in parts[0].memory},
    )


def _taken(chains: Chains, rows: Tensor) -> Chains:
    return Chains(
        chains.z[rows],
        chains.energy[rows],
        chains.gradient[rows],
        {name: column[rows] for name, column in chains.settings.items()},
        {name: held[rows] for name, held in chains.memory.items()},
    )

"""The lanes that are ready, and the jobs for which a checkpoint or a lane is loading, a slice at a time between the ticks of the others.

One checkpoint or lane loads at a time, for the job that has waited longest, and loads to its end even if that job leaves. Chains that wait
for it are in the batch: they keep their places there, and give way like chains under way.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from models.checkpoints import CheckpointError
from workers.engine.chains import Chain, Retired, UnusableData, hand_out, retire
from workers.engine.checkpoint_cache import CheckpointCache, Version
from workers.engine.lane import Lane, LaneName
from workers.engine.scheduler import ChainName
from workers.engine.slices import Slices, UnderWay
from workers.jobs import GenerateJob
from workers.messages import Loaded, Observer, Warmed

UNUSABLE = (CheckpointError, OSError, MemoryError)  # errors of a checkpoint that fail the job it is loaded for, and no other
LOOK_EVERY = 16  # ticks after which energies are looked at even if no chain is done


@dataclass
class WaitingJob:
    """A job that waits for its checkpoint, or for the lane of its chains."""

    job: GenerateJob
    chains: dict[ChainName, Chain] = field(default_factory=dict)  # in the batch
    parked: dict[ChainName, Chain] = field(default_factory=dict)  # gave way before they began

    @property
    def points(self) -> int:
        return sum(chain.kernel.points_per_chain for chain in self.chains.values())


class LanePool(Mapping[LaneName, Lane]):
    """Ready lanes by name; a lane leaves with its checkpoint."""

    def __init__(self, checkpoints: CheckpointCache, observe: Observer) -> None:
        self._checkpoints = checkpoints
        self._observe = observe
        self._ready: dict[LaneName, Lane] = {}
        self._waiting: dict[str, WaitingJob] = {}  # by job, the one that waits longest first
        self._asker = ""  # the job that a checkpoint or lane is loading for
        self._under_way: UnderWay | None = None
        self._refused: list[tuple[str, Exception]] = []
        self._unseen = 0  # ticks since energies were last looked at

    def __getitem__(self, name: LaneName) -> Lane:
        return self._ready[name]

    def __iter__(self) -> Iterator[LaneName]:
        return iter(self._ready)

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def points(self) -> int:
        """Points that the chains in the batch may ask for in a tick, including chains that have not begun."""
        return sum(lane.points for lane in self._ready.values()) + sum(waiting.points for waiting in self._waiting.values())

    @property
    def longest(self) -> int:
        """Ticks of the longest chain in the batch, from its start to its end."""
        starting = (chain.kernel.ticks for waiting in self._waiting.values() for chain in waiting.chains.values())
        return max([0, *(lane.longest for lane in self._ready.values()), *starting])

    @property
    def running(self) -> bool:
        """Whether a tick would evaluate anything."""
        return any(lane.running for lane in self._ready.values())

    @property
    def loading(self) -> bool:
        """Whether there is anything to load."""
        return self._under_way is not None or any(not self._is_ready(waiting.job) for waiting in self._waiting.values())

    def batch(self) -> list[tuple[Chain, int]]:
        """Every chain in the batch, with the ticks that it still needs."""
        starting = [(chain, chain.kernel.ticks + 1) for waiting in self._waiting.values() for chain in waiting.chains.values()]
        return [*(one for lane in self._ready.values() for one in lane.batch()), *starting]

    def refused(self) -> list[tuple[str, Exception]]:
        """The jobs that turned out not to be servable since the last call, and why."""
        refused, self._refused = self._refused, []
        return refused

    def expect(self, job_id: str, job: GenerateJob) -> None:
        """Notes that a job needs its checkpoint in memory."""
        self._waiting.setdefault(job_id, WaitingJob(job))

    def start(self, job_id: str, job: GenerateJob, chains: list[Chain]) -> None:
        """A job's chains join the batch, and begin when their lane is ready."""
        if LaneName.of(job) in self._ready:
            self._hand_over(job_id, job, chains)
        else:
            self.expect(job_id, job)
            self._waiting[job_id].chains |= {chain.name: chain for chain in chains}

    def _hand_over(self, job_id: str, job: GenerateJob, chains: list[Chain]) -> None:
        """Puts a job's chains into their lane with the data that the job brings, if it is what the target needs."""
        self._checkpoints.use(job)
        lane = self._ready[LaneName.of(job)]
        try:
            data = lane.data_of(job)
        except UnusableData as error:
            self._refused.append((job_id, error))
            return
        hand_out(data, chains)
        lane.start(chains)

    def park(self, names: Collection[ChainName]) -> None:
        """Takes chains out of the batch until they are resumed."""
        for lane in self._ready.values():
            lane.park(names)
        for waiting in self._waiting.values():
            waiting.parked |= {name: waiting.chains.pop(name) for name in names if name in waiting.chains}

    def resume(self, names: Collection[ChainName]) -> None:
        """Puts parked chains back."""
        for lane in self._ready.values():
            lane.resume(names)
        for job_id, waiting in list(self._waiting.items()):
            chains = [waiting.parked.pop(name) for name in names if name in waiting.parked]
            if chains:
                self.start(job_id, waiting.job, chains)
                self._forget_if_begun(job_id)

    def drop(self, job_id: str, name: LaneName) -> None:
        """Takes a job's chains out for good; what is loading for it goes on loading."""
        self._waiting.pop(job_id, None)
        if name in self._ready:
            self._ready[name].drop(job_id)

    def close(self, name: LaneName) -> None:
        """Forgets a lane, with the chains in it."""
        del self._ready[name]

    def retire(self) -> list[Retired]:
        """Takes out the chains that are done, and those with an energy that is not finite. To be called after each tick.

        Ticks in which no chain is done read nothing from the device, but for every 16th; the others read once for all lanes, and once more
        where an energy is not finite.
        """
        groups = [group for lane in self._ready.values() for group in lane.groups]
        self._unseen += 1
        if not groups or (self._unseen < LOOK_EVERY and not any(group.ending for group in groups)):
            return []
        self._unseen = 0
        departed = [one for group in groups for one in group.leave(group.ended)]
        retired, health = retire(departed, *(group.health for group in groups))
        rows = [np.flatnonzero(np.isnan(column)).tolist() for column in health]
        broken = [one for group, lost in zip(groups, rows, strict=True) for one in group.leave(lost)]
        return retired + retire(broken)[0] if broken else retired

    def advance(self, budget_s: float, kept: set[Version]) -> None:
        """Loads for `budget_s` seconds, or for one evaluation if that takes longer.

        Checkpoints that chains run for or wait for stay in memory, and so do those in `kept`.
        """
        if self._under_way is None:
            self._asker = next(job_id for job_id, waiting in self._waiting.items() if not self._is_ready(waiting.job))
            self._under_way = UnderWay(self._load(self._waiting[self._asker].job, kept | self._needed()))
        try:
            done = self._under_way.advance(budget_s)
        except UNUSABLE as error:
            self._under_way = None
            self._refused.append((self._asker, error))
            return
        finally:
            self._ready = {name: lane for name, lane in self._ready.items() if Version.of(name) in self._checkpoints}
        if done:
            self._under_way = None
            self._begin()

    def _load(self, job: GenerateJob, needed: set[Version]) -> Slices[None]:
        """Loads the checkpoint that a job names, if it is not in memory, and then the lane of its chains."""
        if Version.of(job) not in self._checkpoints:
            yield from self._checkpoints.load(job, needed)
            yield  # so that the seconds of the last slice are known
            assert self._under_way is not None
            self._observe(Loaded(model=job.model, version=job.version, seconds=self._under_way.seconds))
        if job.mcmc is not None:
            lane = self._ready[LaneName.of(job)] = yield from self._checkpoints.lane(job)
            self._observe(Warmed(model=job.model, sampler=job.sampler, seconds=dict(lane.table.seconds), taken=dict(lane.table.bytes)))

    def _begin(self) -> None:
        """Starts the chains whose lane is ready."""
        for job_id, waiting in list(self._waiting.items()):
            if self._is_ready(waiting.job):
                self._checkpoints.use(waiting.job)
                if waiting.chains:
                    self._hand_over(job_id, waiting.job, list(waiting.chains.values()))
                    waiting.chains = {}
                self._forget_if_begun(job_id)

    def _forget_if_begun(self, job_id: str) -> None:
        waiting = self._waiting[job_id]
        if self._is_ready(waiting.job) and not waiting.chains and not waiting.parked:
            del self._waiting[job_id]

    def _is_ready(self, job: GenerateJob) -> bool:
        return Version.of(job) in self._checkpoints and (job.mcmc is None or LaneName.of(job) in self._ready)

    def _needed(self) -> set[Version]:
        """Checkpoints whose chains run, or wait to begin or to go on."""
        used = {Version.of(name) for name, lane in self._ready.items() if not lane.idle}
        return used | {Version.of(waiting.job) for waiting in self._waiting.values()}

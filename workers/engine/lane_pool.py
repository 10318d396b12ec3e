"""The lanes that are ready, and the jobs for which a checkpoint or a lane is loaded, a slice at a time between the ticks of the others.

One loading at a time, for the job that waits longest; it goes on to its end whoever leaves meanwhile. Chains that wait for it are in the
batch: they keep their places there, and give way like chains under way.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from models.checkpoints import CheckpointError
from workers.engine.chain_group import Chain
from workers.engine.checkpoint_cache import Residents, Version
from workers.engine.lane import Lane, LaneName
from workers.engine.scheduler import ChainName
from workers.engine.slices import Slices, UnderWay
from workers.jobs import GenerateJob
from workers.messages import Loaded, Observer, Warmed

UNUSABLE = (CheckpointError, OSError, MemoryError)  # what a checkpoint raises that fails the job that asked for it, and no other


@dataclass
class Newcomer:
    """A job that waits for its checkpoint, or for the lane of its chains."""

    job: GenerateJob
    chains: dict[ChainName, Chain] = field(default_factory=dict)  # in the batch
    parked: dict[ChainName, Chain] = field(default_factory=dict)  # gave way before they began

    @property
    def points(self) -> int:
        return sum(chain.kernel.points_per_chain for chain in self.chains.values())


class Lanes(Mapping[LaneName, Lane]):
    """Ready lanes by name; a lane leaves with its checkpoint."""

    def __init__(self, checkpoints: Residents, observe: Observer) -> None:
        self._checkpoints = checkpoints
        self._observe = observe
        self._ready: dict[LaneName, Lane] = {}
        self._newcomers: dict[str, Newcomer] = {}  # by job, the one that waits longest first
        self._asker = ""  # the job for which is loaded
        self._under_way: UnderWay | None = None

    def __getitem__(self, name: LaneName) -> Lane:
        return self._ready[name]

    def __iter__(self) -> Iterator[LaneName]:
        return iter(self._ready)

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def points(self) -> int:
        """Points that the chains in the batch may ask for in a tick, those that wait to begin included."""
        return sum(lane.points for lane in self._ready.values()) + sum(newcomer.points for newcomer in self._newcomers.values())

    @property
    def longest(self) -> int:
        """Ticks of the longest chain in the batch, from its start to its end."""
        starting = (chain.kernel.ticks for newcomer in self._newcomers.values() for chain in newcomer.chains.values())
        return max([0, *(lane.longest for lane in self._ready.values()), *starting])

    @property
    def running(self) -> bool:
        """Whether a tick would evaluate anything."""
        return any(lane.running for lane in self._ready.values())

    @property
    def loading(self) -> bool:
        """Whether there is anything to load."""
        return self._under_way is not None or any(not self._is_ready(newcomer.job) for newcomer in self._newcomers.values())

    def standing(self) -> list[tuple[Chain, int]]:
        """Every chain in the batch, with the ticks that each still needs."""
        starting = [(chain, chain.kernel.ticks + 1) for newcomer in self._newcomers.values() for chain in newcomer.chains.values()]
        return [*(standing for lane in self._ready.values() for standing in lane.standing()), *starting]

    def expect(self, job_id: str, job: GenerateJob) -> None:
        """A job needs its checkpoint in memory."""
        self._newcomers.setdefault(job_id, Newcomer(job))

    def start(self, job_id: str, job: GenerateJob, chains: list[Chain]) -> None:
        """A job's chains join the batch, and begin when their lane is ready."""
        if lane := self._ready.get(LaneName.of(job)):
            self._checkpoints.use(job)
            lane.start(chains)
        else:
            self.expect(job_id, job)
            self._newcomers[job_id].chains |= {chain.name: chain for chain in chains}

    def park(self, names: Collection[ChainName]) -> None:
        """Takes chains out of the batch until they are resumed."""
        for lane in self._ready.values():
            lane.park(names)
        for newcomer in self._newcomers.values():
            newcomer.parked |= {name: newcomer.chains.pop(name) for name in names if name in newcomer.chains}

    def resume(self, names: Collection[ChainName]) -> None:
        """Puts parked chains back."""
        for lane in self._ready.values():
            lane.resume(names)
        for job_id, newcomer in list(self._newcomers.items()):
            chains = [newcomer.parked.pop(name) for name in names if name in newcomer.parked]
            if chains:
                self.start(job_id, newcomer.job, chains)
                self._forget_if_begun(job_id)

    def drop(self, job_id: str, name: LaneName) -> None:
        """Nothing of a job waits or runs any longer; what is loaded for it goes on for whoever comes."""
        self._newcomers.pop(job_id, None)
        if name in self._ready:
            self._ready[name].drop(job_id)

    def close(self, name: LaneName) -> None:
        """A lane is of no use any more."""
        del self._ready[name]

    def advance(self, budget_s: float, kept: set[Version]) -> tuple[str, Exception] | None:
        """Loads for so many seconds, or one evaluation if that takes longer; gives back the job that cannot be served, and why.

        What chains run for or wait for stays in memory, and so do the checkpoints `kept`.
        """
        if self._under_way is None:
            self._asker = next(job_id for job_id, newcomer in self._newcomers.items() if not self._is_ready(newcomer.job))
            self._under_way = UnderWay(self._load(self._newcomers[self._asker].job, kept | self._needed()))
        try:
            done = self._under_way.advance(budget_s)
        except UNUSABLE as error:
            self._under_way = None
            return self._asker, error
        finally:
            self._ready = {name: lane for name, lane in self._ready.items() if Version.of(name) in self._checkpoints}
        if done:
            self._under_way = None
            self._begin()
        return None

    def _load(self, job: GenerateJob, needed: set[Version]) -> Slices[None]:
        """The checkpoint that a job names, where it is not in memory, and then the lane of its chains."""
        if Version.of(job) not in self._checkpoints:
            yield from self._checkpoints.load(job, needed)
            yield  # what the last slice took is known from here on
            assert self._under_way is not None
            self._observe(Loaded(model=job.model, version=job.version, seconds=self._under_way.seconds))
        if job.mcmc is not None:
            lane = self._ready[LaneName.of(job)] = yield from self._checkpoints.lane(job)
            self._observe(Warmed(model=job.model, sampler=job.sampler, seconds=dict(lane.table.seconds), taken=dict(lane.table.bytes)))

    def _begin(self) -> None:
        """What waited for nothing else begins."""
        for job_id, newcomer in list(self._newcomers.items()):
            if self._is_ready(newcomer.job):
                self._checkpoints.use(newcomer.job)
                if newcomer.chains:
                    self._ready[LaneName.of(newcomer.job)].start(list(newcomer.chains.values()))
                    newcomer.chains = {}
                self._forget_if_begun(job_id)

    def _forget_if_begun(self, job_id: str) -> None:
        newcomer = self._newcomers[job_id]
        if self._is_ready(newcomer.job) and not newcomer.chains and not newcomer.parked:
            del self._newcomers[job_id]

    def _is_ready(self, job: GenerateJob) -> bool:
        return Version.of(job) in self._checkpoints and (job.mcmc is None or LaneName.of(job) in self._ready)

    def _needed(self) -> set[Version]:
        """Checkpoints whose chains run, or wait to begin or to go on."""
        used = {Version.of(name) for name, lane in self._ready.items() if not lane.idle}
        return used | {Version.of(newcomer.job) for newcomer in self._newcomers.values()}

"""Continuous batching of Markov chains on one device: admit, tick, retire. Knows no Redis; every method is called from one thread."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from models import noise
from models.checkpoints import Store
from models.kernels import Kernel
from workers.capacity import Flow
from workers.engine.chains import Chain, Retired, UnusableData, hand_out, streams_of, usable
from workers.engine.checkpoint_cache import CheckpointCache, Version
from workers.engine.decoder import Decoder, NotFinite, pixels_of
from workers.engine.lane import Lane, LaneName
from workers.engine.lane_pool import LanePool
from workers.engine.memory import Memory
from workers.engine.runs import Run, Sampled, contract
from workers.engine.scheduler import QUICK, Admission, Running, Scheduler
from workers.jobs import GenerateJob, Problem, Progress
from workers.messages import ChainsRetired, EngineTicked, Failed, Finished, Observer, Stepped

ALONE_S = 0.05  # of loading in a tick in which no chain steps: a cancel waits no longer


@dataclass(frozen=True)
class EngineSettings:
    """What the engine may use."""

    capacity: int = 64  # chains in a batch
    device: str = "cpu"
    prior_chains_per_tick: int = 256  # images of `prior` jobs decoded between two ticks
    checkpoint_bytes: int = 1 << 30  # weights kept in memory


class Engine:
    """Runs the chains of all jobs it was given, one evaluation a tick."""

    def __init__(self, store: Store, settings: EngineSettings, observer: Observer, memory: Memory | None = None) -> None:
        self._settings = settings
        self._observe = observer
        self._device = torch.device(settings.device)
        self._scheduler = Scheduler(settings.capacity)
        self._checkpoints = CheckpointCache(
            store, self._device, capacity=settings.capacity, budget=settings.checkpoint_bytes, memory=memory
        )
        self._lanes = LanePool(self._checkpoints, observer)
        self._runs: dict[str, Run] = {}
        self._outcomes: list[Finished | Failed] = []
        self._ticks = 0
        self._step_s = self._credit_s = 0.0  # of the last tick; what loading may take of the next

    @property
    def device(self) -> str:
        """The device it computes on, in torch's words."""
        return self._settings.device

    @property
    def capacity(self) -> int:
        """Chains that may run at once: fewer than it was given while a job inside needs more memory than there is for so many."""
        return self._scheduler.capacity

    @property
    def free(self) -> int:
        """Chains that can still be admitted at once; 0 while others wait."""
        return max(0, self.capacity - self._lanes.points - self._scheduler.waiting)

    @property
    def quick(self) -> int:
        """The most ticks of a chain for which longer ones give way, so that its job may be admitted even if nothing is free."""
        return self._lanes.longest // QUICK

    @property
    def waiting(self) -> frozenset[Flow]:
        """The flows whose chains wait to start: a job of any other flow starts within a few ticks, even if nothing is free."""
        return self._scheduler.flows

    @property
    def busy(self) -> bool:
        """Whether a tick has anything to do."""
        return bool(self._runs or self._outcomes or self._lanes.loading)

    def admit(self, job_id: str, job: GenerateJob, expires_at: float | None) -> None:
        """Takes a job in; its chains start as there is room. If it cannot be served, a later tick returns its failure."""
        self._runs[job_id] = Run(job_id, job, expires_at)
        if job.mcmc is not None:
            self._scheduler.add(job_id, job.num_images, job.mcmc.points_per_chain, job.mcmc.ticks + 1, self._runs[job_id].flow)
            self._bound()

    def end_early(self, job_id: str, problem: Problem) -> None:
        """Ends a job at once with that problem, which the next tick returns; other jobs keep their bits."""
        if run := self._runs.get(job_id):
            self._forget(run)
            self._outcomes.append(Failed(job_id=job_id, problem=problem))

    def tick(self) -> list[Finished | Failed]:
        """One evaluation for every chain and a slice of what is to be loaded, then images for what is done; the jobs that ended."""
        begun = time.perf_counter()
        self._expire()
        sampled = self._sample_priors()
        self._ticks += 1
        if self._scheduler.may_move(self._lanes.points):
            self._move()
        if self._lanes.loading:
            self._decode(sampled)  # so that no checkpoint stays for them beside the one that is loaded
            sampled = []
            self._load()
        self._refuse()
        self._step_s = 0.0
        for name, lane in list(self._lanes.items()):
            if lane.running:
                self._advance(name, lane)
        if self._step_s:
            sampled += self._retire()
        self._decode(sampled)
        self._bound()
        if self._step_s:
            self._observe(EngineTicked(seconds=time.perf_counter() - begun))
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def progress(self) -> dict[str, Progress]:
        """Chain-steps made by every job inside."""
        return {job_id: self._progress(run) for job_id, run in self._runs.items()}

    def _progress(self, run: Run) -> Progress:
        per_chain = run.job.mcmc.ticks if run.job.mcmc else 1
        done = len(run.retired) * per_chain + (self._lanes[run.lane].done(run.job_id) if run.lane in self._lanes else 0)
        return Progress(done=done, total=run.job.num_images * per_chain)

    def _bound(self) -> None:
        """Limits the batch to the lane, among those of the jobs inside, that memory has least room for."""
        scarce = {name: lane.table.capacity for name, lane in self._lanes.items() if lane.table.capacity < self._settings.capacity}
        used = {run.lane for run in self._runs.values()} if scarce else set()
        self._scheduler.capacity = min([self._settings.capacity, *(scarce[name] for name in used if name in scarce)])

    def _expire(self) -> None:
        now = time.time()
        for run in [run for run in self._runs.values() if run.expires_at is not None and run.expires_at <= now]:
            self.end_early(run.job_id, Problem(reason="expired", detail=f"the deadline of {run.job.deadline_s:g} s passed while it ran"))

    def _sample_priors(self) -> list[Sampled]:
        """Draws the latents of waiting `prior` jobs, the oldest first, until a tick's share is used up."""
        left, sampled = self._settings.prior_chains_per_tick, []
        for run in [run for run in self._runs.values() if run.job.mcmc is None]:
            if Version.of(run.job) not in self._checkpoints:
                self._lanes.expect(run.job_id, run.job)
            elif left > 0:
                try:
                    sampled.append(self._sample_prior(run))
                except UnusableData as error:
                    self._unavailable(run.job_id, str(error))
                else:
                    left -= run.job.num_images
        return sampled

    def _sample_prior(self, run: Run) -> Sampled:
        """Raises UnusableData where the job brings what its sampler cannot use."""
        cached = self._checkpoints.use(run.job)
        space = cached.prepared.spaces["prior"]
        chains = [Chain(run.job_id, index, run.job.seed, _NO_KERNEL) for index in range(run.job.num_images)]
        hand_out(usable(run.job, space.data, cached.prepared), chains)
        z = cached.starter(run.job.sampler)(noise.start(streams_of(chains, self._device), space.shape))
        return Sampled.from_prior(run, cached.prepared, z, chains)

    def _move(self) -> None:
        """Lets chains join the batch, and others give way to them."""
        batch = [
            Running(chain.name, self._runs[chain.job_id].flow, chain.kernel.points_per_chain, left, chain.kernel.ticks)
            for chain, left in self._lanes.batch()
        ]
        moves = self._scheduler.move(batch, self._ticks)
        self._lanes.park(moves.parked)
        self._lanes.resume(moves.resumed)
        for admission in moves.admitted:
            self._start(admission)

    def _start(self, admission: Admission) -> None:
        run = self._runs[admission.job_id]
        kernel = run.job.mcmc
        assert kernel is not None
        indices = range(admission.first, admission.first + admission.count)
        self._lanes.start(run.job_id, run.job, [Chain(run.job_id, index, run.job.seed, kernel) for index in indices])

    def _load(self) -> None:
        """Loads for as long as the chains of the last tick stepped, less what an earlier slice took too much; with no chains for 50 ms."""
        self._credit_s = min(self._credit_s, 0.0) + self._step_s if self._lanes.running else ALONE_S
        if self._credit_s <= 0:
            return
        kept = {Version.of(run.job) for run in self._runs.values() if run.retired or run.job.mcmc is None}
        begun = time.perf_counter()
        self._lanes.advance(self._credit_s, kept)
        self._credit_s -= time.perf_counter() - begun

    def _refuse(self) -> None:
        """Fails the jobs that cannot be served, and no others."""
        for job_id, error in self._lanes.refused():
            self._unavailable(job_id, str(error))

    def _advance(self, name: LaneName, lane: Lane) -> None:
        """A tick of one lane; if no memory suffices for it, its own jobs fail, and no others."""
        try:
            ticked = lane.tick()
        except MemoryError as error:
            self._lanes.close(name)
            for run in [run for run in self._runs.values() if run.lane == name]:
                self._unavailable(run.job_id, str(error))
            return
        self._step_s += ticked.seconds
        stepped = Stepped(model=name.model, sampler=name.sampler, chains=ticked.chains, bucket=ticked.bucket, seconds=ticked.seconds)
        self._observe(stepped)

    def _retire(self) -> list[Sampled]:
        """Fails the jobs of chains that diverged; gives back the jobs whose chains are now all done."""
        retired = self._lanes.retire()
        for chain in sorted((one for one in retired if not one.finite), key=lambda one: one.chain.began_at + len(one.energies)):
            if run := self._runs.get(chain.chain.job_id):  # or an earlier chain has failed it
                self._diverged(run, chain)
        sampled = []
        for chain in retired:
            if run := self._runs.get(chain.chain.job_id):
                run.retired[chain.chain.index] = chain
                if len(run.retired) == run.job.num_images:
                    sampled.append(Sampled.by_chains(run, self._checkpoints.use(run.job).prepared))
        return sampled

    def _diverged(self, run: Run, retired: Retired) -> None:
        kernel = retired.chain.kernel
        step = -(-(len(retired.energies) - 1) * kernel.steps // kernel.ticks)
        detail = f"the chain of image {retired.chain.index} diverged at step {step}: its energy is {float(retired.energies[-1])}"
        self.end_early(run.job_id, Problem(reason="diverged", detail=detail))
        self._retired(run, 1, nonfinite=1)

    def _decode(self, sampled: list[Sampled]) -> None:
        """Turns latents into images, those of one decoder in one call; a job whose images fail fails alone."""
        sharing: dict[Decoder, list[Sampled]] = {}
        for one in sampled:
            sharing.setdefault(self._decoder(one.run), []).append(one)
        for decoder, jobs in sharing.items():
            for one, pixels in zip(jobs, pixels_of(decoder, [(one.z, *one.classes) for one in jobs]), strict=True):
                if isinstance(pixels, MemoryError):
                    self._unavailable(one.run.job_id, str(pixels))
                else:
                    self._finish(one, pixels)

    def _finish(self, sampled: Sampled, pixels: np.ndarray | NotFinite) -> None:
        run = sampled.run
        if isinstance(pixels, NotFinite):
            self.end_early(run.job_id, Problem(reason="diverged", detail=str(pixels)))
        else:
            sampling = self._lanes[run.lane].table if run.job.mcmc else None
            promised = contract(self._device, sampling=sampling, decoding=self._decoder(run).table)
            self._forget(run)
            self._outcomes.append(sampled.finished(pixels, promised))
        self._retired(run, len(sampled.chains), sampled.diagnostics.acceptance)

    def _decoder(self, run: Run) -> Decoder:
        return self._checkpoints.use(run.job).decoder(run.job.sampler)

    def _forget(self, run: Run) -> None:
        del self._runs[run.job_id]
        self._scheduler.remove(run.job_id)
        self._lanes.drop(run.job_id, run.lane)

    def _retired(self, run: Run, chains: int, acceptance: float | None = None, nonfinite: int = 0) -> None:
        model, sampler = run.job.model, run.job.sampler
        self._observe(ChainsRetired(model=model, sampler=sampler, chains=chains, acceptance=acceptance, nonfinite=nonfinite))

    def _unavailable(self, job_id: str, detail: str) -> None:
        self.end_early(job_id, Problem(reason="unavailable", detail=detail))


_NO_KERNEL = Kernel(kernel="none")

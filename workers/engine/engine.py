"""Continuous batching of Markov chains on one device: admit, tick, retire. Knows no Redis; every method is called from one thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models import noise
from models.checkpoints import Store
from models.images import to_pixels
from models.kernels import Kernel
from workers.capacity import Flow
from workers.engine.chain_group import Chain, Retired, streams_of
from workers.engine.checkpoint_cache import Residents, Version
from workers.engine.lane import Lane, LaneName
from workers.engine.lane_pool import Lanes
from workers.engine.memory import Memory
from workers.engine.scheduler import QUICK, Admission, Scheduler, Standing
from workers.engine.summaries import chain_report, contract, diagnostics
from workers.jobs import ChainReport, Diagnostics, GenerateJob, Problem, Progress
from workers.messages import ChainsRetired, EngineTicked, Failed, Finished, Observer, Stepped

ALONE_S = 0.05  # of loading in a tick in which no chain steps: a cancel waits no longer


@dataclass(frozen=True)
class EngineSettings:
    """What the engine may use."""

    capacity: int = 64  # chains in a batch
    device: str = "cpu"
    prior_chains_per_tick: int = 256  # images of `prior` jobs decoded between two ticks
    checkpoint_bytes: int = 1 << 30  # weights kept in memory


@dataclass
class Run:
    """A job inside the engine."""

    job_id: str
    job: GenerateJob
    expires_at: float | None  # Unix seconds
    admitted: float = field(default_factory=time.perf_counter)
    retired: dict[int, Retired] = field(default_factory=dict)

    @property
    def flow(self) -> Flow:
        return Flow(self.job.caller, self.job.priority)

    @property
    def lane(self) -> LaneName:
        return LaneName.of(self.job)


class Engine:
    """Runs the chains of all jobs it was given, one evaluation a tick."""

    def __init__(self, store: Store, settings: EngineSettings, observer: Observer, memory: Memory | None = None) -> None:
        self._settings = settings
        self._observe = observer
        self._device = torch.device(settings.device)
        self._scheduler = Scheduler(settings.capacity)
        self._checkpoints = Residents(store, self._device, capacity=settings.capacity, budget=settings.checkpoint_bytes, memory=memory)
        self._lanes = Lanes(self._checkpoints, observer)
        self._runs: dict[str, Run] = {}
        self._outcomes: list[Finished | Failed] = []
        self._ticks = 0
        self._step_s = self._credit_s = 0.0  # of the last tick; what loading may take of the next

    @property
    def device(self) -> str:
        """What it computes on, as torch calls it."""
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
        """A job whose chains need no more ticks than this is welcome even if nothing is free: others give way, or it waits inside."""
        return self._lanes.longest // QUICK

    @property
    def waiting(self) -> frozenset[Flow]:
        """Those who have chains inside that wait to start: a job of anybody else starts within a few ticks, even if nothing is free."""
        return self._scheduler.flows

    @property
    def busy(self) -> bool:
        """Whether a tick has anything to do."""
        return bool(self._runs or self._outcomes or self._lanes.loading)

    def admit(self, job_id: str, job: GenerateJob, expires_at: float | None) -> None:
        """Takes a job in; its chains start as room comes. What is wrong with it comes out of the next tick."""
        self._runs[job_id] = Run(job_id, job, expires_at)
        if job.mcmc is not None:
            self._scheduler.add(job_id, job.num_images, job.mcmc.points_per_chain, job.mcmc.ticks + 1, self._runs[job_id].flow)
            self._bound()

    def end_early(self, job_id: str, problem: Problem) -> None:
        """Ends a job at once with that problem, which comes out of the next tick; its neighbours notice nothing."""
        run = self._runs.pop(job_id, None)
        if run is None:
            return
        self._scheduler.remove(job_id)
        self._lanes.drop(job_id, run.lane)
        self._outcomes.append(Failed(job_id=job_id, problem=problem))

    def tick(self) -> list[Finished | Failed]:
        """Priors first, then a slice of what is to be loaded and one evaluation for every chain; gives back the jobs that ended."""
        begun = time.perf_counter()
        self._expire()
        self._run_priors()
        self._ticks += 1
        if self._scheduler.may_move(self._lanes.points):
            self._move()
        if self._lanes.loading:
            self._load()
        self._step_s = 0.0
        for name, lane in list(self._lanes.items()):
            if lane.running:
                self._advance(name, lane)
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
        """While a job of a lane that memory has less room for is inside, no more chains start than fit there."""
        scarce = {name: lane.table.capacity for name, lane in self._lanes.items() if lane.table.capacity < self._settings.capacity}
        used = {run.lane for run in self._runs.values()} if scarce else set()
        self._scheduler.capacity = min([self._settings.capacity, *(scarce[name] for name in used if name in scarce)])

    def _expire(self) -> None:
        now = time.time()
        for run in [run for run in self._runs.values() if run.expires_at is not None and run.expires_at <= now]:
            self.end_early(run.job_id, Problem(reason="expired", detail=f"the deadline of {run.job.deadline_s:g} s passed while it ran"))

    def _run_priors(self) -> None:
        """Decodes waiting `prior` jobs, the oldest first, until a tick's share is used up."""
        left = self._settings.prior_chains_per_tick
        for run in [run for run in self._runs.values() if run.job.mcmc is None]:
            if left <= 0:
                return
            if Version.of(run.job) in self._checkpoints:
                left -= run.job.num_images
                self._guarded(run, self._run_prior)
            else:
                self._lanes.expect(run.job_id, run.job)

    def _run_prior(self, run: Run) -> None:
        loaded = self._checkpoints.use(run.job)
        chains = [Chain(run.job_id, index, run.job.seed, _NO_KERNEL) for index in range(run.job.num_images)]
        z = noise.start(streams_of(chains, self._device), loaded.prepared.latent)
        reports = tuple(ChainReport(energy_first=None, energy_last=None, acceptance=None) for _ in chains)
        self._finish(run, z, reports, diagnostics(loaded.prepared.card, "prior", None, ()))
        self._retired(run, len(chains))

    def _move(self) -> None:
        """Lets chains join the batch, and others give way to them."""
        batch = [
            Standing(chain.name, self._runs[chain.job_id].flow, chain.kernel.points_per_chain, left, chain.kernel.ticks)
            for chain, left in self._lanes.standing()
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
        """Goes on with what is to be loaded: beside chains that step it takes as long as they do, and pays back what a slice took more."""
        self._credit_s = min(self._credit_s, 0.0) + self._step_s if self._lanes.running else ALONE_S
        if self._credit_s <= 0:
            return
        kept = {Version.of(run.job) for run in self._runs.values() if run.retired or run.job.mcmc is None}
        begun = time.perf_counter()
        if refused := self._lanes.advance(self._credit_s, kept):
            self._unavailable(*refused)
        self._credit_s -= time.perf_counter() - begun

    def _advance(self, name: LaneName, lane: Lane) -> None:
        try:
            ticked = lane.tick()
        except MemoryError as error:
            self._abandon(name, error)
            return
        self._step_s += ticked.seconds
        stepped = Stepped(model=name.model, sampler=name.sampler, chains=ticked.chains, bucket=ticked.bucket, seconds=ticked.seconds)
        self._observe(stepped)
        for retired in ticked.retired:
            run = self._runs.get(retired.chain.job_id)
            if run is None:
                continue  # a sister chain diverged on this very tick
            if not retired.finite:
                self._diverged(run, retired)
                continue
            run.retired[retired.chain.index] = retired
            if len(run.retired) == run.job.num_images:
                self._guarded(run, self._complete)

    def _abandon(self, name: LaneName, error: MemoryError) -> None:
        """A lane that no memory suffices for takes its own jobs along, and no others."""
        self._lanes.close(name)
        for run in [run for run in self._runs.values() if run.lane == name]:
            self._unavailable(run.job_id, error)

    def _diverged(self, run: Run, retired: Retired) -> None:
        kernel = retired.chain.kernel
        step = -(-(len(retired.energies) - 1) * kernel.steps // kernel.ticks)
        detail = f"the chain of image {retired.chain.index} diverged at step {step}: its energy is {float(retired.energies[-1])}"
        self.end_early(run.job_id, Problem(reason="diverged", detail=detail))
        self._retired(run, 1, nonfinite=1)

    def _complete(self, run: Run) -> None:
        ordered = [run.retired[index] for index in range(run.job.num_images)]
        told = diagnostics(self._checkpoints.use(run.job).prepared.card, run.job.sampler, run.job.mcmc, ordered)
        self._finish(run, torch.stack([chain.z for chain in ordered]), tuple(map(chain_report, ordered)), told)
        self._retired(run, len(ordered), told.acceptance)

    def _finish(self, run: Run, z: Tensor, reports: tuple[ChainReport, ...], told: Diagnostics) -> None:
        decoder = self._checkpoints.use(run.job).decoder
        images = decoder.decode(z)
        if not images.isfinite().all():
            self.end_early(run.job_id, Problem(reason="diverged", detail="the generator gave an image that is not finite"))
            return
        del self._runs[run.job_id]
        self._scheduler.remove(run.job_id)
        self._lanes.drop(run.job_id, run.lane)
        sampling = self._lanes[run.lane].table if run.job.mcmc else None
        promised = contract(self._device, sampling=sampling, decoding=decoder.table)
        pixels = to_pixels(images)
        self._outcomes.append(
            Finished(
                job_id=run.job_id,
                shape=pixels.shape,
                pixels=pixels.tobytes(),
                chains=reports,
                diagnostics=told,
                contract=promised,
                sampling_s=time.perf_counter() - run.admitted,
            )
        )

    def _retired(self, run: Run, chains: int, acceptance: float | None = None, nonfinite: int = 0) -> None:
        model, sampler = run.job.model, run.job.sampler
        self._observe(ChainsRetired(model=model, sampler=sampler, chains=chains, acceptance=acceptance, nonfinite=nonfinite))

    def _guarded(self, run: Run, act: Callable[[Run], None]) -> None:
        """A job whose images no memory suffices for fails, and no other."""
        try:
            act(run)
        except MemoryError as error:
            self._unavailable(run.job_id, error)

    def _unavailable(self, job_id: str, error: Exception) -> None:
        self.end_early(job_id, Problem(reason="unavailable", detail=str(error)))


_NO_KERNEL = Kernel(kernel="none")

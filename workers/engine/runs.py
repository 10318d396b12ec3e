"""A job inside the engine, and what people read about it once its chains are done: reports, diagnostics and a contract."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from models.cards import ModelCard
from models.device import instructions_of, name_of
from models.diagnostics import MIN_DRAWS, effective_sample_size, r_hat
from models.inference.prepared import Prepared
from models.kernels import Kernel
from workers.capacity import Flow
from workers.engine.buckets import Table
from workers.engine.chains import Chain, Retired, data_of
from workers.engine.lane import LaneName
from workers.jobs import ChainReport, Contract, Diagnostics, GenerateJob
from workers.messages import Finished

TRACE = 64  # energies reported of one chain


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


@dataclass(frozen=True)
class Sampled:
    """A job whose latents are ready to become images."""

    run: Run
    z: Tensor  # (images, *latent)
    classes: tuple[Tensor, ...]  # (images,) int64, where the decoder takes classes
    chains: tuple[ChainReport, ...]
    diagnostics: Diagnostics

    @classmethod
    def by_chains(cls, run: Run, prepared: Prepared) -> Sampled:
        """A job whose chains are all done."""
        chains = [run.retired[index] for index in range(run.job.num_images)]
        z, classes = torch.stack([chain.z for chain in chains]), _classes(run, prepared, [chain.chain for chain in chains])
        return cls(run, z, classes, tuple(map(chain_report, chains)), diagnostics(prepared.card, run.job.sampler, run.job.mcmc, chains))

    @classmethod
    def from_prior(cls, run: Run, prepared: Prepared, z: Tensor, chains: Sequence[Chain]) -> Sampled:
        """A job whose chains make no step."""
        report = ChainReport(energy_first=None, energy_last=None, acceptance=None)
        found = diagnostics(prepared.card, run.job.sampler, None, ())
        return cls(run, z, _classes(run, prepared, chains), (report,) * len(z), found)

    def finished(self, pixels: np.ndarray, promised: Contract) -> Finished:
        """The job with its images, uint8 (images, height, width, channels)."""
        return Finished(
            job_id=self.run.job_id,
            shape=pixels.shape,
            pixels=pixels.tobytes(),
            chains=self.chains,
            diagnostics=self.diagnostics,
            contract=promised,
            sampling_s=time.perf_counter() - self.run.admitted,
        )


def _classes(run: Run, prepared: Prepared, chains: Sequence[Chain]) -> tuple[Tensor, ...]:
    """What the decoder takes beside the latents of a job's chains."""
    data = data_of(chains) if prepared.spaces[run.job.sampler].data else None
    return () if data is None else (data,)


def chain_report(retired: Retired) -> ChainReport:
    """What one chain did."""
    energies = transitions(retired)
    chosen = np.linspace(0, len(energies) - 1, min(TRACE, len(energies))).round().astype(int)
    decisions = retired.chain.kernel.decisions
    return ChainReport(
        energy_first=float(energies[0]),
        energy_last=float(energies[-1]),
        acceptance=retired.accepted / decisions if decisions else None,
        energy_trace=tuple(round(float(energy), 4) for energy in energies[chosen]),
    )


def transitions(retired: Retired) -> np.ndarray:
    """The energy before the first transition and after each, (steps + 1,): a kernel may take several ticks for one."""
    kernel = retired.chain.kernel
    return retired.energies[:: kernel.ticks // kernel.steps]


def diagnostics(card: ModelCard, sampler: str, kernel: Kernel | None, retired: Sequence[Retired]) -> Diagnostics:
    """What can be said of a job whose chains are all done; `retired` is empty for `prior`."""
    if kernel is None:
        return Diagnostics(exact=None, effective_temperature=1.0)
    calibration = card.calibration.method if card.calibration and sampler in card.needs_calibration else None
    warnings = []
    if calibration is None and sampler in card.needs_calibration:
        warnings.append(card.needs_calibration[sampler])
    if kernel.effective_temperature != 1:
        warnings.append(f"samples are drawn at temperature {kernel.effective_temperature:g}, not 1")
    if kernel.beta != 1:
        warnings.append(f"samples follow p(z)^β N(z; 0, I)^(1-β) with β = {kernel.beta:g}, not p(z)")
    energies = np.stack([transitions(chain) for chain in retired])
    late = energies[:, energies.shape[1] // 2 :]
    enough = late.shape[1] >= MIN_DRAWS
    return Diagnostics(
        exact=kernel.exact,
        effective_temperature=kernel.effective_temperature,
        acceptance=sum(chain.accepted for chain in retired) / (len(retired) * kernel.decisions) if kernel.decisions else None,
        energy_first=float(energies[:, 0].mean()),
        energy_last=float(energies[:, -1].mean()),
        ess=effective_sample_size(late) if enough else None,
        r_hat=r_hat(late) if enough and len(late) > 1 else None,
        calibration=calibration,
        warnings=tuple(warnings),
    )


def contract(device: torch.device, *, sampling: Table | None, decoding: Table) -> Contract:
    """What may change the bytes of images made on a device, given the bucket tables used."""
    return Contract(
        device=name_of(device),
        instructions=instructions_of(device),
        torch=str(torch.__version__),
        sampling_reference=sampling.reference if sampling else None,
        decoding_reference=decoding.reference,
        reproducible=decoding.reproducible and (sampling is None or sampling.reproducible),
    )

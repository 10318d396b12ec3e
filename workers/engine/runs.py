"""A job inside the engine, and what people read about it once its chains are done: reports, diagnostics and a contract."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from models.cards import ModelCard
from models.device import instructions_of, name_of
from models.diagnostics import convergence
from models.inference.prepared import Prepared
from models.kernels import Kernel
from workers.capacity import Flow
from workers.engine.buckets import Table
from workers.engine.chains import Chain, Retired, data_of
from workers.engine.lane import LaneName
from workers.jobs import ChainReport, Contract, Diagnostics, GenerateJob
from workers.messages import Finished

TRACE = 64  # energies reported of one chain
MOST_DRAWS = 1000  # of a chain that the figures of convergence are made from, so that no job holds up others at its end
LEAST_ACCEPTANCE = 0.01  # below it there is a warning
LEAST_REVERSIBLE = 0.5  # of Langevin's steps; likewise
NULLABLE = tuple(name for name, field in Diagnostics.model_fields.items() if type(None) in get_args(field.annotation))


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
        moved=moved(energies),
    )


def transitions(retired: Retired) -> np.ndarray:
    """The energy before the first transition and after each, (steps + 1,): a kernel may take several ticks for one."""
    kernel = retired.chain.kernel
    return retired.energies[:: kernel.ticks // kernel.steps]


def moved(energies: np.ndarray) -> bool:
    """Whether a chain's energy, (steps + 1,), changed in the second half of its steps."""
    late = energies[(len(energies) - 1) // 2 :]
    return bool((late != late[0]).any())


class Missing(str):
    """In place of a figure: why there is none."""


def diagnostics(card: ModelCard, sampler: str, kernel: Kernel | None, retired: Sequence[Retired]) -> Diagnostics:
    """What can be said of a job whose chains are all done; `retired` is empty for `prior`."""
    if kernel is None:
        return Diagnostics(exact=None, effective_temperature=1.0, reasons=dict.fromkeys(NULLABLE, "`prior` runs no chain"))
    energies = np.stack([transitions(chain) for chain in retired])
    late = energies[:, energies.shape[1] // 2 :][:, -MOST_DRAWS:]
    figures: dict[str, object] = {
        "acceptance": acceptance(kernel, retired),
        "jump_rate": jump_rate(kernel, retired),
        "mala_acceptance": mala_acceptance(kernel, retired),
        "energy_first": float(energies[:, 0].mean()),
        "energy_last": float(energies[:, -1].mean()),
        "stuck_chains": sum(not moved(column) for column in energies),
        "draws": late.shape[1],
        "calibration": calibration(card, sampler),
        **converged(late),
    }
    return Diagnostics.model_validate(
        {name: value for name, value in figures.items() if not isinstance(value, Missing)}
        | {"exact": kernel.exact, "effective_temperature": kernel.effective_temperature}
        | {"reasons": {name: str(value) for name, value in figures.items() if isinstance(value, Missing)}}
        | {"warnings": tuple(warnings(card, sampler, kernel, figures, len(retired)))}
    )


def acceptance(kernel: Kernel, retired: Sequence[Retired]) -> float | Missing:
    """The fraction of proposals that the chains accepted."""
    if not kernel.decisions:
        return Missing("the kernel accepts every proposal")
    return sum(chain.accepted for chain in retired) / (len(retired) * kernel.decisions)


def jump_rate(kernel: Kernel, retired: Sequence[Retired]) -> float | Missing:
    """How often chains took one of the fresh points that they were offered."""
    if not kernel.offers:
        return Missing("the kernel offers no fresh points")
    return float(sum(chain.jumps.sum() for chain in retired)) / (len(retired) * kernel.offers)


def mala_acceptance(kernel: Kernel, retired: Sequence[Retired]) -> float | Missing:
    """The mean of min(α, 1/α) over the last half of the moves, α being MALA's ratio for a move: 1 where nothing is biased.

    The mean of min(1, α) alone would not do: however long its step, Langevin is all but reversible where it stands, so that log α is
    as often positive as negative and the mean never far below a half.
    """
    ratios = [chain.log_ratios[len(chain.log_ratios) // 2 :] for chain in retired]
    if not len(ratios[0]):
        return Missing("the kernel rejects by itself")
    if kernel.effective_temperature == 0:
        return Missing("temperature 0 is gradient descent and samples nothing")
    shares = np.exp(-np.abs(np.stack(ratios).astype(np.float64)) / kernel.effective_temperature)
    return float(shares.mean()) if np.isfinite(shares).all() else Missing("the moves are too long for float32")


def calibration(card: ModelCard, sampler: str) -> str:
    """The method by which the density ratio was calibrated that the sampler rests on."""
    if sampler not in card.needs_calibration:
        return Missing("the sampler rests on no density ratio")
    return card.calibration.method if card.calibration else Missing("the density ratio was never calibrated")


def converged(draws: np.ndarray) -> dict[str, object]:
    """The figures of convergence of (chains, draws), or why there are none."""
    found = convergence(draws)
    figures = {name: getattr(found, name) for name in found._fields if name != "reasons" and name not in found.reasons}
    figures = {name: "Infinity" if value == math.inf else value for name, value in figures.items()}
    return figures | {name: Missing(reason) for name, reason in found.reasons.items()}


def warnings(card: ModelCard, sampler: str, kernel: Kernel, figures: Mapping[str, object], chains: int) -> Iterator[str]:
    """What a reader should know before using the images."""
    if isinstance(figures["calibration"], Missing) and sampler in card.needs_calibration:
        yield card.needs_calibration[sampler]
    if sampler in card.remarks:
        yield card.remarks[sampler]
    if kernel.effective_temperature != 1:
        yield f"samples are drawn at temperature {kernel.effective_temperature:g}, not 1"
    if kernel.beta != 1:
        yield f"samples follow p(z)^β N(z; 0, I)^(1-β) with β = {kernel.beta:g}, not p(z)"
    if figures["stuck_chains"]:
        yield f"{figures['stuck_chains']} of {chains} chains never moved in the second half of their steps"
    accepted, reversible = figures["acceptance"], figures["mala_acceptance"]
    if isinstance(accepted, float) and accepted < LEAST_ACCEPTANCE:
        yield f"only {accepted:.2%} of the proposals were accepted: the step is too long for this density"
    if isinstance(reversible, float) and reversible < LEAST_REVERSIBLE:
        yield f"the step is too long: MALA would accept only {reversible:.0%} of these steps and their reverses, so the samples are biased"


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

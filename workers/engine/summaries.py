"""From what chains left behind to what people are told: a report a chain, diagnostics and a contract a job."""

from collections.abc import Sequence

import numpy as np
import torch

from models.cards import ModelCard
from models.diagnostics import MIN_DRAWS, effective_sample_size, r_hat
from models.kernels import Kernel
from workers.engine.buckets import Table
from workers.engine.chain_group import Retired
from workers.jobs import ChainReport, Contract, Diagnostics

TRACE = 64  # energies told of one chain


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
    energies: np.ndarray = retired.energies.numpy()[:: kernel.ticks // kernel.steps]
    return energies


def diagnostics(card: ModelCard, sampler: str, kernel: Kernel | None, retired: Sequence[Retired]) -> Diagnostics:
    """What can honestly be said of a job whose chains are all done; `retired` is empty for `prior`."""
    if kernel is None:
        return Diagnostics(exact=None, effective_temperature=1.0)
    calibration = card.calibration.method if card.calibration and sampler in card.needs_calibration else None
    warnings = []
    if calibration is None and sampler in card.needs_calibration:
        warnings.append(card.needs_calibration[sampler])
    if kernel.effective_temperature != 1:
        warnings.append(f"samples are drawn at temperature {kernel.effective_temperature:g}, not 1")
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
    on_cpu = device.type == "cpu"
    return Contract(
        device="cpu" if on_cpu else torch.cuda.get_device_name(device),
        instructions=torch.backends.cpu.get_cpu_capability() if on_cpu else None,
        torch=str(torch.__version__),
        sampling_reference=sampling.reference if sampling else None,
        decoding_reference=decoding.reference,
        reproducible=decoding.reproducible and (sampling is None or sampling.reproducible),
    )

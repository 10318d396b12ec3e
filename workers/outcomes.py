"""What comes out of an engine."""

from dataclasses import dataclass

import numpy as np

from workers.jobs import ChainReport, Contract, Diagnostics, Problem


@dataclass(frozen=True)
class Finished:
    """A job whose chains are all done."""

    job_id: str
    images: np.ndarray  # uint8, (images, height, width, channels)
    chains: tuple[ChainReport, ...]
    diagnostics: Diagnostics
    contract: Contract
    sampling_s: float


@dataclass(frozen=True)
class Failed:
    """A job that will have no images, and why."""

    job_id: str
    problem: Problem

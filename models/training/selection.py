"""Scores a run's weights by FID to `validation` now and then, and keeps the best ones in the run's folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from models import sampling
from models.datasets import Splits
from models.device import send
from models.families.base import Family, Size, spaces
from models.metrics.base import Evaluator, Reference
from models.metrics.fid import distance
from models.training.state import write

MOST_IMAGES = 2000  # drawn for a score
CHUNK = 250  # images drawn together, to bound memory


def preview(kind: Family, size: Size, networks: nn.ModuleDict, count: int) -> Tensor:
    """Images of the family's preview sampler, always from the same latents, (count, channels, height, width) in [-1, 1]."""
    random, sampler = torch.Generator().manual_seed(0), kind.preview_sampler
    found = spaces(kind, networks, size)
    kernel, space = kind.samplers()[sampler], found[sampler]
    device, images = next(networks.parameters()).device, []
    for normals in torch.randn(count, *found["prior"].shape, generator=random).split(CHUNK):
        points = space.start(send(normals, device))
        if kernel is not None:
            points = sampling.run(kernel, kind.targets(networks)[sampler], points, random=random).chains.z
        images.append(space.decode(points))
    return torch.cat(images)


@dataclass(frozen=True)
class Judge:
    """Scores networks of one run; no random stream but its own moves."""

    kind: Family
    size: Size
    dataset: str
    splits: Splits  # on the CPU
    device: torch.device

    @cached_property
    def reference(self) -> Reference:
        """The images of `validation`, in the features that metrics on `test` use too."""
        return Evaluator(self.splits.evaluator, self.dataset, device=self.device).against(self.splits.validation)

    def score(self, networks: nn.ModuleDict) -> float:
        """FID of published networks: of twice as many previews as `validation` has images, at most `MOST_IMAGES`."""
        count = min(2 * len(self.splits.validation.images), MOST_IMAGES)
        return distance(preview(self.kind, self.size, networks, count), self.reference)


class Best(NamedTuple):
    """The lowest FID so far and its step; of equal ones the first."""

    fid: float
    step: int


@dataclass(frozen=True)
class Kept:
    """The best published weights of a run, in its folder."""

    folder: Path
    fingerprint: str

    @property
    def path(self) -> Path:
        return self.folder / "best.safetensors"

    def best(self) -> Best | None:
        """Score and step of what is kept; None before the first. Raises ValueError for another run's folder."""
        if not self.path.exists():
            return None
        with safe_open(self.path, framework="pt") as file:
            about = file.metadata()
        if about["fingerprint"] != self.fingerprint:
            raise ValueError(f"{self.path} is of another run, with the settings {about['fingerprint']}")
        return Best(float(about["fid"]), int(about["step"]))

    def offer(self, scored: Best, networks: nn.ModuleDict) -> None:
        """Keeps the networks if they are the best so far. A resumed run may offer again what is kept already."""
        best = self.best()
        if best is None or scored < best:
            about = {"fid": repr(scored.fid), "step": str(scored.step), "fingerprint": self.fingerprint}
            write(self.path, networks.state_dict(), about)

    def fill(self, networks: nn.ModuleDict) -> nn.ModuleDict:
        """Plain networks with the weights kept."""
        networks.load_state_dict(load_file(self.path))
        return networks

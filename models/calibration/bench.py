"""What every method of calibration works with: the networks, the images it may fit on, and the evidence that chooses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from models.calibration.logistic import Line
from models.datasets import Split
from models.device import read, send
from models.families.base import Family, Size

CHUNK = 500  # images that a network judges together, to bound memory


class Draw(Protocol):
    """Images of the prior, and the labels they were made for, on the device and without gradient."""

    def __call__(self, count: int, random: torch.Generator) -> Split: ...


@dataclass(frozen=True)
class Bench:
    """A generator that stays as it is, its critic, and real images to learn the ratio from."""

    kind: Family
    networks: nn.ModuleDict
    size: Size
    train: Split  # on the device
    draw: Draw
    seed: int
    go_on: Callable[[], None]  # called every few seconds; what it raises ends the calibration

    @property
    def device(self) -> torch.device:
        return self.train.images.device

    @property
    def classes(self) -> int:
        """How many classes the labels of the real images tell apart."""
        return int(read(self.train.labels.max())) + 1

    def random(self, purpose: int) -> torch.Generator:
        """A random stream of the seed's own for each purpose, on the CPU."""
        return torch.Generator().manual_seed((self.seed * 1_000_003 + purpose) % 2**63)

    def log_ratios(self, network: nn.Module, split: Split) -> Tensor:
        """What a network in eval mode says of images, (rows,), on the CPU."""
        network.eval()
        with torch.no_grad():
            parts = [
                self.kind.log_ratio(network, images, labels)
                for images, labels in zip(split.images.split(CHUNK), split.labels.split(CHUNK), strict=True)
            ]
        return read(torch.cat(parts))

    def fakes(self, count: int, random: torch.Generator) -> Split:
        """Images of the prior, drawn chunk by chunk."""
        sizes = [CHUNK] * (count // CHUNK) + ([count % CHUNK] if count % CHUNK else [])
        drawn = [self.draw(size, random) for size in sizes]
        return Split(torch.cat([part.images for part in drawn]), torch.cat([part.labels for part in drawn]))

    def some(self, split: Split, count: int, random: torch.Generator) -> Split:
        """So many images of a split, drawn with replacement."""
        rows = send(torch.randint(len(split.images), (count,), generator=random), self.device)
        return Split(split.images[rows], split.labels[rows])


class Fitted(NamedTuple):
    """A log ratio to be judged, in place of `networks["ratio"]`."""

    ratio: nn.Module
    size: Size  # with the ratio's shape
    raw: Line  # slope and intercept on `validation` of what was fitted, before they were divided out
    made: str  # how it was made, for people
    optimum: str  # what the log ratio would be if it were perfect

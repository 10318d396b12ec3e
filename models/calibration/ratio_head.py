"""A ratio head: a network trained on real images against the frozen generator's; at its optimum its logit is log p_data/p_generator.

(Goodfellow et al. 2014, arXiv 1406.2661, proposition 1.) The GAN's own last critic is no such ratio: it chases the generator's last move.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.calibration.bench import Bench, Draw
from models.descent import descend
from models.device import bfloat16, send

BATCH = 64
LOOK_EVERY = 20  # steps between two calls of `go_on`


@dataclass(frozen=True)
class Disturbance:
    """What happens to real and generated images alike, so that a head cannot tell them apart by single pixels."""

    noise: float = 0.0  # highest standard deviation; an image's own is drawn evenly from 0 to it
    shifts: float = 0.0  # farthest shift, as a share of the side, drawn an image

    def __call__(self, images: Tensor, random: torch.Generator) -> Tensor:
        """Disturbs images, (rows, channels, height, width)."""
        shifted = _shifted(images, round(self.shifts * images.shape[-1]), random)
        if self.noise == 0:
            return shifted
        sigma = send(self.noise * torch.rand(len(images), 1, 1, 1, generator=random), images.device)
        return shifted + sigma * send(torch.randn(images.shape, generator=random), images.device)

    @property
    def optimum(self) -> str:
        """The density ratio that a perfect head would have found."""
        what = [f"shifted by up to {self.shifts:.1%} of the side"] if self.shifts else []
        what += [f"with normal noise of standard deviation 0 to {self.noise:.2g} added"] if self.noise else []
        return "log p_data/p_generator" + (f" of images {' and '.join(what)}" if what else "")


def train_head(
    head: nn.Module, bench: Bench, at: Callable[[int], Disturbance], random: torch.Generator, draw: Draw
) -> Iterator[tuple[int, Disturbance]]:
    """Trains a head in place for as long as it is asked for another step; gives the step just made and what disturbed its images.

    Real images are those of the bench, generated ones come from `draw`. AdamW 3e-4 with weight decay 1e-2, batches of 64 of each.
    """
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-4, weight_decay=1e-2)
    for step in count(1):
        head.train()
        disturb = at(step)
        real, fake = bench.some(bench.train, BATCH, random), draw(BATCH, random)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=random)))  # of the head's dropout
            with bfloat16(bench.device):
                said = [bench.kind.log_ratio(head, disturb(part.images, random), part.labels).float() for part in (real, fake)]
        descend(optimizer, classification_loss(*said))
        if step % LOOK_EVERY == 0:
            bench.go_on()
        yield step, disturb


def classification_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Binary cross-entropy of logits, (rows,), in nats: the mean over real plus the mean over fake; 2 log 2 is chance."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def _shifted(images: Tensor, most: int, random: torch.Generator) -> Tensor:
    """Moves each image by its own whole number of pixels; -1 comes in at the border."""
    if most == 0:
        return images
    amount, _, height, width = images.shape
    down, right = send(torch.randint(2 * most + 1, (2, amount), generator=random), images.device)
    padded = F.pad(images, (most, most, most, most), value=-1.0)
    rows = down[:, None] + torch.arange(height, device=images.device)  # (amount, height)
    columns = right[:, None] + torch.arange(width, device=images.device)
    image = torch.arange(amount, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()

"""From critic to density ratio: a head trained on real images against those of the frozen generator.

A GAN's last critic chases the generator's last move and is no density ratio. A head fitted afterwards on noised, shifted images is
one: it sees what differs between the distributions and not the artefacts that give single images away. At its optimum its logit is
log p_data/p_generator (Goodfellow et al. 2014).
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.descent import descend
from models.device import send

NOISE = (0.25, 1.0)  # standard deviation added to real and fake alike, drawn an image
BATCH = 64


def fit_ratio_head(
    head: nn.Module, draw: Callable[[int, torch.Generator], Tensor], real: Tensor, held_out: Tensor, *, epochs: int = 30
) -> float:
    """Fits `head` in place, from its own initial weights; returns its held-out loss in nats, both classes summed (2 log 2 is chance).

    `real` and `held_out` are images in [-1, 1] on the head's device, and `draw` gives that many of the generator's, without gradient;
    the epoch kept is the one with the lowest held-out loss on clean images.
    """
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-4, weight_decay=1e-2)
    random = torch.Generator().manual_seed(1)
    held_out_fake = draw(len(held_out), random)
    best, kept = float("inf"), copy.deepcopy(head.state_dict())
    for _ in range(epochs):
        head.train()
        for rows in torch.randperm(len(real), generator=random).split(BATCH):
            fake = draw(len(rows), random)
            loss = classification_loss(head, _disturbed(real[send(rows, real.device)], random), _disturbed(fake, random))
            descend(optimizer, loss)
        loss_now = held_out_loss(head, held_out, held_out_fake)
        if loss_now < best:
            best, kept = loss_now, copy.deepcopy(head.state_dict())
    head.load_state_dict(kept)
    head.eval()
    return best


def classification_loss(head: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """Binary cross-entropy in nats, the mean over real plus the mean over fake images."""
    return F.softplus(-head(real)).mean() + F.softplus(head(fake)).mean()


def held_out_loss(head: nn.Module, real: Tensor, fake: Tensor) -> float:
    """The same loss in eval mode, on clean images."""
    head.eval()
    with torch.no_grad():
        return float(classification_loss(head, real, fake))


def _disturbed(images: Tensor, random: torch.Generator) -> Tensor:
    """Noise of an image's own strength, and a shift of the batch by up to a fourteenth of the side (2 pixels of 28)."""
    low, high = NOISE
    sigma = low + (high - low) * send(torch.rand(len(images), 1, 1, 1, generator=random), images.device)
    most = images.shape[-1] // 14
    down, right = torch.randint(-most, most + 1, (2,), generator=random).tolist()
    padded = F.pad(images, (most, most, most, most), value=-1.0)
    side = images.shape[-1]
    shifted = padded[..., most + down : most + down + images.shape[-2], most + right : most + right + side]
    return shifted + sigma * send(torch.randn(shifted.shape, generator=random), images.device)

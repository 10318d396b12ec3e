"""A ratio head finds the log density ratio it can find."""

import math

import pytest
import torch
from torch import nn

from models import ratio_head
from models.ratio_head import classification_loss, fit_ratio_head, held_out_loss


class Brightness(nn.Module):
    """Latents to flat grey images whose brightness is the first latent, scaled and shifted."""

    def __init__(self, mean: float) -> None:
        super().__init__()
        self.mean = mean

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return (self.mean + z[:, :1, None, None]).expand(-1, 1, 4, 4)


class LinearHead(nn.Module):
    """a·x + b on the mean brightness."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(1, 1)
        nn.init.zeros_(self.line.weight)
        nn.init.zeros_(self.line.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.line(images.flatten(1).mean(1, keepdim=True)).squeeze(1)


def latents(count, seed):
    return torch.randn(count, 1, generator=torch.Generator().manual_seed(seed))


def drawn_from(generator):
    return lambda count, random: generator(torch.randn(count, 1, generator=random))


def test_a_head_tells_equal_distributions_apart_no_better_than_chance():
    head = LinearHead()
    same = Brightness(0.0)
    loss = fit_ratio_head(head, drawn_from(same), same(latents(512, 1)), same(latents(512, 2)), epochs=5)
    assert loss == pytest.approx(2 * math.log(2), abs=0.05)


def test_a_head_finds_the_direction_in_which_the_data_differ(monkeypatch):
    monkeypatch.setattr(ratio_head, "NOISE", (0.0, 0.0))
    head = LinearHead()
    real, fake = Brightness(2.0), Brightness(0.0)
    loss = fit_ratio_head(head, drawn_from(fake), real(latents(2048, 1)), real(latents(1024, 2)), epochs=150)
    assert loss < 1.0
    assert head.line.weight.item() > 0


def test_the_loss_of_the_optimal_head_is_known_at_the_nash_point():
    images = torch.zeros(8, 1, 4, 4)
    silent = LinearHead()
    assert float(classification_loss(silent, images, images).detach()) == pytest.approx(2 * math.log(2))
    assert held_out_loss(silent, images, images) == pytest.approx(2 * math.log(2))

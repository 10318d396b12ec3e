"""A ratio head finds the log density ratio it can find, and the oracle tells a good ratio from a bad one."""

import math

import pytest
import torch
from torch import nn

from models.training import calibration
from models.training.calibration import classification_loss, fit_ratio_head, held_out_loss, reweighted


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


def test_a_head_tells_equal_distributions_apart_no_better_than_chance():
    head = LinearHead()
    same = Brightness(0.0)
    loss = fit_ratio_head(head, same, same(latents(512, 1)), same(latents(512, 2)), latent=1, epochs=5)
    assert loss == pytest.approx(2 * math.log(2), abs=0.05)


def test_a_head_finds_the_direction_in_which_the_data_differ(monkeypatch):
    monkeypatch.setattr(calibration, "NOISE", (0.0, 0.0))
    head = LinearHead()
    real, fake = Brightness(2.0), Brightness(0.0)
    loss = fit_ratio_head(head, fake, real(latents(2048, 1)), real(latents(1024, 2)), latent=1, epochs=150)
    assert loss < 1.0
    assert head.line.weight.item() > 0


def test_resampling_by_the_true_ratio_gives_the_data():
    # p_g = N(0, 1), p_d = N(1/2, 1): d* = x/2 - 1/8, and the weights' effective fraction is exp(-1/4).
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(4))
    rows, share = reweighted(x / 2 - 1 / 8, torch.Generator().manual_seed(5))
    effective = len(x) * math.exp(-0.25) / (1 + math.exp(-0.25))  # resampling adds its own noise
    assert abs(x[rows].mean() - 0.5) < 4 / math.sqrt(effective)
    assert share == pytest.approx(math.exp(-0.25), rel=0.03)


def test_the_loss_of_the_optimal_head_is_known_at_the_nash_point():
    images = torch.zeros(8, 1, 4, 4)
    silent = LinearHead()
    assert float(classification_loss(silent, images, images).detach()) == pytest.approx(2 * math.log(2))
    assert held_out_loss(silent, images, images) == pytest.approx(2 * math.log(2))

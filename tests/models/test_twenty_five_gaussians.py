"""DDLS under a perfect critic on 25 Gaussians: local kernels repair quality, local-global the weights of the modes too."""

import math
from itertools import count
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from models.kernels import Chains, Kernel
from models.kernels.local_global import LocalGlobal
from models.kernels.mala import Mala
from models.sampling import run
from models.targets.ddls import Ddls
from tests.models.closed_forms import assert_near, random

CHAINS = 10_000
DEVIATION = 0.05
PLACES = torch.arange(-2.0, 3)  # the means are all pairs
WITHIN = {3: 0.98889, 4: 0.99966}  # share of a Gaussian in the plane within so many deviations: 1 - exp(-k²/2)
FLOOR = (24 + 4 * math.sqrt(48)) / (2 * CHAINS)  # of 2n KL, chi-squared with 24 degrees of freedom, at 4 standard errors: .0026


class Scaling(nn.Module):
    """G(z) = sz."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, z: Tensor) -> Tensor:
        return self.scale * z


class Perfect(nn.Module):
    """d = log p_d - log p_g without its constant; the mixture is the product of one along each axis."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        squares = (x.unsqueeze(-1) - PLACES).square() / (2 * DEVIATION**2)
        return ((-squares).logsumexp(-1) + x.square() / (2 * self.scale**2)).sum(1)


class Quality(NamedTuple):
    """Of draws, (chains, 2): the share within 3 and 4 deviations of a mean, and the reverse KL of the modes' weights from uniform."""

    within: dict[int, float]
    divergence: float

    @classmethod
    def of(cls, x: Tensor) -> "Quality":
        mode = (x + 2).round().clamp(0, 4)
        distance = (x - (mode - 2)).norm(dim=1)
        share = torch.bincount((5 * mode[:, 0] + mode[:, 1]).long(), minlength=25).double() / len(x)
        return cls({k: float((distance < k * DEVIATION).double().mean()) for k in WITHIN}, float((share * (25 * share).log()).nansum()))


def quality(kernel: Kernel, scale: float) -> Quality:
    """Of chains that began at the prior, at their end."""
    return qualities(kernel, scale, kernel.ticks)[-1]


def qualities(kernel: Kernel, scale: float, every: int) -> list[Quality]:
    """Of chains that began at the prior, each time they have made so many ticks more."""
    z, found, ticks = torch.randn(CHAINS, 2, generator=random(5)), [], count(1)

    def watch(chains: Chains) -> None:
        if next(ticks) % every == 0:
            found.append(Quality.of(scale * chains.z))

    run(kernel, Ddls(Scaling(scale), Perfect(scale)), z, random=random(11), watch=watch)
    return found


def check_quality(found: Quality) -> None:
    for deviations, share in WITHIN.items():
        assert_near(
            torch.tensor(found.within[deviations]), share, math.sqrt(share * (1 - share) / CHAINS), f"within {deviations} deviations"
        )


def check_weights(found: Quality) -> None:
    assert found.divergence <= FLOOR, f"reverse KL {found.divergence:.4f} of the modes' weights, and {FLOOR:.4f} at most"


def test_local_global_finds_the_modes_and_their_weights_in_20_steps():
    found = quality(LocalGlobal(steps=20, step_size=0.0005), 2.0)
    check_quality(found)
    check_weights(found)


def test_local_global_needs_60_steps_where_the_generator_seldom_reaches_the_outer_modes():
    kernel = LocalGlobal(steps=60, step_size=0.002)
    after_20, _, after_60 = qualities(kernel, 1.0, kernel.ticks // 3)
    check_quality(after_20)
    with pytest.raises(AssertionError, match="reverse KL"):
        check_weights(after_20)
    check_quality(after_60)
    check_weights(after_60)


def test_mala_finds_each_mode_but_leaves_its_weight_as_it_was():
    found = quality(Mala(steps=300, step_size=0.0005), 2.0)
    check_quality(found)
    assert found.divergence == pytest.approx(0.0135, abs=0.004)  # of the prior's mass in the square around each mode
    with pytest.raises(AssertionError, match="reverse KL"):
        check_weights(found)


def test_prior_samples_are_mostly_between_the_modes():
    found = Quality.of(2 * torch.randn(CHAINS, 2, generator=random(5)))
    assert_near(torch.tensor(found.within[3]), 0.045, math.sqrt(0.045 * 0.955 / CHAINS), "within 3 deviations")
    with pytest.raises(AssertionError, match="within 3 deviations"):
        check_quality(found)

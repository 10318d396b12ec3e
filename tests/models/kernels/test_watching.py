"""What kernels let people see beside acceptance: the ratio MALA would have had for Langevin's moves, and jumps to fresh points."""

import math
from types import SimpleNamespace

import pytest
import torch

from models.kernels import Chains, Evaluated
from models.kernels.langevin import Langevin
from models.kernels.local_global import PROPOSALS, LocalGlobal
from models.kernels.mala import Mala
from models.sampling import GeneratorNoise, begin, run
from models.targets.base import evaluate


class Gaussian:
    """N(0, I)."""

    data = None

    def energy(self, z, data=None):
        return 0.5 * z.square().sum(-1)


class Bumpy(Gaussian):
    """Neither Gaussian nor convex."""

    def energy(self, z, data=None):
        return super().energy(z) + torch.sin(3 * z).sum(-1)


def random(seed=7):
    return torch.Generator().manual_seed(seed)


def step(target, kernel, chains=500, latent=6):
    """One proposal of Langevin: chains, points, noise."""
    held = begin(kernel, target, torch.randn(chains, latent, generator=random(), dtype=torch.float64))
    noise = GeneratorNoise(held.z, random(8))
    return held, evaluate(target, kernel.propose(held, noise), None), noise


@pytest.mark.parametrize("epsilon", [0.01, 0.5, 3.5])
def test_on_a_gaussian_the_ratio_is_known(epsilon):
    kernel = Langevin(step_size=epsilon)
    chains, points, _ = step(Gaussian(), kernel)
    expected = -epsilon / 8 * (points.z.square().sum(1) - chains.z.square().sum(1))
    assert torch.allclose(kernel.log_ratio(chains, points), expected, atol=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 0.3, 2.0])
def test_the_ratio_is_the_one_that_mala_decides_by(temperature):
    kernel = Langevin(step_size=0.4, temperature=temperature)
    chains, points, noise = step(Bumpy(), kernel)
    ratio = kernel.log_ratio(chains, points) / temperature
    for gap, accepted in ((-1e-6, True), (1e-6, False)):
        decided = SimpleNamespace(normal=noise.normal, log_uniform=lambda gap=gap: ratio + gap)
        assert (Mala.accepts(chains, points, decided) == accepted).all()


def test_noise_that_is_scaled_has_the_ratio_of_the_temperature_that_it_samples_at():
    scaled, tempered = Langevin(step_size=0.4, noise_scale=0.5, temperature=2), Langevin(step_size=0.4, temperature=0.5)
    assert scaled.effective_temperature == tempered.effective_temperature
    ratios = [kernel.log_ratio(*step(Bumpy(), kernel)[:2]) for kernel in (scaled, tempered)]
    assert torch.allclose(*ratios)


def ratios(epsilon, latent=32):
    """log α of MALA for the moves of chains that stand where Langevin stands."""
    kernel, seen, before = Langevin(steps=120, step_size=epsilon), [], []

    def watch(chains):
        here = Evaluated(chains.z, chains.energy, chains.gradient)
        if before:
            seen.append(kernel.log_ratio(Chains(*before.pop(), chains.settings), here))
        before.append(here)

    run(kernel, Gaussian(), torch.randn(200, latent, generator=random()), random=random(8), watch=watch)
    return torch.stack(seen[60:]).double()


def test_acceptance_one_way_flatters_a_step_that_is_far_too_long_and_both_ways_does_not():
    long, short = ratios(3.5), ratios(0.1)
    assert long.exp().clamp(max=1).mean() > 0.45
    assert (-long.abs()).exp().mean() < 0.1
    assert (-short.abs()).exp().mean() > 0.9


@pytest.mark.parametrize("epsilon", [0.16, 0.5, 1.0])
def test_acceptance_both_ways_is_that_of_the_stationary_chain(epsilon):
    """There |z|² has variance 2dv², v = 1/(1 - ε/4), and correlation (1 - ε/2)² with that of the next step; log α is nearly normal."""
    latent = 400
    spread = epsilon / 8 * math.sqrt(2 * 2 * latent * (1 - (1 - epsilon / 2) ** 2)) / (1 - epsilon / 4)
    shares = (-ratios(epsilon, latent).abs()).exp()
    expected = 2 * math.exp(spread**2 / 2) * 0.5 * math.erfc(spread / math.sqrt(2))
    error = shares.mean(0).std() / math.sqrt(shares.shape[1])
    assert abs(shares.mean() - expected) < 4 * error + 0.005  # half a per cent for what is not normal


def test_chains_jump_as_often_as_weights_say():
    """On N(0, I) all weights are equal, and one candidate of eleven is the present point."""
    chains = begin(LocalGlobal(), Gaussian(), torch.randn(20_000, 2, generator=random()))
    chains.wide = torch.arange(20_000)
    noise = GeneratorNoise(chains.z, random(8), PROPOSALS)
    before = chains.z
    jumped = LocalGlobal.update(chains, evaluate(Gaussian(), LocalGlobal.propose(chains, noise), None), noise).jumped
    share = PROPOSALS / (PROPOSALS + 1)
    assert abs(jumped.mean() - share) < 4 * math.sqrt(share * (1 - share) / 20_000)
    assert torch.equal(jumped.bool(), (chains.z != before).any(1))


UNIFORMS = {
    "0": -math.inf,
    "the least that is positive": math.log(2.0**-149),
    "the least of Philox": math.log(2.0**-24),
    "a half": math.log(0.5),
    "the largest below 1": math.log(1 - 2.0**-24),
    "1": 0.0,
}


@pytest.mark.parametrize("uniform", UNIFORMS)
@pytest.mark.parametrize("worst", [math.inf, 1e4])  # the weight of the second is too small for a float
def test_a_candidate_of_weight_zero_is_never_drawn(uniform, worst):
    count = 3000
    z = torch.randn(count, PROPOSALS + 1, 2, generator=random())
    energy = torch.rand(count, PROPOSALS + 1, generator=random(8))
    bad = torch.rand(count, PROPOSALS + 1, generator=random(9)) < torch.rand(count, 1, generator=random(10))
    bad[torch.arange(count), torch.randint(PROPOSALS + 1, (count,), generator=random(11))] = False  # one at least is possible
    energy = energy.where(~bad, worst)
    settings = {name: torch.ones(count, 1) for name in LocalGlobal.columns}
    chains = Chains(z[:, 0], energy[:, 0], z[:, 0], settings, wide=torch.arange(count))
    own, others = (torch.cat([column[:, 1], column[:, 2:].flatten(0, 1)]) for column in (z, energy))
    points = Evaluated(own, others, own)
    noise = SimpleNamespace(normal=lambda: z[:, 1], log_uniform=lambda: torch.full((count,), UNIFORMS[uniform]))
    info = LocalGlobal.update(chains, points, noise)
    assert (chains.energy < worst).all()
    assert (info.jumped[bad[:, 0]] == 1).all()


def test_an_energy_of_minus_infinity_is_drawn_and_not_hidden():
    z = torch.zeros(4, 2)
    chains = Chains(z, torch.zeros(4), z, {name: torch.ones(4, 1) for name in LocalGlobal.columns}, wide=torch.arange(4))
    energy = torch.zeros(4 * PROPOSALS)
    energy[2] = -math.inf
    rows = torch.zeros(4 * PROPOSALS, 2)
    noise = SimpleNamespace(normal=lambda: z, log_uniform=lambda: torch.full((4,), -0.5))
    LocalGlobal.update(chains, Evaluated(rows, energy, rows), noise)
    assert chains.energy.tolist() == [0, 0, -math.inf, 0]

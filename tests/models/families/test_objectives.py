"""The objectives of adversarial families and the VAE, held to what theory says of them."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from models import device
from models.families import family
from models.families.base import Size
from models.families.ebgan import pulling_away
from models.families.gan import discrimination_loss, minimax_loss, non_saturating_loss
from models.families.vae import divergence_from_prior
from models.families.wgan_gp import gradient_penalty
from models.networks.reconstruction import reconstruction_error
from models.targets.pixel import Pixel, flatness

SIZE = Size(image_shape=(1, 8, 8), latent_size=6, width=8)


@pytest.fixture(autouse=True)
def exactly(monkeypatch):
    """Networks compute in float32, whatever the processor multiplies fastest."""
    monkeypatch.setattr(device, "multiplies_bfloat16_faster", lambda where: False)


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_where_data_and_generator_agree_the_best_critic_loses_2_log_2():
    assert discrimination_loss(torch.zeros(9), torch.zeros(9)).item() == pytest.approx(2 * math.log(2), rel=1e-6)


def test_the_log_density_ratio_is_the_best_critic_and_its_loss_gives_the_jensen_shannon_divergence():
    # p_d = N(1, 1), p_g = N(0, 1): d* = x - 1/2. With C = -loss: C = -log 4 + 2 JSD, and no other slope or offset does better.
    count, x = 400_000, normals(400_000, seed=1)
    best = discrimination_loss(x + 0.5, x - 0.5)
    for slope, offset in ((0.9, 0), (1.1, 0), (1, 0.1), (1, -0.1)):
        assert discrimination_loss(slope * (x + 0.5) + offset, slope * (x - 0.5) + offset) > best
    grid = torch.linspace(-10, 11, 20_001, dtype=torch.float64)
    data, generator = Normal(1.0, 1.0).log_prob(grid).exp(), Normal(0.0, 1.0).log_prob(grid).exp()
    middle = (data + generator) / 2
    divergence = torch.trapezoid(data * (data / middle).log() + generator * (generator / middle).log(), grid) / 2
    assert abs(best.item() - (math.log(4) - 2 * divergence.item())) < 4 * 0.6 / math.sqrt(count)  # a term's deviation is below 0.6


@pytest.mark.parametrize(
    ("loss", "slope"), [(minimax_loss, lambda d: -torch.sigmoid(d)), (non_saturating_loss, lambda d: torch.sigmoid(d) - 1)]
)
def test_the_generators_gradient_is_that_of_its_loss(loss, slope):
    logits = torch.tensor([-8.0, -1.0, 0.0, 3.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(logits) * len(logits), logits)
    assert torch.allclose(gradient, slope(logits), atol=1e-6)


def test_only_minimax_saturates_where_the_critic_is_sure():
    sure = torch.tensor([-8.0], requires_grad=True)
    (weak,) = torch.autograd.grad(minimax_loss(sure), sure)
    (strong,) = torch.autograd.grad(non_saturating_loss(sure), sure)
    assert abs(weak.item()) < 1e-3
    assert abs(strong.item()) > 0.999


@pytest.mark.parametrize(("loss", "objective"), [("minimax", minimax_loss), ("non-saturating", non_saturating_loss)])
def test_the_option_chooses_the_generators_loss(loss, objective):
    kind = family("gan", {"loss": loss})
    state = kind.begin(SIZE, 0)
    fake = normals(5, *SIZE.image_shape)
    assert torch.equal(kind.generator_loss(state, fake), objective(state.networks["critic"](fake)))


def test_momentum_is_the_papers_and_adam_the_default():
    networks = family("gan").build(SIZE)
    descent = family("gan", {"optimizer": "sgd", "momentum": 0.7}).optimizers(networks)["critic"]
    assert isinstance(descent, torch.optim.SGD)
    assert (descent.defaults["lr"], descent.defaults["momentum"]) == (0.1, 0.7)
    assert isinstance(family("gan").optimizers(networks)["critic"], torch.optim.Adam)


def test_a_critic_of_points_imitates_a_plain_one():
    networks, points = family("gan").build(Size(image_shape=(1, 1, 2), latent_size=2, width=8)), normals(9, 1, 1, 2)
    assert not torch.allclose(networks["ratio"](points), networks["critic"](points))
    family("gan").uncalibrate(networks)
    assert torch.allclose(networks["ratio"](points), networks["critic"](points), atol=1e-6)


def test_perceptrons_take_points_for_images():
    size = Size(image_shape=(1, 1, 2), latent_size=2, width=8)
    kind = family("gan", {"critic_steps": 2})
    state = kind.begin(size, 0)
    figures = kind.train_step(state, normals(8, *size.image_shape), torch.zeros(8))
    assert all(figure.isfinite() for figure in figures.values())
    assert state.networks["generator"](normals(3, 2)).shape == (3, 1, 1, 2)


@pytest.mark.parametrize("slope", [1.0, 3.0])
def test_the_penalty_is_the_squared_distance_of_the_slope_from_1_and_moves_the_critic_towards_it(slope):
    direction = normals(64)
    weight = (slope * direction / direction.norm()).requires_grad_()
    penalty = gradient_penalty(lambda images: images.flatten(1) @ weight, normals(7, 1, 8, 8))
    assert penalty.item() == pytest.approx((slope - 1) ** 2, abs=1e-9, rel=1e-5)
    (pull,) = torch.autograd.grad(penalty, weight)
    assert torch.allclose(pull, 2 * (slope - 1) * weight.detach() / slope, atol=1e-5)


def test_the_penalty_is_taken_between_the_images():
    kind = family("wgan-gp", {"penalty": 10.0})
    state = kind.begin(SIZE, 0)
    seen = []
    state.networks["critic"].register_forward_hook(lambda module, inputs, outputs: seen.append(inputs[0].detach()))
    real, fake = torch.ones(400, *SIZE.image_shape), -torch.ones(400, *SIZE.image_shape)
    kind.critic_loss(state, real, fake)
    shares = (seen[-1][:, 0, 0, 0] + 1) / 2
    assert torch.equal(seen[-1], (2 * shares - 1)[:, None, None, None].expand_as(seen[-1]))  # one share an image
    assert 0 <= shares.min() <= shares.max() <= 1
    assert abs(shares.mean() - 0.5) < 4 * math.sqrt(1 / 12 / 400)  # uniform: mean and variance
    assert abs(shares.var() - 1 / 12) < 4 * math.sqrt(1 / 180 / 400)


def test_ebgans_energy_is_the_euclidean_norm_and_of_a_perfect_image_has_a_gradient():
    images = torch.zeros(2, 1, 2, 2)
    images[0] = 3.0
    images.requires_grad_()
    errors = reconstruction_error(torch.zeros(2, 1, 2, 2), images)
    assert errors.tolist() == [6.0, 0.0]
    errors.sum().backward()
    assert images.grad.isfinite().all()


def test_the_pulling_away_weight_is_that_of_the_options():
    fake = normals(6, *SIZE.image_shape)
    losses = {}
    for weight in (0.0, 0.1):
        kind = family("ebgan", {"pulling_away": weight})
        state = kind.begin(SIZE, 0)
        losses[weight] = kind.generator_loss(state, fake)
    assert (losses[0.1] - losses[0.0]).item() == pytest.approx(0.1 * pulling_away(state.networks["encoder"](fake)).item(), abs=1e-5)


def test_ebgan_reports_the_energies_of_both_sides():
    kind = family("ebgan", {"margin": 100.0})
    state = kind.begin(SIZE, 0)
    figures = kind.train_step(state, normals(8, *SIZE.image_shape).clamp(-1, 1), torch.zeros(8))
    expected = figures["energy_real"] + 100 - figures["energy_fake"]  # below the margin the hinge is a line
    assert figures["loss_critic"].item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("name", ["ebgan", "wgan-gp"])
def test_a_flat_critic_is_remarked_and_one_that_tells_images_apart_is_not(name):
    kind = family(name)
    networks = kind.begin(SIZE, 0).networks.eval()
    one, other = (normals(200, *SIZE.image_shape, seed=seed).clamp(-1, 1) for seed in (1, 2))
    assert "coincide" in kind.remarks(networks, one, other)["pixel"]
    assert kind.remarks(networks, one, torch.ones_like(one) + 0.01 * other) == {}


def test_energies_coincide_within_a_quarter_of_their_spread():
    energies = normals(4000)
    assert flatness(energies, energies + 0.2)
    assert flatness(energies, energies + 0.3) is None
    assert "coincide" in flatness(torch.ones(5), torch.ones(5))


def test_pixel_scales_the_critic_and_keeps_chains_within_reach_of_images():
    target = Pixel(lambda images: -images.flatten(1).sum(1), 3.0)
    inside, outside = torch.full((1, 1, 1, 2), 0.5), torch.tensor([1.5, -0.5]).reshape(1, 1, 1, 2)
    assert target.energy(inside).item() == pytest.approx(3.0)
    assert target.energy(outside).item() == pytest.approx(3.0 + 0.5**2 / (2 * 0.1**2), rel=1e-5)


def test_the_vaes_divergence_is_that_of_two_gaussians():
    mean, log_variance = normals(5, 3, seed=1), normals(5, 3, seed=2)
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(1)
    assert torch.allclose(divergence_from_prior(mean, log_variance), expected, atol=1e-5)

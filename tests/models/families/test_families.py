"""Every family trains, resumes bit for bit, offers what it says, and the objectives obey what theory says of them."""

import pytest
import torch

from models.families import family, names
from models.families.base import Diverged, Size, check_finite, published
from models.training.state import restore, save

SIZE = Size(image_shape=(1, 8, 8), latent_size=6, width=8)


def batches(count):
    random = torch.Generator().manual_seed(3)
    return [torch.rand(16, *SIZE.image_shape, generator=random) * 2 - 1 for _ in range(count)]


@pytest.fixture(params=names())
def kind(request):
    return family(request.param)


def test_a_family_offers_a_target_for_every_sampler_that_runs_chains(kind):
    networks = kind.build(SIZE)
    samplers = kind.samplers()
    assert samplers["prior"] is None
    assert {name for name, kernel in samplers.items() if kernel} <= set(kind.targets(networks))
    assert {kind.default_sampler, kind.preview_sampler} <= set(samplers)


def test_a_decoder_gives_images_in_range(kind):
    networks = published(kind, kind.begin(SIZE, 0))
    images = kind.decoder(networks)(torch.randn(5, SIZE.latent_size, generator=torch.Generator().manual_seed(0)))
    assert images.shape == (5, *SIZE.image_shape)
    assert images.abs().max() <= 1


def test_a_resumed_run_goes_on_bit_for_bit(kind, tmp_path):
    straight, first = kind.begin(SIZE, 1), kind.begin(SIZE, 1)
    images = batches(6)
    for real in images:
        kind.train_step(straight, real)
    for real in images[:3]:
        kind.train_step(first, real)
    save(first, tmp_path, "same", 12.5)
    second = kind.begin(SIZE, 99)
    assert restore(second, tmp_path, "same") == 12.5
    assert second.step == 3
    for real in images[3:]:
        kind.train_step(second, real)
    for name, tensor in straight.networks.state_dict().items():
        assert torch.equal(tensor, second.networks.state_dict()[name]), name


def test_another_runs_state_is_refused(kind, tmp_path):
    save(kind.begin(SIZE, 1), tmp_path, "one", 0)
    with pytest.raises(ValueError, match="another run"):
        restore(kind.begin(SIZE, 1), tmp_path, "two")


def test_the_same_seed_trains_the_same_networks_and_another_does_not(kind):
    weights = []
    for seed in (1, 1, 2):
        state = kind.begin(SIZE, seed)
        kind.train_step(state, batches(1)[0])
        weights.append(torch.cat([parameter.flatten() for parameter in state.networks.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_loss_that_is_not_finite_is_diverged_and_not_hidden(kind):
    state = kind.begin(SIZE, 0)
    with pytest.raises(Diverged, match="nan"):
        kind.train_step(state, torch.full((4, *SIZE.image_shape), torch.nan))
    with pytest.raises(Diverged, match="step 7"):
        check_finite({"loss": float("inf")}, 7)


def test_an_unknown_family_names_the_choices():
    with pytest.raises(ValueError, match="lebm, sngan"):
        family("ebgan2")


def test_the_live_logit_scale_lets_the_critic_exceed_what_spectral_norm_allows():
    state = family("sngan").begin(SIZE, 0)
    critic = state.networks["critic"].eval()  # in training mode each call moves the power iteration
    images = batches(1)[0]
    with torch.no_grad():
        scaled = critic(images)
        critic.scale.fill_(1.0)
        assert torch.allclose(scaled, 4 * critic(images), atol=1e-5)
    assert critic.scale.requires_grad

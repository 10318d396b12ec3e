"""Every family trains, resumes bit for bit, offers what it says, and the objectives obey what theory says of them."""

import pytest
import torch
from pydantic import ValidationError
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import FakeTensorDeviceMismatchError

from models import sampling, targets
from models.checkpoints import Store
from models.families import FAMILIES, family, names
from models.families.base import Size, published, spaces
from models.inference.prepared import load
from models.training.state import Account, restore, save
from tests.tiny_models import publish_tiny

SIZE = Size(image_shape=(1, 8, 8), latent_size=6, width=8)
LABELS = torch.arange(16) % 10


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
    assert set(kind.needs_calibration) <= set(samplers)
    assert set(kind.targets(networks)) <= set(targets.names())


def test_every_sampler_has_a_space_that_starts_at_normals_and_gives_images(kind):
    networks = published(kind, kind.begin(SIZE, 0))
    found = spaces(kind, networks, SIZE)
    assert set(found) == {"prior", *kind.targets(networks)}
    normals = torch.randn(5, *found["prior"].shape, generator=torch.Generator().manual_seed(0))
    for space in found.values():
        points = space.start(normals)
        assert points.shape == (5, *space.shape)
        assert not space.decode(points.requires_grad_()).requires_grad
        assert space.decode(points).shape == (5, *SIZE.image_shape)


def test_options_have_defaults_and_say_what_they_are_for(kind):
    for name, field in FAMILIES[kind_name(kind)].model_fields.items():
        assert field.description, name
        assert not field.is_required(), name


def kind_name(kind):
    return next(name for name, found in FAMILIES.items() if isinstance(kind, found))


def test_a_decoder_gives_images_in_range(kind):
    networks = published(kind, kind.begin(SIZE, 0))
    images = kind.decoder(networks)(torch.randn(5, SIZE.latent_size, generator=torch.Generator().manual_seed(0)))
    assert images.shape == (5, *SIZE.image_shape)
    assert images.abs().max() <= 1


def test_a_resumed_run_goes_on_bit_for_bit(kind, tmp_path):
    straight, first = kind.begin(SIZE, 1), kind.begin(SIZE, 1)
    images = batches(6)
    for real in images:
        kind.train_step(straight, real, LABELS)
    for real in images[:3]:
        kind.train_step(first, real, LABELS)
    save(first, tmp_path, "same", Account(seconds=12.5))
    second = kind.begin(SIZE, 99)
    assert restore(second, tmp_path, "same").seconds == 12.5
    assert second.step == 3
    for real in images[3:]:
        kind.train_step(second, real, LABELS)
    for name, tensor in straight.networks.state_dict().items():
        assert torch.equal(tensor, second.networks.state_dict()[name]), name


def test_another_runs_state_is_refused(kind, tmp_path):
    save(kind.begin(SIZE, 1), tmp_path, "one", Account())
    with pytest.raises(ValueError, match="another run"):
        restore(kind.begin(SIZE, 1), tmp_path, "two")


def test_the_same_seed_trains_the_same_networks_and_another_does_not(kind):
    weights = []
    for seed in (1, 1, 2):
        state = kind.begin(SIZE, seed)
        kind.train_step(state, batches(1)[0], LABELS)
        weights.append(torch.cat([parameter.flatten() for parameter in state.networks.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_step_neither_mixes_devices_nor_waits_for_one(kind):
    # On `meta` under FakeTensorMode a tensor of the host's is refused, and so are `.item()`, `bool()` and shapes that depend on data.
    state = kind.begin(SIZE, 0, "meta")
    with FakeTensorMode(allow_non_fake_inputs=True):
        images, labels = torch.zeros(16, *SIZE.image_shape, device="meta"), torch.zeros(16, dtype=torch.int64, device="meta")
        for _ in range(2):  # the second step finds optimisers with moments
            figures = kind.train_step(state, images, labels)
        assert {figure.device.type for figure in figures.values()} == {"meta"}
        assert all(figure.shape == () and not figure.requires_grad for figure in figures.values())
        with pytest.raises(FakeTensorDeviceMismatchError):  # the rehearsal sees what it is for
            images + torch.zeros(16, *SIZE.image_shape)


def test_a_few_steps_have_finite_figures_and_move_what_is_trained(kind):
    state = kind.begin(SIZE, 0)
    before = {name: tensor.clone() for name, tensor in state.networks.named_parameters()}
    for real in batches(4):
        figures = kind.train_step(state, real, LABELS)
        assert all(figure.isfinite() for figure in figures.values()), figures
    moved = {name.partition(".")[0] for name, tensor in state.networks.named_parameters() if not torch.equal(tensor, before[name])}
    assert moved == set(state.networks) - {"ratio"}


def test_a_published_version_samples_with_everything_that_it_offers(kind, tmp_path):
    store = Store(tmp_path, tmp_path / "none")
    prepared = load(store, publish_tiny(store, kind_name(kind), "tiny"), torch.device("cpu"))
    normals = torch.randn(3, *prepared.spaces["prior"].shape, generator=torch.Generator().manual_seed(0))
    for sampler, kernel in kind.samplers().items():
        space = prepared.spaces[sampler]
        points = space.start(normals)
        if kernel is not None:
            random = torch.Generator().manual_seed(1)
            few = kernel.model_copy(update={"steps": 4, "step_size": 1e-4})
            ran = sampling.run(few, prepared.targets[sampler], points, random=random)
            assert ran.energies.isfinite().all()
            assert not torch.equal(ran.chains.z, points)
            points = ran.chains.z
        assert space.decode(points).isfinite().all()


def test_in_eval_mode_no_image_or_energy_depends_on_its_batch(kind):
    state = kind.begin(SIZE, 0)
    kind.train_step(state, batches(1)[0], LABELS)  # so that averages of batches are none of the first weights
    networks = published(kind, state)
    normals = torch.randn(6, SIZE.latent_size, generator=torch.Generator().manual_seed(0))
    others = torch.cat([normals[:2], 5 * normals[2:]])
    for name, space in spaces(kind, networks, SIZE).items():
        first, second = space.start(normals), space.start(others)
        assert torch.allclose(space.decode(first)[:2], space.decode(second)[:2], atol=1e-6), name
        target = kind.targets(networks).get(name)
        if target is not None and target.data is None:
            assert torch.allclose(target.energy(first)[:2], target.energy(second)[:2], rtol=1e-5, atol=1e-4), name


def test_what_reconstructs_gives_images_and_finds_noise_stranger_than_its_own(kind):
    networks = published(kind, kind.begin(SIZE, 0))
    random = torch.Generator().manual_seed(0)
    images = batches(1)[0][:4]
    if not kind.reconstructs:
        with pytest.raises(NotImplementedError):
            kind.reconstruct(networks, images, random)
        return
    own = kind.reconstruct(networks, images, random)
    assert own.shape == images.shape
    assert not own.requires_grad
    scores = kind.anomaly(networks, torch.cat([own, images]), random)
    assert scores.shape == (8,)
    assert not scores.requires_grad
    assert scores[:4].max() < scores[4:].min()  # uniform noise is far from what freshly made networks paint


def test_options_change_the_networks_and_the_targets():
    wider = family("lebm", {"hidden": 7, "sigma": 0.5})
    networks = wider.build(SIZE)
    assert networks["f"].layers[0].out_features == 7
    assert wider.targets(networks)["posterior"].sigma == 0.5
    assert family("lebm") == family("lebm", {"hidden": 200, "sigma": 0.3})


@pytest.mark.parametrize(("options", "named"), [({"hiden": 3}, "hiden"), ({"hidden": 0}, "hidden"), ({"sigma": "x"}, "sigma")])
def test_a_wrong_option_is_refused_by_name(options, named):
    with pytest.raises(ValidationError, match=named):
        family("lebm", options)


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

"""SNGAN with classes and with output noise: trains, resumes, is served as it was trained, and a class decides what an image shows."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from models.families import family
from models.families.base import Size, published, spaces
from models.inference.prepared import prepare
from models.networks.conditional import OfClasses, ProjectionCritic
from models.targets.base import evaluate
from models.training.state import Account, restore, save

SIZE = Size(image_shape=(1, 8, 8), latent_size=6, width=8, classes=10)
LABELS = torch.arange(16) % 10
OPTIONS = [{"conditional": True}, {"conditional": True, "loss": "hinge", "critic_steps": 2}, {"output_noise": 0.1}]
OPTIONS.append({"conditional": True, "output_noise": 0.1})


def images(seed=3):
    return torch.rand(16, *SIZE.image_shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(params=OPTIONS, ids=str)
def kind(request):
    return family("sngan", request.param)


def weights(state):
    return torch.cat([parameter.flatten() for parameter in state.networks.parameters()])


def test_a_step_has_finite_losses_and_a_resumed_run_goes_on_bit_for_bit(kind, tmp_path):
    straight, first, second = kind.begin(SIZE, 1), kind.begin(SIZE, 1), kind.begin(SIZE, 99)
    for state, seed in ((straight, 1), (straight, 2), (first, 1)):
        figures = kind.train_step(state, images(seed), LABELS)
        assert all(figure.isfinite() for figure in figures.values())
    save(first, tmp_path, "same", Account())
    restore(second, tmp_path, "same")
    kind.train_step(second, images(2), LABELS)
    assert torch.equal(weights(straight), weights(second))


def test_a_step_neither_mixes_devices_nor_waits_for_one(kind):
    state = kind.begin(SIZE, 0, "meta")
    with FakeTensorMode(allow_non_fake_inputs=True):
        real, labels = torch.zeros(16, *SIZE.image_shape, device="meta"), torch.zeros(16, dtype=torch.int64, device="meta")
        for _ in range(2):
            figures = kind.train_step(state, real, labels)
    assert {figure.device.type for figure in figures.values()} == {"meta"}


def test_what_is_prepared_computes_the_same_energies_gradients_and_images(kind):
    plain = published(kind, kind.begin(SIZE, 0))
    classes = (LABELS,) if kind.takes_classes else ()
    found = []
    for networks in (plain, prepare(plain, torch.device("cpu"))):
        space, target = spaces(kind, networks, SIZE)["ddls"], kind.targets(networks)["ddls"]
        z = torch.randn(16, *space.shape, generator=torch.Generator().manual_seed(0))
        points = evaluate(target, z, *classes)
        found.append((points.energy, points.gradient, space.decode(z, *classes)))
    for there, here in zip(*found, strict=True):
        assert torch.allclose(there, here, atol=1e-5 * float(there.abs().max()))


def test_the_labels_decide_what_is_learnt_only_where_the_family_takes_classes(kind):
    states = [kind.begin(SIZE, 1) for _ in range(2)]
    for state, labels in zip(states, (LABELS, LABELS.flip(0)), strict=True):
        kind.train_step(state, images(), labels)
    assert torch.equal(*map(weights, states)) != kind.takes_classes


def test_critic_and_generator_see_the_classes_of_the_real_batch(monkeypatch):
    kind, seen = family("sngan", {"conditional": True, "critic_steps": 2}), []
    forward = OfClasses.forward
    monkeypatch.setattr(OfClasses, "forward", lambda self, inputs: seen.append((len(inputs), self.classes)) or forward(self, inputs))
    kind.train_step(kind.begin(SIZE, 0), torch.cat([images(1), images(2)]), torch.cat([LABELS, LABELS + 1]) % 10)
    # Each batch: a fake one, the critic on both; then the generator's turn on the last batch's classes.
    expected = [LABELS] * 3 + [(LABELS + 1) % 10] * 5
    assert len(seen) == len(expected)
    assert all(rows == 16 and torch.equal(classes, wanted) for (rows, classes), wanted in zip(seen, expected, strict=True))


def test_a_class_decides_what_an_image_shows_and_without_one_classes_take_turns():
    kind = family("sngan", {"conditional": True})
    space = spaces(kind, published(kind, kind.begin(SIZE, 0)), SIZE)["prior"]
    z = torch.randn(1, 6, generator=torch.Generator().manual_seed(0)).expand(20, 6)
    shown = space.decode(z)
    assert len(shown.unique(dim=0)) == 10
    assert torch.equal(shown, space.decode(z, torch.arange(20) % 10))


def test_the_projection_critic_adds_one_term_of_the_image_and_one_of_its_class():
    outputs = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    critic = ProjectionCritic(torch.nn.Identity(), 5)
    found = critic(outputs, torch.tensor([0, 4, 2, 2]))
    assert torch.allclose(found, outputs[:, 0] + outputs[[0, 1, 2, 3], [1, 5, 3, 3]])


def test_an_image_with_output_noise_is_the_generators_and_its_own_noise():
    kind = family("sngan", {"output_noise": 0.25})
    networks = published(kind, kind.begin(SIZE, 0))
    space = spaces(kind, networks, SIZE)["ddls"]
    assert space.shape == (6 + 64,)
    points = torch.randn(5, 70, generator=torch.Generator().manual_seed(0))
    clean = networks["generator"].generator(points[:, :6])
    assert torch.allclose(space.decode(points), clean + 0.25 * points[:, 6:].reshape(5, 1, 8, 8), atol=1e-6)
    assert torch.equal(networks["generator"](points[:, :6]), clean)  # as in training


def test_a_conditional_model_of_one_class_is_refused():
    with pytest.raises(ValueError, match="at least 2 classes"):
        family("sngan", {"conditional": True}).begin(SIZE.model_copy(update={"classes": 1}), 0)


def test_a_target_of_classes_without_a_class_says_so():
    kind = family("sngan", {"conditional": True})
    with pytest.raises(ValueError, match="needs one for each chain"):
        evaluate(kind.targets(published(kind, kind.begin(SIZE, 0)))["ddls"], torch.zeros(2, 6))

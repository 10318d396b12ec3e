"""Preparation changes the cost of a network, not what it computes."""

from pathlib import Path

import pytest
import torch
from torch import nn

from models.checkpoints import Store
from models.families import family, names
from models.families.base import Size, published
from models.inference.prepared import load, prepare
from models.targets.base import evaluate

SIZE = Size(image_shape=(1, 28, 28), latent_size=16, width=32)


@pytest.fixture(params=names())
def trained(request):
    """Networks after two training steps, so that running statistics and spectral norms are not at their start."""
    kind = family(request.param)
    state = kind.begin(SIZE, seed=0)
    for step in range(2):
        kind.train_step(state, torch.rand(8, *SIZE.image_shape, generator=torch.Generator().manual_seed(step)) * 2 - 1, torch.zeros(8))
    return kind, state


@pytest.mark.parametrize("library", [True, False], ids=["with the library's operators", "with plain layers"])
def test_outputs_agree_before_and_after_preparation(trained, monkeypatch, library):
    kind, state = trained
    if not library:
        monkeypatch.setattr("models.inference.folding.available", lambda device: False)
    plain = published(kind, state)
    ready = prepare(plain, torch.device("cpu"))
    z = torch.randn(9, SIZE.latent_size, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(kind.decoder(plain)(z), kind.decoder(ready)(z), atol=1e-5)
    images = torch.rand(9, *SIZE.image_shape, generator=torch.Generator().manual_seed(3))
    for name, target in kind.targets(plain).items():
        data = images if target.data == "image" else None
        start = kind.space(plain, SIZE, name).start(z).detach()
        there, here = evaluate(target, start, data), evaluate(kind.targets(ready)[name], start, data)
        assert torch.allclose(there.energy, here.energy, rtol=1e-5, atol=1e-5)
        assert torch.allclose(there.gradient, here.gradient, rtol=1e-5, atol=1e-5 * there.gradient.abs().max())


def test_published_networks_are_the_trained_ones_with_spectral_norm_settled(trained):
    kind, state = trained
    plain = published(kind, state)
    assert not any("parametrizations" in name for name in plain.state_dict())
    if "critic" in plain:
        images = torch.rand(4, *SIZE.image_shape, generator=torch.Generator().manual_seed(2))
        state.networks.eval()
        assert torch.allclose(state.networks["critic"](images), plain["critic"](images), atol=1e-5)


def test_prepared_networks_are_frozen_folded_and_in_eval_mode(trained):
    kind, state = trained
    ready = prepare(published(kind, state), torch.device("cpu"))
    assert not any(parameter.requires_grad for parameter in ready.parameters())
    assert not any(isinstance(module, nn.BatchNorm2d | nn.Dropout | nn.Dropout2d) for module in ready.modules())
    assert not any(module.training for module in ready.modules())


def test_a_shipped_checkpoint_loads_and_is_what_its_card_says():
    store = Store(Path("nowhere"))
    cards = store.cards()
    assert {"mnist-sngan", "mnist-lebm", "digits-sngan"} <= {card.name for card in cards}
    for card in cards:
        prepared = load(store, card, torch.device("cpu"))
        images = prepared.spaces["prior"].decode(torch.zeros(2, *card.latent_shape))
        assert images.shape == (2, *card.image_shape)
        assert set(card.samplers) - {"prior"} <= set(prepared.targets)


def test_the_gradient_of_a_shipped_checkpoint_has_the_same_bits_on_one_thread_and_on_two():
    store, before = Store(Path("nowhere")), torch.get_num_threads()
    try:
        for card in store.cards():
            prepared = load(store, card, torch.device("cpu"))
            for name in set(prepared.targets) - {"posterior"}:
                z = torch.randn(64, *prepared.spaces[name].shape, generator=torch.Generator().manual_seed(4))
                seen = []
                for threads in (1, 2):
                    torch.set_num_threads(threads)
                    seen.append(evaluate(load(store, card, torch.device("cpu")).targets[name], z))
                assert all(map(torch.equal, *seen)), (card.name, name)
    finally:
        torch.set_num_threads(before)

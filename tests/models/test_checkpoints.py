"""Checkpoints: complete or absent, verified on load, versions seen without a restart."""

import hashlib
import json
import threading

import pytest
import torch

from models.checkpoints import DamagedWeights, Kept, Store, UnknownModel
from tests.tiny_models import publish_tiny


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "published", tmp_path / "shipped")


def test_a_published_version_has_all_three_files_and_the_digest_of_its_weights(store):
    card = publish_tiny(store, "sngan", "tiny")
    folder = store.folder(card)
    assert {path.name for path in folder.iterdir()} == {"card.json", "weights.safetensors", "samples.png"}
    assert hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest() == card.digest
    assert store.weights(card).keys() == store.weights(store.card("tiny")).keys()


def test_versions_count_up_and_a_store_sees_what_another_publishes(store, tmp_path):
    publish_tiny(store, "lebm", "tiny")
    other = Store(tmp_path / "published", tmp_path / "shipped")
    assert other.card("tiny").version == 1
    publish_tiny(store, "lebm", "tiny")
    assert other.card("tiny").version == 2
    assert other.versions("tiny") == [1, 2]
    assert other.card("tiny", 1).version == 1


def test_publishers_at_the_same_time_take_different_numbers(store):
    threads = [threading.Thread(target=publish_tiny, args=(store, "lebm", "tiny")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.versions("tiny") == [1, 2, 3, 4]
    assert not list((store.root / "tiny").glob(".draft-*"))


def test_a_version_published_here_goes_on_from_the_shipped_one(store, tmp_path):
    publish_tiny(Store(tmp_path / "shipped", tmp_path / "none"), "lebm", "tiny")
    assert publish_tiny(store, "lebm", "tiny").version == 2


def test_an_unknown_model_names_the_choices(store):
    publish_tiny(store, "lebm", "tiny")
    with pytest.raises(UnknownModel, match="tiny") as caught:
        store.card("tinny")
    assert caught.value.choices == ("tiny",)
    with pytest.raises(UnknownModel) as caught:
        store.card("tiny", 7)
    assert caught.value.choices == ("tiny@1",)


def test_damaged_weights_are_never_loaded(store):
    card = publish_tiny(store, "lebm", "tiny")
    path = store.folder(card) / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(DamagedWeights, match="sha256"):
        store.weights(card)


def test_a_folder_without_a_card_is_no_checkpoint(store):
    card = publish_tiny(store, "lebm", "tiny")
    (store.folder(card) / "card.json").unlink()
    assert Store(store.root, store.root / "none").cards() == []


def test_a_card_that_cannot_be_read_does_not_hide_the_others(store):
    publish_tiny(store, "lebm", "good")
    damaged = publish_tiny(store, "lebm", "damaged")
    path = store.folder(damaged) / "card.json"
    path.write_text(json.dumps({"name": "damaged"}))
    assert [card.name for card in Store(store.root, store.root / "none").cards()] == ["good"]


def test_a_publication_that_fails_leaves_nothing_behind(store):
    card = publish_tiny(store, "lebm", "tiny")
    with pytest.raises(TypeError):
        store.publish(card, {"weights": torch.zeros(2)}, None)
    assert store.versions("tiny") == [1]
    assert not list((store.root / "tiny").glob(".draft-*"))


def published(store, card):
    """Another version of a model, not promoted."""
    return store.publish(card, store.weights(card), b"").version


@pytest.mark.parametrize("shipped", [False, True])
def test_a_new_version_is_the_default_only_when_it_is_promoted(store, tmp_path, shipped):
    first = publish_tiny(Store(tmp_path / "shipped", tmp_path / "none") if shipped else store, "lebm", "tiny")
    assert published(store, first) == 2
    other = Store(tmp_path / "published", tmp_path / "shipped")
    assert (other.card("tiny").version, [card.version for card in other.cards()], other.versions("tiny")) == (1, [1], [1, 2])
    store.promote("tiny", 2)
    assert other.card("tiny").version == 2
    assert published(store, first) == 3
    store.promote("tiny", 1)
    assert other.card("tiny").version == other.default("tiny") == 1
    with pytest.raises(UnknownModel):
        store.promote("tiny", 4)


def test_the_first_version_is_the_default_and_so_is_the_newest_of_a_folder_that_names_none(store):
    card = publish_tiny(store, "lebm", "tiny")
    (store.root / "tiny" / "default").unlink()
    assert store.default("tiny") == 1
    published(store, card)
    (store.root / "tiny" / "default").write_text("no number")
    assert store.card("tiny").version == 2


def test_a_deleted_version_is_gone_and_its_number_is_not_given_again(store, tmp_path):
    card = publish_tiny(store, "lebm", "tiny")
    published(store, card)
    other = Store(tmp_path / "published", tmp_path / "shipped")
    assert other.card("tiny", 2).version == 2
    store.delete("tiny", 2)
    with pytest.raises(UnknownModel):
        other.card("tiny", 2)
    assert published(store, card) == 3
    assert other.versions("tiny") == [1, 3]


def test_the_default_and_shipped_versions_are_kept(store, tmp_path):
    card = publish_tiny(Store(tmp_path / "shipped", tmp_path / "none"), "lebm", "tiny")
    with pytest.raises(Kept, match="default"):
        store.delete("tiny", 1)
    published(store, card)
    store.promote("tiny", 2)
    with pytest.raises(Kept, match="shipped"):
        store.delete("tiny", 1)


def test_a_name_has_the_owner_that_claimed_it_first(store):
    assert store.owner("tiny") is None
    assert store.claim("tiny", "alice") == "alice"
    assert store.claim("tiny", "bob") == store.owner("tiny") == "alice"
    assert store.cards() == []
    store.release("tiny")
    assert not (store.root / "tiny").exists()
    card = publish_tiny(store, "lebm", "tiny")
    assert store.claim("tiny", card.name) == "tiny"
    store.release("tiny")
    assert store.owner("tiny") == "tiny"

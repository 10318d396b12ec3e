"""A checkpoint's files over HTTP, as they are on disk."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from models.cards import ModelCard
from models.checkpoints import Store
from service.client import Client, Misunderstood
from service.client.exchange import stored
from service.settings import Settings
from tests.service.conftest import serving
from tests.tiny_models import publish_tiny


@pytest.fixture
def tiny(settings: Settings, tmp_path: Path) -> Store:
    store = Store(tmp_path / "checkpoints", tmp_path / "none")
    publish_tiny(store, "lebm", "tiny")
    return store


@pytest.fixture
def there(settings: Settings, tiny: Store, broker) -> Iterator[str]:
    with serving(settings, tiny) as address:
        yield address


def test_card_and_weights_come_as_they_are_and_make_a_checkpoint_elsewhere(there: str, tiny: Store, tmp_path: Path) -> None:
    with Client(there) as ebbtide:
        folder = ebbtide.download("tiny", tmp_path / "elsewhere" / "tiny" / "1")
    here = tiny.root / "tiny" / "1"
    for name in ("card.json", "weights.safetensors"):
        assert (folder / name).read_bytes() == (here / name).read_bytes()
    elsewhere = Store(tmp_path / "elsewhere", tmp_path / "none")
    assert elsewhere.weights(elsewhere.card("tiny")).keys() == tiny.weights(tiny.card("tiny")).keys()


def test_weights_that_are_not_there_are_told(api: httpx.Client) -> None:
    answer = api.get("/models/toy@1/weights.safetensors")
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:ebbtide:no-weights")
    assert api.get("/models/unheard-of/weights.safetensors").status_code == 404
    assert api.get("/models/toy@1/card.json").json()["version"] == 1


def test_weights_that_were_damaged_on_the_way_are_not_written(tiny: Store, tmp_path: Path) -> None:
    card = (tiny.root / "tiny/1/card.json").read_bytes()
    weights = (tiny.root / "tiny/1/weights.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == ModelCard.model_validate_json(card).digest
    with pytest.raises(Misunderstood, match="not those the card describes"):
        stored(tmp_path / "x", card, weights[:-1], hashlib.sha256(weights).hexdigest())
    assert not (tmp_path / "x").exists()

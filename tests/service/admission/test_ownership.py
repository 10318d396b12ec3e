"""Whose models are whose, which version is the default, and who may change either."""

import json
import shutil
from collections.abc import Iterator

import httpx
import pytest

from models.checkpoints import Store
from service.settings import Settings
from tests.service.admission.conftest import Guarded
from tests.service.conftest import CARD
from workers.queue.broker import Broker

TRAIN = {"family": "sngan", "dataset": "digits", "steps": 1, "width": 4, "latent_size": 2, "calibrate": False}
SAMPLE = {"sampler": "prior"}


def publish(store: Store, name: str, version: int) -> None:
    """Puts a version without weights there, as a training worker would."""
    folder = store.root / name / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "card.json").write_text(json.dumps(CARD | {"name": name, "version": version}))


@pytest.fixture
def mine(store: Store, guarded: Guarded) -> Iterator[httpx.Client]:
    """A client whose key owns the model `mine`, of three versions of which the first is the default."""
    alice = guarded("alice", "train", "generate")
    assert alice.post("/train", json={"name": "mine"} | TRAIN).status_code == 202
    publish(store, "mine", 1)
    store.promote("mine", 1)
    publish(store, "mine", 2)
    publish(store, "mine", 3)
    yield alice
    shutil.rmtree(store.root / "mine")


def test_a_name_belongs_to_the_key_that_trains_it_first(mine: httpx.Client, guarded: Guarded) -> None:
    bob, admin = guarded("bob", "train"), guarded("root")
    for path, body in (
        ("/train", {"name": "mine"} | TRAIN),
        ("/train", {"name": "toy"} | TRAIN),
        ("/models/toy@2/calibrate", {}),
        ("/models/mine@2/promote", None),
        ("/models/toy@1/promote", None),
    ):
        answer = bob.post(path, json=body)
        assert (answer.status_code, answer.json()["type"]) == (403, "urn:ebbtide:forbidden"), path
        assert "'admin'" in answer.json()["detail"]
    assert mine.post("/train", json={"name": "mine"} | TRAIN).status_code == 202
    assert admin.post("/train", json={"name": "mine"} | TRAIN).status_code == 202


def test_a_request_that_is_refused_claims_no_name(guarded: Guarded, store: Store, settings: Settings) -> None:
    alice = guarded("alice", "train")
    assert alice.post("/train", json={"name": "wide"} | TRAIN | {"width": 1024, "steps": 10**6}).status_code == 422
    assert store.owner("wide") is None
    for index in range(settings.max_training_backlog):
        assert alice.post("/train", json={"name": f"n{index}"} | TRAIN).status_code == 202
    assert alice.post("/train", json={"name": "late"} | TRAIN).status_code == 429
    assert store.owner("late") is None
    for index in range(settings.max_training_backlog):
        store.release(f"n{index}")
        assert store.owner(f"n{index}") is None


def test_a_promoted_version_is_what_requests_without_one_get(mine: httpx.Client, broker: Broker) -> None:
    assert mine.get("/models/mine").json()["version"] == 1
    promoted = mine.post("/models/mine@3/promote")
    assert (promoted.status_code, promoted.json()["version"], promoted.json()["default_version"]) == (200, 3, 3)
    for version in (3, 1):  # and back
        assert mine.post(f"/models/mine@{version}/promote").status_code == 200
        answer = mine.post("/generate", json={"model": "mine"} | SAMPLE, headers={"Prefer": "respond-async"})
        assert broker.view(answer.headers["x-ebbtide-job"]).job.version == version


@pytest.mark.parametrize(("reference", "status"), [("mine", 422), ("mine@9", 404), ("none@1", 404), ("MINE@1", 404), ("..@1", 404)])
def test_what_is_promoted_or_deleted_must_be_a_version_that_there_is(
    reference: str, status: int, mine: httpx.Client, guarded: Guarded
) -> None:
    assert mine.post(f"/models/{reference}/promote").status_code == status
    assert guarded("root").delete(f"/models/{reference}").status_code == status


def test_an_admin_deletes_versions_but_the_default(mine: httpx.Client, guarded: Guarded) -> None:
    admin = guarded("root")
    assert mine.delete("/models/mine@3").status_code == 403
    refused = admin.delete("/models/mine@1")
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:ebbtide:kept")
    assert admin.delete("/models/mine@3").status_code == 204
    assert admin.get("/models/mine").json()["versions"] == [1, 2]
    assert admin.get("/models/mine@3").status_code == 404
    assert admin.post("/generate", json={"model": "mine@3"}).status_code == 422


def test_on_a_server_without_keys_everybody_on_the_machine_may(api: httpx.Client, store: Store) -> None:
    publish(store, "open", 1)
    store.promote("open", 1)
    publish(store, "open", 2)
    assert api.post("/train", json={"name": "open"} | TRAIN).status_code == 202
    assert store.owner("open") is None
    assert api.post("/models/open@2/promote").status_code == 200
    assert api.delete("/models/open@1").status_code == 204
    shutil.rmtree(store.root / "open")

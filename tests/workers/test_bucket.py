"""Checkpoints in a bucket: what one machine publishes, promotes or deletes, others see; on a server that speaks S3."""

import threading
from pathlib import Path

import pytest

from models.checkpoints import DamagedWeights, Kept, Store, StoreUnavailable, UnknownModel
from models.shared_checkpoints import SharedStore
from tests.tiny_models import publish_tiny
from workers.bucket import FilesystemBucket, open_store
from workers.engine.engine import Engine, EngineSettings
from workers.jobs import GenerateJob
from workers.messages import Finished
from workers.settings import WorkerSettings


@pytest.fixture
def machines(s3: str, tmp_path: Path) -> tuple[SharedStore, SharedStore]:
    """Two machines, each with a copy of its own."""
    here, there = (SharedStore(tmp_path / name, FilesystemBucket(s3), tmp_path / "shipped") for name in ("here", "there"))
    return here, there


def another(store: SharedStore, name: str) -> int:
    card = store.card(name)
    return store.publish(card, store.weights(card), b"picture").version


def test_a_version_appears_elsewhere_with_its_card_and_picture_and_its_weights_when_they_are_used(machines, tmp_path):
    here, there = machines
    card = publish_tiny(here, "lebm", "tiny")
    there.refresh()
    assert [found.digest for found in there.cards()] == [card.digest]
    folder = there.folder(card)
    assert {path.name for path in folder.iterdir()} == {"card.json", "samples.png", "taken"}
    assert there.weights(card).keys() == here.weights(card).keys()
    assert (folder / "weights.safetensors").exists()


def test_an_engine_finds_a_version_that_was_published_a_moment_ago(machines):
    here, there = machines
    card = publish_tiny(here, "sngan", "tiny")
    with pytest.raises(UnknownModel):
        there.card("tiny", 1)  # the API does not wait for the bucket
    engine = Engine(there, EngineSettings(capacity=4), lambda event: None)
    about = {"model": "tiny", "version": 1, "digest": card.digest, "sampler": "prior", "mcmc": None, "num_images": 2, "seed": 7}
    engine.admit("job", GenerateJob.model_validate(about), None)
    outcomes = []
    while engine.busy:
        outcomes += engine.tick()
    assert [type(outcome) for outcome in outcomes] == [Finished]


def test_a_folder_with_versions_of_its_own_is_refused_and_stays_as_it_is(s3, tmp_path):
    own = publish_tiny(Store(tmp_path / "here", tmp_path / "none"), "lebm", "mine")
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=r"mine/1 was not copied from the bucket.*EBBTIDE_CHECKPOINTS"):
            open_store(WorkerSettings(checkpoint_bucket=s3, checkpoints=tmp_path / "here"))
    assert Store(tmp_path / "here", tmp_path / "none").weights(own)


def test_a_copy_that_fails_half_way_leaves_nothing(machines, monkeypatch):
    here, there = machines
    publish_tiny(here, "lebm", "tiny")

    def get(self, path):
        raise StoreUnavailable("away")

    with monkeypatch.context() as away:
        away.setattr(FilesystemBucket, "get", get)
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                there.refresh()
    assert not [path.name for path in (there.root / "tiny").iterdir()]
    there.refresh()
    assert there.versions("tiny") == [1]


def test_promotions_and_deletions_are_seen_elsewhere_and_numbers_are_not_given_again(machines):
    here, there = machines
    publish_tiny(here, "lebm", "tiny")
    assert another(here, "tiny") == 2
    there.refresh()
    assert (there.default("tiny"), there.versions("tiny")) == (1, [1, 2])
    there.promote("tiny", 2)
    here.refresh()
    assert here.default("tiny") == 2
    with pytest.raises(Kept):
        here.delete("tiny", 2)
    here.delete("tiny", 1)
    there.refresh()
    assert there.versions("tiny") == [2]
    assert another(there, "tiny") == 3
    here.promote("tiny", 3)
    here.delete("tiny", 2)
    assert another(here, "tiny") == 4


def test_publishers_on_two_machines_take_different_numbers(machines):
    publish_tiny(machines[0], "lebm", "tiny")
    machines[1].refresh()
    threads = [threading.Thread(target=another, args=(machine, "tiny")) for machine in machines for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for machine in machines:
        machine.refresh()
        assert machine.versions("tiny") == [1, 2, 3, 4, 5]
        assert machine.default("tiny") == 1


def test_a_name_is_claimed_once(machines):
    here, there = machines
    assert here.claim("tiny", "alice") == "alice"
    assert there.claim("tiny", "bob") == "alice"
    there.release("tiny")
    assert here.claim("tiny", "bob") == "bob"
    there.refresh()
    assert there.owner("tiny") == "bob"


def test_weights_that_were_damaged_on_the_way_are_not_loaded(machines, s3):
    card = publish_tiny(machines[0], "lebm", "tiny")
    FilesystemBucket(s3).put("tiny/1/weights.safetensors", b"damaged")
    machines[1].refresh()
    with pytest.raises(DamagedWeights):
        machines[1].weights(card)


def test_a_bucket_that_refuses_is_told_at_the_start_and_what_is_here_serves_on(machines, s3, s3_refuses, tmp_path):
    here, _ = machines
    card = publish_tiny(here, "lebm", "tiny")
    settings = WorkerSettings(checkpoint_bucket=s3, checkpoints=tmp_path / "new")
    with s3_refuses():
        with pytest.raises(StoreUnavailable, match=r"EBBTIDE_CHECKPOINT_BUCKET.*cannot be used.*(Access Key Id|Forbidden)"):
            open_store(settings)
        with pytest.raises(StoreUnavailable):
            here.promote("tiny", 1)
        assert here.card("tiny").digest == card.digest
    assert open_store(settings).card("tiny").digest == card.digest

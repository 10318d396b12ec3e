"""A conditional SNGAN from training to pictures: trained on real digits, published, and asked for classes over HTTP."""

from pathlib import Path
from typing import Any

import pytest

from models.checkpoints import Store
from models.images import read_text
from models.training.trainer import TrainSettings, train
from tests.models.training.reporters import Silent
from tests.system.house import opened

pytestmark = pytest.mark.system
SETTINGS = TrainSettings(
    name="tiny-classes", family="sngan", dataset="digits", steps=40, batch_size=16, width=8, latent_size=8, seed=1, calibrate=True
).model_copy(update={"options": {"conditional": True}})


def test_a_conditional_model_is_trained_published_and_served_by_class(valkey_url: str, redis: Any, tmp_path: Path) -> None:
    store = Store(tmp_path / "checkpoints", tmp_path / "nothing-shipped")
    card = train(SETTINGS, run_folder=tmp_path / "run", store=store, command="", reporter=Silent())
    assert (card.classes, card.options["conditional"], set(card.samplers)) == (10, True, {"prior", "ddls"})
    with opened(valkey_url, tmp_path / "checkpoints", tmp_path / "data") as house:
        house.start_generation()
        for sampler in ("prior", "ddls"):
            asked = {"model": "tiny-classes", "sampler": sampler, "num_images": 2, "seed": 3}
            jobs = house.submit_all([asked | {"class": label} for label in (7, 2, [7, 2])] + [asked])
            images = []
            for job in jobs:
                house.finished(job)
                images.append(house.images(job))
            seven, two, turns, drawn = images
            assert len({*seven, *two}) == 4
            assert [read_text(image)["class"] for image in (*seven, *two, *turns)] == ["7", "7", "2", "2", "7", "2"]
            labels = house.job(jobs[3])["job"]["data"]["labels"]
            assert [read_text(image)["class"] for image in drawn] == [str(label) for label in labels]

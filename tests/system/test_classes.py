"""A conditional SNGAN from training to pictures: trained on real digits, published, and asked for classes over HTTP."""

from pathlib import Path
from typing import Any

import pytest
import torch

from models import datasets
from models.calibration.settings import RatioHead
from models.cards import Training
from models.checkpoints import Store
from models.families import family
from models.families.base import Size, published
from models.images import read_text
from models.training import publication
from models.training.measurement import Trained
from models.training.progress import Stages
from tests.models.training.test_publication import quick
from tests.system.house import opened

pytestmark = pytest.mark.system
SIZE = Size(image_shape=(1, 8, 8), latent_size=4, width=8, classes=10)


def test_a_conditional_model_is_trained_calibrated_published_and_served_by_class(
    valkey_url: str, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits, kind = datasets.load("digits"), quick(family("sngan", {"conditional": True}))
    few, state = type(splits)(*(split.first(70) for split in splits)), kind.begin(SIZE, 0)
    for images, labels in zip(splits.train.images.split(64)[:10], splits.train.labels.split(64), strict=False):
        kind.train_step(state, images, labels)
    origin = Training(command="", dataset="digits", steps=10, seed=0, seconds=0, torch="")
    trained = Trained("tiny-classes", "sngan", kind, published(kind, state), SIZE, origin, torch.device("cpu"))
    monkeypatch.setattr(publication, "RatioHead", lambda: RatioHead(steps=8))
    card = publication.publish(trained, few, Store(tmp_path / "checkpoints", tmp_path / "none"), Stages(), calibrate=True)
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

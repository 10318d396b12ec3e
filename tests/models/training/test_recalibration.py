"""A published version gets another density ratio as the next version, or nothing is published and the reason is said."""

import pytest
import torch

from models import datasets
from models.calibration.settings import Logistic, RatioHead
from models.checkpoints import Store
from models.inference.prepared import load
from models.training.calibration import Plan
from models.training.recalibration import CalibrationStopped, NoGain, Unfit, recalibrate
from tests.tiny_models import publish_tiny

CPU = torch.device("cpu")


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def few(monkeypatch) -> None:
    """Datasets with few images to report on."""
    whole = datasets.load

    def load_some(name: str) -> datasets.Splits:
        return whole(name)._replace(test=whole(name).test.first(100))

    monkeypatch.setattr(datasets, "load", load_some)


def again(store: Store, name: str, settings, *, dataset="digits", stop=lambda: False):
    return recalibrate(store.card(name), Plan(settings, dataset, 5), store=store, device=CPU, should_stop=stop)


def test_a_version_with_another_ratio_is_the_next_one(store, few):
    before = store.card("digits-sngan")
    card = again(store, "digits-sngan", RatioHead(steps=150))
    assert (card.version, card.family, card.training) == (before.version + 1, before.family, before.training)
    assert card.calibration.validation.fid_reweighted < card.calibration.validation.fid_prior
    assert (card.calibration.dataset, card.calibration.seed, card.calibration.settings["steps"]) == ("digits", 5, 150)
    assert (store.folder(card) / "reliability.png").is_file()
    old, new = store.weights(before), store.weights(card)
    assert all(torch.equal(old[name], new[name]) for name in old if not name.startswith("ratio."))
    assert not torch.equal(old["ratio.layers.0.weight"], new["ratio.layers.0.weight"])
    load(store, card, CPU)


def test_what_does_not_help_is_not_published(store, few):
    publish_tiny(store, "sngan", "toy")  # all its images are nearly the same, and its critic knows nothing
    with pytest.raises(NoGain, match="logistic on digits: reweighting takes FID on validation from .* nothing was published"):
        again(store, "toy", Logistic())
    assert store.versions("toy") == [1]


def test_a_family_without_a_ratio_is_refused(store, few):
    publish_tiny(store, "lebm", "toy")
    with pytest.raises(Unfit, match="lebm, whose samplers need no calibration"):
        again(store, "toy", Logistic())


def test_images_of_another_shape_are_refused(store, few):
    publish_tiny(store, "sngan", "toy")
    with pytest.raises(Unfit, match=r"mnist has images of \(1, 28, 28\), toy@1 of \(1, 8, 8\)"):
        again(store, "toy", Logistic(), dataset="mnist")


def test_a_calibration_stops_when_asked_to(store, few):
    publish_tiny(store, "sngan", "toy")
    with pytest.raises(CalibrationStopped, match="toy@1"):
        again(store, "toy", RatioHead(), stop=lambda: True)
    assert store.versions("toy") == [1]

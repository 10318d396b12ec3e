"""A checkpoint measured again: oracles resample exactly, rows are named, and a sampler that is not there is refused."""

import math
from functools import partial

import pytest
import torch

from models.cards import ModelCard
from models.checkpoints import Store
from models.metrics.base import Draws, Evaluator, log_probabilities_of
from models.metrics.classes import measure as measure_classes
from models.training import evaluation
from models.training.evaluation import EvaluationSettings, Oracle, chosen, evaluate, resampled
from tests.tiny_models import publish_tiny

CPU = torch.device("cpu")


@pytest.fixture
def published(tmp_path) -> tuple[Store, ModelCard]:
    store = Store(tmp_path)
    return store, publish_tiny(store, "sngan", "tiny")


def test_resampling_by_the_true_ratio_gives_the_target():
    # p0 = N(0, 1), p = N(1/2, 1): log p/p0 = x/2 - 1/8, and the weights' effective share is exp(-1/4).
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(4))
    rows = resampled(x / 2 - 1 / 8, 50_000, torch.Generator().manual_seed(5))
    assert len(rows) == 50_000
    assert abs(x[rows].mean() - 0.5) < 4 * math.sqrt(1 / 50_000 + 1 / (len(x) * math.exp(-0.25)))


def test_balanced_classes_are_those_of_the_data(adversarial, validation):
    few, seed = Oracle(adversarial, 4000), 0
    found = measure_classes(few.balanced(validation, seed), validation)["class-distance"]
    drawn = Draws(adversarial.draws("prior", None, seed).images).log_probabilities(validation.extractor).argmax(1).unique()
    real = log_probabilities_of(validation.features, validation.extractor).argmax(1)
    missing = float((~torch.isin(real, drawn)).double().mean())  # no resampling brings a class that was never drawn
    assert found == pytest.approx(missing, abs=4 * math.sqrt(10 / 4000 / 4))


def test_every_row_is_measured_and_named(published, part, monkeypatch):
    monkeypatch.setattr(evaluation, "Evaluator", partial(Evaluator, epochs=2))
    heard = []
    settings = EvaluationSettings(images=20, seeds=2, oracle=True)
    found = evaluate(*published, part, settings, device=CPU, report=heard.append)
    assert heard == ["prior", "ddls", "classes-balanced", "ddls-reweighted"]
    assert list(dict.fromkeys(row.sampler for row in found.metrics)) == heard
    assert {row.images for row in found.metrics} == {20}
    assert {row.seeds for row in found.metrics} == {(0, 1)}
    assert (found.model, found.digest) == ("tiny", published[1].digest)


def test_a_sampler_that_the_card_does_not_offer_is_refused_with_the_choices(published):
    with pytest.raises(ValueError, match="samplers: tiny offers no 'pixel'; choices: prior, ddls"):
        chosen(published[1], EvaluationSettings(samplers=("pixel",)))

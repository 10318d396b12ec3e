"""Rows of a card: figures of several seeds in every extractor on `test`, with what real images get."""

from statistics import mean, stdev

import pytest
import torch

from models.datasets import Split, Splits
from models.metrics.base import Draws
from models.metrics.fid import distance
from models.training.judging import Judge
from models.training.publication import images_to_draw, measured

SEEDS = (0, 1)


@pytest.fixture(scope="module")
def judge(part, quick_evaluator):
    return Judge.on_test(quick_evaluator, part, 100)


def test_a_row_is_the_mean_over_seeds_with_spread_floor_split_and_extractor(judge, part, quick_evaluator):
    def draw(seed: int) -> Draws:
        return Draws(part.train.images + 0.3 * torch.randn(part.train.images.shape, generator=torch.Generator().manual_seed(seed)))

    rows = {(row.name, row.extractor): row for row in judge.judged("noisy", draw, SEEDS)}
    for name in quick_evaluator.names:
        reference = quick_evaluator.against(part.test, name)
        row, values = rows["fid", quick_evaluator.describe(name)], [distance(draw(seed).images, reference) for seed in SEEDS]
        assert row.value == pytest.approx(mean(values), rel=1e-3)
        assert row.spread == pytest.approx(stdev(values), rel=1e-3)
        assert row.floor == pytest.approx(distance(part.validation.images[:100], reference), rel=1e-3)
        assert (row.split, row.sampler, row.images, row.seeds) == ("test", "noisy", 128, SEEDS)
        assert row.floor < row.value
    assert rows["parzen", None].floor is not None
    named = {name for name, extractor in rows if extractor == quick_evaluator.describe("perceptron")}
    assert named >= {"fid", "kid", "precision", "recall", "density", "coverage", "confidence", "class-distance", "modes"}


def test_reconstructions_are_judged_as_such_and_a_class_never_seen_is_told_apart(latent, part, quick_evaluator):
    known = part.train.labels != 3
    lacking = Splits(Split(part.train.images[known], part.train.labels[known]), part.validation, part.test.first(12), part.evaluator)
    judge = Judge.on_test(quick_evaluator, lacking, 100)
    rows = {(row.sampler, row.name): row for row in measured(latent, {"prior": None}, judge)}
    assert {name for sampler, name in rows if sampler == "posterior"} == {"reconstruction-mse", "auprc"}
    assert 0 < rows["posterior", "reconstruction-mse"].value < 1
    assert ("prior", "auprc") not in rows
    seen = latent.explain(part.test.first(5), torch.arange(10), 0)
    assert seen.explained.strange is None  # it saw every class


def test_a_dear_sampler_is_measured_on_fewer_images(adversarial):
    kernel = adversarial.kind.samplers()["ddls"]
    dear = {**adversarial.operations, "ddls": 10**9}
    assert images_to_draw(adversarial, {"prior": None, "ddls": kernel}, 600) == 600
    assert images_to_draw(type(adversarial)(**{**vars(adversarial), "operations": dear}), {"ddls": kernel}, 600) == 500

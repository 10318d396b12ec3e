"""A calibration is made the same by the same seed, kept only where it helps, and an oracle tells a good ratio from a bad one."""

import math

import pytest
import torch

from models import datasets
from models.cards import Training
from models.families import family
from models.families.base import Size, published
from models.metrics.base import Evaluator
from models.training.calibration import calibrated, reweighted
from models.training.measurement import Trained

SIZE = Size(image_shape=(1, 8, 8), latent_size=4, width=8)


@pytest.fixture(scope="module")
def few():
    """A part of a dataset."""
    splits = datasets.load("digits")
    return type(splits)(*(split.first(128) for split in splits))


@pytest.fixture(scope="module")
def reference(few):
    return Evaluator(few.evaluator, "digits", epochs=1).against(few.validation)


def trained(seed: int) -> Trained:
    kind = family("sngan")
    origin = Training(command="", dataset="digits", steps=0, seed=seed, seconds=0, torch="")
    return Trained("tiny", "sngan", kind, published(kind, kind.begin(SIZE, 0)), SIZE, origin, torch.device("cpu"))


def fitted(few, reference, seed: int) -> torch.Tensor:
    """The weights of the ratio head right after it was fitted."""
    subject, seen = trained(seed), []
    weights = subject.networks["ratio"].parameters
    calibrated(subject, few, reference, lambda: seen.append(torch.cat([weight.detach().flatten() for weight in weights()])))
    return seen[0]


def test_the_same_seed_fits_the_same_calibration_and_another_does_not(few, reference):
    first = fitted(few, reference, 1)
    torch.rand(3)  # what the process drew before makes no difference
    assert torch.equal(first, fitted(few, reference, 1))
    assert not torch.equal(first, fitted(few, reference, 2))


def test_a_calibration_that_does_not_help_is_undone(few, reference):
    subject = trained(1)
    assert calibrated(subject, few, reference, lambda: None) is None
    for name, weight in subject.networks["critic"].state_dict().items():
        assert torch.equal(subject.networks["ratio"].state_dict()[name], weight)


def test_resampling_by_the_true_ratio_gives_the_data():
    # p_g = N(0, 1), p_d = N(1/2, 1): d* = x/2 - 1/8, and the weights' effective fraction is exp(-1/4).
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(4))
    rows, share = reweighted(x / 2 - 1 / 8, torch.Generator().manual_seed(5))
    effective = len(x) * math.exp(-0.25) / (1 + math.exp(-0.25))  # resampling adds its own noise
    assert abs(x[rows].mean() - 0.5) < 4 / math.sqrt(effective)
    assert share == pytest.approx(math.exp(-0.25), rel=0.03)

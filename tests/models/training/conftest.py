"""A tiny model that never was trained and a part of the digits, for tests of what measures models."""

import pytest
import torch

from models import datasets
from models.cards import Training
from models.datasets import Splits
from models.families import family
from models.families.base import Size, published
from models.metrics.base import Evaluator, Reference
from models.training.measurement import Subject, Trained


@pytest.fixture(scope="session")
def part() -> Splits:
    """128 images of each part of the digits."""
    splits = datasets.load("digits")
    return Splits(*(split.first(128) for split in splits))


@pytest.fixture(scope="session")
def quick_evaluator(part: Splits) -> Evaluator:
    return Evaluator(part.evaluator, "digits", epochs=2)


@pytest.fixture(scope="session")
def validation(part: Splits, quick_evaluator: Evaluator) -> Reference:
    return quick_evaluator.against(part.validation)


def untrained(name: str) -> Trained:
    """A model of a family with fresh weights."""
    kind, size = family(name), Size(image_shape=(1, 8, 8), latent_size=4, width=8)
    origin = Training(command="", dataset="digits", steps=0, seed=1, seconds=0, torch="")
    return Trained("tiny", name, kind, published(kind, kind.begin(size, 0)), size, origin, torch.device("cpu"))


@pytest.fixture(scope="session")
def adversarial() -> Subject:
    return Subject.of(untrained("sngan"), 40)


@pytest.fixture(scope="session")
def latent() -> Subject:
    """One that infers latents."""
    return Subject.of(untrained("lebm"), 40)

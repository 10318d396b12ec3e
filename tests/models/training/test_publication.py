"""Every family publishes: the card offers what was measured, and keeps back what a missing calibration forbids."""

import pytest
import torch

from models import datasets
from models.cards import Training
from models.checkpoints import Store
from models.families import family, names
from models.families.base import Family, Size, published
from models.training.measurement import Trained
from models.training.progress import Stages
from models.training.publication import publish

SIZE = Size(image_shape=(1, 8, 8), latent_size=4, width=8)


@pytest.fixture(scope="module")
def few():
    """A part of a dataset."""
    splits = datasets.load("digits")
    return type(splits)(*(split.first(70) for split in splits))


def quick(kind: Family) -> Family:
    """The same family with chains of one step."""
    samplers = {name: kernel and kernel.model_copy(update={"steps": 1, "step_size": 1e-3}) for name, kernel in kind.samplers().items()}
    return type(f"Quick{type(kind).__name__}", (type(kind),), {"samplers": lambda self: samplers})(**kind.model_dump())


@pytest.mark.parametrize("name", names())
def test_every_family_publishes_what_it_may_offer_without_a_calibration(name, few, tmp_path):
    kind = quick(family(name))
    networks = published(kind, kind.begin(SIZE, 0))
    origin = Training(command="", dataset="digits", steps=0, seed=0, seconds=0, torch="")
    trained = Trained("tiny", name, kind, networks, SIZE, origin, torch.device("cpu"))
    told = []
    card = publish(trained, few, Store(tmp_path, tmp_path / "none"), Stages(lambda *what: told.append(what)), calibrate=False)
    offered = set(kind.samplers()) - set(kind.only_calibrated)
    assert set(card.samplers) == offered
    done, total, stage = told[-1]
    assert (done, stage) == (total, "measuring")
    assert {metric.sampler for metric in card.metrics} == offered | ({"posterior"} if kind.reconstructs else set())
    assert card.default_sampler in offered
    assert set(card.remarks) <= offered
    assert family(name, card.options) == family(name)

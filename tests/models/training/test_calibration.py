"""A calibration is kept only where it helps, is the same after a kill, and its card says on `test` what was kept."""

import pytest
import torch
from torch import nn

from models import datasets
from models.calibration.assessment import needed_gain
from models.calibration.evidence import Evidence
from models.calibration.settings import Isotonic, Logistic, RatioHead
from models.cards import Training
from models.checkpoints import Store
from models.datasets import Split
from models.families import family
from models.families.base import Size, published
from models.inference.prepared import load
from models.metrics.base import Evaluator
from models.metrics.fid import distance
from models.training.calibration import Judges, Outcome, Plan, calibrated, uncalibrated
from models.training.measurement import Trained
from models.training.progress import Stages
from models.training.publication import place

SIZE = Size(image_shape=(1, 8, 8), latent_size=4, width=8)
CPU = torch.device("cpu")
STEPS = RatioHead(steps=80)


@pytest.fixture(scope="module")
def few() -> datasets.Splits:
    """A part of a dataset."""
    splits = datasets.load("digits")
    return type(splits)(*(split.first(128) for split in splits))


@pytest.fixture(scope="module")
def judges(few) -> Judges:
    evaluator = Evaluator(few.evaluator, "digits", epochs=2)
    return Judges(evaluator.against(few.validation), evaluator.against(few.test))


class HalfWrong(nn.Module):
    """Latents to digits, of which every other one is a negative."""

    def __init__(self, images: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("images", torch.cat([images, -images]))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.images[(torch.special.ndtr(z[:, 0]) * len(self.images)).long().clamp(max=len(self.images) - 1)]


def trained(generator: nn.Module | None = None) -> Trained:
    """A model that never was trained, with a generator of its own or another one."""
    kind = family("sngan")
    networks = published(kind, kind.begin(SIZE, 0))
    networks["generator"] = generator or networks["generator"]
    origin = Training(command="", dataset="digits", steps=0, seed=1, seconds=0, torch="")
    return Trained("tiny", "sngan", kind, networks, SIZE, origin, CPU)


def outcome(few, judges, settings, *, seed=1, generator=None, told=None) -> Outcome:
    stages = Stages(lambda *what: told is None or told.append(what))
    return calibrated(trained(generator), Plan(settings, "digits", seed), few, judges, stages)


@pytest.fixture(scope="module")
def helped(few, judges) -> Outcome:
    return outcome(few, judges, STEPS, generator=HalfWrong(few.evaluator.images))


def test_a_calibration_that_helps_is_kept_with_its_figures(helped):
    calibration = helped.calibration
    assert calibration is not None
    assert calibration.validation.fid_reweighted < calibration.validation.fid_prior - calibration.validation.fid_prior_spread
    assert calibration.test.real == 128
    assert calibration.test.generated == 3 * 256
    assert helped.files["reliability.png"].startswith(b"\x89PNG")


def test_the_same_plan_makes_the_same_weights_and_figures(few, judges, helped):
    torch.rand(3)  # what the process drew before makes no difference
    again = outcome(few, judges, STEPS, generator=HalfWrong(few.evaluator.images))
    assert again.calibration == helped.calibration
    ratio = again.trained.networks["ratio"].state_dict()
    assert all(torch.equal(ratio[key], weight) for key, weight in helped.trained.networks["ratio"].state_dict().items())
    assert again.files == helped.files
    other = outcome(few, judges, STEPS, seed=2, generator=HalfWrong(few.evaluator.images))
    assert other.calibration != helped.calibration


def test_a_calibration_that_does_not_help_is_undone(few, judges):
    known = outcome(few, judges, Logistic())  # the critic was never trained: its output says nothing
    assert known.calibration is None
    assert known.validation.fid_reweighted >= known.validation.fid_prior - needed_gain(known.validation)
    assert known.files == {}
    critic = known.trained.networks["critic"].state_dict()
    assert all(torch.equal(weight, critic[key]) for key, weight in known.trained.networks["ratio"].state_dict().items())


def test_what_is_published_is_what_was_assessed(few, judges, tmp_path, monkeypatch):
    monkeypatch.setattr("models.training.calibration.helps", lambda assessment: True)  # of a generator that was never trained
    told = []
    known = outcome(few, judges, Isotonic(), told=told)
    assert told[-1] == (7, 7, "calibrating")  # the evidence that chooses, that keeps and that reports
    assert known.trained.size.ratio_heads == 0
    store = Store(tmp_path, tmp_path / "none")
    card = place(known, judges.validation.evaluator, few, store, Stages())
    assert (store.folder(card) / "reliability.png").read_bytes() == known.files["reliability.png"]
    served = load(store, card, CPU)
    images = few.test.images
    assert torch.allclose(served.networks["ratio"](images), known.trained.networks["ratio"](images), atol=1e-4)
    z = torch.zeros(3, 4, requires_grad=True)
    assert served.targets["ddls"].energy(z).shape == (3,)
    again = uncalibrated(known.trained)
    assert set(again.trained.networks.state_dict()) == set(trained().networks.state_dict())


def test_without_weights_the_distance_is_the_metric(few, judges):
    fake = Split(few.evaluator.images, few.evaluator.labels)
    evidence = Evidence.gather(judges.validation, fake)
    assert evidence.fid() == pytest.approx(distance(fake.images, judges.validation), rel=1e-3)
    assert evidence.class_distance() == pytest.approx(evidence.class_distance(torch.ones(128)))

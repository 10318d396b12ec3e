"""Class proportions are corrected within a head's last layer, from the classes that its own features tell apart."""

import pytest
import torch

from models.calibration.bench import Bench
from models.calibration.evidence import Evidence, Moments, proportional
from models.calibration.methods import fit
from models.calibration.proportions import add, class_scores, widened
from models.calibration.settings import RatioHead
from models.datasets import Split
from models.families import family
from models.families.base import Size

SIZE = Size(image_shape=(1, 8, 8), latent_size=4, width=4)
KIND = family("sngan")


def bars(count: int, random: torch.Generator, share: float) -> Split:
    """Noisy images with a bar above or, in that share of them, below."""
    labels = (torch.rand(count, generator=random) < share).long()
    images = 0.5 * torch.randn(count, 1, 8, 8, generator=random)
    images[labels == 0, :, 1:3] += 1
    images[labels == 1, :, 5:7] += 1
    return Split(images, labels)


def generated(count: int, random: torch.Generator) -> Split:
    """The prior of a model that knows no labels."""
    return Split(bars(count, random, 0.8).images, torch.zeros(count, dtype=torch.int64))


def probabilities(labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(labels, 2).double()


@pytest.fixture(scope="module")
def bench() -> Bench:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        networks = KIND.build(SIZE).eval()
    return Bench(KIND, networks, SIZE, bars(600, torch.Generator().manual_seed(1), 0.5), generated, 7, lambda: None)


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    real, fake = bars(600, torch.Generator().manual_seed(2), 0.5), bars(1200, torch.Generator().manual_seed(3), 0.8)
    weight = torch.full((600,), 1 / 600, dtype=torch.float64)
    features = [split.images.flatten(1)[:, ::8] for split in (real, fake)]
    unlabelled = Split(fake.images, torch.zeros_like(fake.labels))
    shares = probabilities(real.labels).mean(0)
    return Evidence(real, unlabelled, Moments.of(features[0]), weight, shares, features[1], probabilities(fake.labels))


def test_a_heads_features_tell_classes_apart(bench):
    head = bench.networks["ratio"]
    wide = widened(head, class_scores(head, bench))
    fresh = bars(400, torch.Generator().manual_seed(4), 0.5)
    said = bench.log_ratios(wide, fresh)
    assert said.shape == (400, 2)
    assert torch.allclose(said[:, 0], bench.log_ratios(head, fresh), atol=1e-5)
    assert float(((said[:, 1] > 0.5) == (fresh.labels == 0)).float().mean()) > 0.95


def test_scores_go_into_the_last_layer(bench):
    head = bench.networks["ratio"]
    scores = class_scores(head, bench)
    wide = widened(head, scores)
    corrected = KIND.build(SIZE).eval()["ratio"]
    corrected.load_state_dict(head.state_dict())
    corrected.rescale(1.0, 0.0)
    add(corrected, scores, torch.tensor([0.5], dtype=torch.float64))
    split = bars(50, torch.Generator().manual_seed(5), 0.5)
    expected = bench.log_ratios(wide, split) @ torch.tensor([1.0, 0.5])
    assert torch.allclose(bench.log_ratios(corrected, split), expected, atol=1e-4)


def test_a_ratio_head_brings_the_classes_to_their_proportions(bench, evidence):
    fitted = fit(RatioHead(steps=40, shifts=0), bench, evidence)
    assert evidence.class_distance() == pytest.approx(0.3, abs=0.05)
    assert evidence.class_distance(bench.log_ratios(fitted.ratio, evidence.fake)) < 0.05


def test_real_images_weigh_as_their_classes_do_elsewhere():
    labels, wanted = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 1, 1, 1])
    assert proportional(labels, wanted).tolist() == pytest.approx([0.2 / 3, 0.2 / 3, 0.2 / 3, 0.8])

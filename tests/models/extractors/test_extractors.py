"""Extractors fit what the data has, come out the same each time, and share no accident."""

import pytest
import torch

from models import datasets, extractors
from models.datasets import Split
from models.extractors.base import shifted
from models.metrics.base import Evaluator, features_of, log_probabilities_of
from models.metrics.fid import distance


@pytest.fixture(scope="module")
def splits():
    return datasets.load("digits")


@pytest.mark.parametrize(("name", "least"), [("convolutional", 0.8), ("perceptron", 0.8)])
def test_classifiers_learn_the_digits(name, least, splits):
    network = extractors.fit(name, splits.evaluator, 8 if name == "convolutional" else 30)
    found = log_probabilities_of(features_of(splits.test.images, network), network).argmax(1)
    assert (found == splits.test.labels).float().mean() > least


@pytest.mark.parametrize("name", ["convolutional", "perceptron", "autoencoder", "components"])
def test_a_fit_repeats_to_the_bit_scales_its_features_and_leaves_the_random_numbers_alone(name, splits):
    few = splits.evaluator.first(100)
    torch.manual_seed(1)
    first = features_of(few.images, extractors.fit(name, few, 1))
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))
    torch.rand(7)
    assert torch.equal(first, features_of(few.images, extractors.fit(name, few, 1)))
    assert first.var(0).mean() == pytest.approx(1, rel=1e-4)


def test_what_suits_follows_from_the_data(splits):
    unlabelled = Split(splits.test.images, torch.zeros_like(splits.test.labels))
    points = Split(torch.zeros(4, 1, 1, 2), torch.zeros(4, dtype=torch.long))
    assert [extractors.suitable(part) for part in (splits.test, unlabelled, points)] == [
        ("convolutional", "perceptron"),
        ("autoencoder", "components"),
        ("waves", "coordinates"),
    ]


def test_components_keep_distances_of_images_that_lie_in_their_space(splits):
    few = splits.evaluator.first(40)  # 40 images span at most 39 directions
    network = extractors.fit("components", few)
    features, pixels = features_of(few.images, network).double(), few.images.flatten(1).double()
    assert torch.allclose(torch.cdist(features, features), network.gain * torch.cdist(pixels, pixels), atol=1e-4)


def test_coordinates_know_the_nearest_mode():
    means = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    labels = torch.arange(300) % 3
    points = means[labels] + 0.1 * torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    network = extractors.fit("coordinates", Split(points.reshape(-1, 1, 1, 2), labels))
    assert torch.equal(network.log_probabilities(means + 0.2).argmax(1), torch.arange(3))
    assert network.spread == pytest.approx(0.1, abs=4 * 0.1 / (600 * 2) ** 0.5)


@pytest.mark.parametrize("name", ["gaussians-25", "gaussians-8", "swiss-roll"])
def test_fid_of_points_sees_more_than_means_and_covariances(name):
    splits, random = datasets.load(name), torch.Generator().manual_seed(0)
    reference, others = Evaluator(splits.evaluator, name).against(splits.test), splits.validation.images[:4000]
    points = others.flatten(1)
    gaussian = torch.randn(4000, 2, generator=random) @ torch.linalg.cholesky(points.T.cov()).T + points.mean(0)
    blurred = points + 0.03 * torch.randn(points.shape, generator=random)
    of_data, *of_fakes = (distance(fake.reshape(-1, 1, 1, 2), reference) for fake in (points, gaussian, blurred))
    assert min(of_fakes) > 4 * of_data


def test_fid_of_points_notices_a_mode_that_is_missing():
    splits = datasets.load("gaussians-25")
    reference = Evaluator(splits.evaluator, "gaussians-25").against(splits.test)
    images, labels = splits.validation.images, splits.validation.labels
    assert distance(images[labels != 12], reference) > 2 * distance(images[labels != 100], reference)


def test_stacked_pictures_are_classified_channel_by_channel(splits):
    rows = torch.randint(300, (200, 3), generator=torch.Generator().manual_seed(0))
    images, labels = splits.evaluator.images[rows].squeeze(2), splits.evaluator.labels[rows]
    network = extractors.fit("perceptron", Split(images, labels @ torch.tensor([100, 10, 1])), 10, stacked=10)
    assert (network.classes, network.num_features) == (1000, 3 * 128)
    few = splits.test.images[:60].reshape(20, 3, 8, 8)
    found = log_probabilities_of(features_of(few, network), network)
    single = log_probabilities_of(features_of(few.reshape(60, 1, 8, 8), network.single), network.single).argmax(1).reshape(20, 3)
    assert torch.equal(found.argmax(1), single @ torch.tensor([100, 10, 1]))
    assert torch.allclose(found.exp().sum(1), torch.ones(20), atol=1e-4)
    truth = splits.test.labels[:60].reshape(20, 3) @ torch.tensor([100, 10, 1])
    assert (found.argmax(1) == truth).float().mean() > 0.3  # chance is .001


def test_a_shift_moves_a_whole_image_by_at_most_a_pixel_in_28():
    images = torch.full((64, 2, 56, 56), -1.0)
    images[:, :, 14, 14] = 1.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        places = (shifted(images) == 1).nonzero()
    assert len(places) == 128
    offsets = places[:, 2:] - 14
    assert torch.equal(offsets[0::2], offsets[1::2])  # both channels move alike
    assert offsets.abs().max() == 2
    assert len(offsets.unique(dim=0)) > 15


def test_an_evaluator_fits_an_extractor_when_it_is_asked_for_and_once_in_a_process(splits, monkeypatch):
    fitted = []
    fit = extractors.fit
    monkeypatch.setattr(extractors, "fit", lambda name, *arguments, **named: fitted.append(name) or fit(name, *arguments, **named))
    few = splits.evaluator.first(64)
    first, second = Evaluator(few, "digits", epochs=2), Evaluator(few, "digits", epochs=2)
    assert fitted == []
    assert first.against(splits.test).extractor is second.against(splits.validation).extractor
    assert fitted == ["convolutional"]
    assert [reference.name for reference in first.references(splits.test)] == ["convolutional", "perceptron"]
    assert Evaluator(few, "digits", epochs=1).against(splits.test).extractor is not first.against(splits.test).extractor

"""Every metric against an answer known in closed form, or by its definition spelt out on a few points."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from models import metrics
from models.datasets import Split
from models.extractors.base import Extractor
from models.metrics import anomaly, classes, fid, kid, modes, neighbours, parzen, reconstruction
from models.metrics.base import Draws, Evaluator, Explained, Reference

GRID = torch.tensor(list(itertools.product((-0.8, -0.4, 0.0, 0.4, 0.8), repeat=2)))  # (25, 2)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def white(rows: int, seed: int) -> Tensor:
    """Points whose sample mean is 0 and whose sample covariance is I to the last bit but a few: (rows, 2)."""
    points = normal(rows, 2, seed=seed).double()
    points = points - points.mean(0)
    return points @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(points.T))).T


def as_images(points: Tensor) -> Tensor:
    return points.float().reshape(-1, 1, 1, 2)


def against(points: Tensor, labels: Tensor | None = None) -> Reference:
    """Points of the plane: an extractor that gives them back as they are."""
    split = Split(as_images(points), torch.zeros(len(points), dtype=torch.long) if labels is None else labels)
    return Evaluator(split, "points").against(split, "coordinates")


def on_grid(share: dict[int, int], spread: float = 0.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """So many points at each mode: points and modes."""
    labels = torch.tensor([mode for mode, count in share.items() for _ in range(count)])
    return GRID[labels] + spread * normal(len(labels), 2, seed=seed), labels


def test_fid_of_shifted_and_stretched_gaussians_is_exact():
    real, shift, stretch = white(4000, 1), torch.tensor([0.5, -2.0]), 1.5
    drawn = stretch * white(1000, 2) + shift
    expected = 0.25 + 4.0 + 2 * (1 - stretch) ** 2
    reference = against(real)
    assert fid.measure(Draws(as_images(drawn)), reference)["fid"] == pytest.approx(expected, rel=1e-5)
    assert fid.distance(as_images(drawn), reference) == pytest.approx(expected, rel=1e-5)
    assert fid.distance(as_images(real), reference) == pytest.approx(0, abs=1e-6)


def test_fid_sees_correlations():
    turn = torch.linalg.cholesky(torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.double))
    found = fid.distance(as_images(white(3000, 3) @ turn.T), against(white(3000, 4)))
    assert found == pytest.approx(4 - 2 * (math.sqrt(1.8) + math.sqrt(0.2)), rel=1e-4)  # eigenvalues 1.8 and .2


def test_kid_is_the_unbiased_discrepancy_under_the_cubic_kernel():
    real, drawn = normal(7, 2, seed=1).double(), normal(7, 2, seed=2).double() + 1

    def k(x: Tensor, y: Tensor) -> float:
        return float((x @ y / 2 + 1) ** 3)

    pairs = [(i, j) for i in range(7) for j in range(7)]
    same = sum(k(real[i], real[j]) + k(drawn[i], drawn[j]) for i, j in pairs if i != j) / 42
    expected = same - 2 * sum(k(real[i], drawn[j]) for i, j in pairs) / 49
    assert kid.measure(Draws(as_images(drawn)), against(real))["kid"] == pytest.approx(expected, rel=1e-5)


def test_kid_of_two_samples_of_one_distribution_is_zero_within_its_error_and_leaves_the_random_numbers_alone():
    reference = against(normal(400, 2, seed=1))
    torch.manual_seed(3)
    found = [kid.measure(Draws(as_images(normal(400, 2, seed=seed))), reference)["kid"] for seed in range(2, 10)]
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))
    mean, error = sum(found) / 8, float(torch.tensor(found).std()) / math.sqrt(8)
    assert abs(mean) < 4 * math.sqrt(8) * error  # not error alone: all share one sample of the reference, which errs as much as each


def test_neighbours_are_counted_as_defined():
    count, k = 60, neighbours.K
    real, drawn = normal(count, 2, seed=5), 0.8 * normal(count, 2, seed=6) + 1.5

    def radii(points: Tensor) -> list[float]:
        return [sorted(math.dist(x, y) for y in points.tolist())[k] for x in points.tolist()]  # the nearest is the point itself

    near_real = [[math.dist(y, x) <= radius for x, radius in zip(real.tolist(), radii(real), strict=True)] for y in drawn.tolist()]
    near_drawn = [[math.dist(x, y) <= radius for y, radius in zip(drawn.tolist(), radii(drawn), strict=True)] for x in real.tolist()]
    expected = {
        "precision": sum(any(row) for row in near_real) / count,
        "recall": sum(any(row) for row in near_drawn) / count,
        "density": sum(sum(row) for row in near_real) / count / k,
        "coverage": sum(any(column) for column in zip(*near_real, strict=True)) / count,
    }
    assert len(set(expected.values())) == 4
    assert neighbours.measure(Draws(as_images(drawn)), against(real)) == pytest.approx(expected)


def test_draws_of_half_the_data_have_half_the_recall_and_far_ones_have_nothing():
    real = torch.cat([normal(300, 2, seed=7), normal(300, 2, seed=8) + 100])[
        torch.randperm(600, generator=torch.Generator().manual_seed(9))
    ]
    found = neighbours.measure(Draws(as_images(normal(600, 2, seed=10))), against(real))
    assert found["precision"] > 0.95
    assert 0.45 < found["recall"] <= 0.5 + 4 * math.sqrt(0.25 / 600)
    assert found["coverage"] < 0.53
    assert neighbours.measure(Draws(as_images(normal(600, 2, seed=11) - 1000)), against(real)) == {
        "precision": 0,
        "recall": 0,
        "density": 0,
        "coverage": 0,
    }
    assert neighbours.measure(Draws(as_images(real)), against(real))["precision"] == 1
    assert neighbours.measure(Draws(as_images(real[:5])), against(real)) == {}


def test_classes_of_draws_are_compared_with_those_of_the_data():
    points, labels = on_grid({0: 50, 24: 50}, 0.01)
    reference = against(*on_grid(dict.fromkeys(range(25), 40), 0.05, seed=1))
    found = classes.measure(Draws(as_images(points)), reference)
    assert found["class-distance"] == pytest.approx((2 * (0.5 - 0.04) + 23 * 0.04) / 2)
    assert found["confidence"] == 1
    between = (GRID[0] + GRID[1]).expand(10, 2) / 2
    assert classes.measure(Draws(as_images(between)), reference)["confidence"] == 0
    assert classes.measure(Draws(as_images(points)), against(points)) == {}  # one class is none


def test_modes_are_counted_and_their_divergence_is_exact():
    reference = against(*on_grid(dict.fromkeys(range(25), 40), 0.05, seed=1))
    points, _ = on_grid({3: 100, 7: 100})
    nowhere = torch.full((50, 2), 5.0)
    found = modes.measure(Draws(as_images(torch.cat([points, nowhere]))), reference)
    assert found == pytest.approx({"modes": 2, "high-quality": 0.8, "mode-kl": math.log(25 / 2)})
    assert modes.measure(Draws(as_images(nowhere)), reference) == {"modes": 0, "high-quality": 0}
    assert modes.measure(Draws(as_images(on_grid(dict.fromkeys(range(25), 4))[0])), reference)["mode-kl"] == pytest.approx(0, abs=1e-12)


def test_the_share_within_three_deviations_of_the_data_itself_is_that_of_a_gaussian():
    reference = against(*on_grid(dict.fromkeys(range(25), 400), 0.05, seed=1))
    points, _ = on_grid(dict.fromkeys(range(25), 400), 0.05, seed=2)
    found, exact = modes.measure(Draws(as_images(points)), reference)["high-quality"], 1 - math.exp(-4.5)
    assert abs(found - exact) < 4 * math.sqrt(exact * (1 - exact) / 10_000)


def test_parzen_is_the_density_of_the_mixture_and_its_bandwidth_is_chosen_on_other_images():
    draws, sigma = torch.rand(40, 1, 3, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1, parzen.BANDWIDTHS[6]
    centres = ((draws + 1) / 2).flatten(1)
    real = centres[torch.arange(4000) % 40] + sigma * normal(4000, 9, seed=2)
    split = Split((2 * real - 1).reshape(-1, 1, 3, 3), torch.zeros(4000, dtype=torch.long))
    reference = Reference(*split, Evaluator(split, "noise"), "components")
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(40)),
        torch.distributions.Independent(torch.distributions.Normal(centres.double(), sigma), 1),
    )
    expected = float(mixture.log_prob(real[parzen.JUDGED : 2 * parzen.JUDGED].double()).mean())
    assert parzen.measure(Draws(draws), reference)["parzen"] == pytest.approx(expected, rel=1e-6)


def test_reconstruction_error_is_on_the_scale_from_0_to_1():
    given = torch.zeros(3, 1, 2, 2)
    draws = Draws(given + 0.5, explained=Explained(given, torch.zeros(3)))
    assert reconstruction.measure(draws, against(normal(8, 2))) == {"reconstruction-mse": 0.0625}


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([4, 3, 2, 1], 1.0),
        ([4, 2, 3, 1], (1 + 2 / 3) / 2),
        ([1, 2, 3, 4], (1 / 3 + 2 / 4) / 2),
        ([1004, 1002, 1003, 1001], (1 + 2 / 3) / 2),
    ],
)
def test_auprc_is_the_mean_precision_at_each_anomaly(scores, expected):
    draws = Draws(torch.zeros(4, 1, 1, 2), explained=Explained(torch.zeros(4, 1, 1, 2), torch.tensor(scores), torch.tensor([1, 1, 0, 0])))
    assert anomaly.measure(draws, against(normal(8, 2)))["auprc"] == pytest.approx(expected)


def test_reconstructions_and_scores_are_no_figures_of_samples():
    draws, reference = Draws(as_images(normal(8, 2))), against(normal(8, 2))
    assert reconstruction.measure(draws, reference) == {}
    assert anomaly.measure(draws, reference) == {}
    assert {name for name in metrics.names() if metrics.compared(name) == "reconstructions"} == {"anomaly", "reconstruction"}


def test_features_of_draws_are_computed_once():
    class Counting(Extractor):
        calls = 0

        def embed(self, images: Tensor) -> Tensor:
            self.calls += 1
            return images.flatten(1)

    counting, draws = Counting(), Draws(as_images(normal(8, 2)))
    assert torch.equal(draws.features(counting), draws.features(counting))
    assert counting.calls == 1

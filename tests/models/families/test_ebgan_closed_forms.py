"""EBGAN's two terms have the values that are known: the pulling-away term squares its cosines, and the margin is one for each image.

f_PT = 1/(N(N-1)) Σ_{i≠j} cos(S_i, S_j)², L_D = mean of D(x) + [m - D(G(z))]⁺  (Zhao et al. 2016, arXiv 1609.03126).
"""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.families.ebgan import margin_loss, pulling_away

ENCODINGS = {
    "orthogonal": (3 * torch.eye(5), 0.0),
    "identical": (torch.tensor([[1.0, -2.0, 0.5]]).repeat(6, 1), 1.0),
    "antipodal": (torch.tensor([[1.0, 2.0], [-2.0, -4.0]]), 1.0),
    "45 degrees apart": (torch.tensor([[2.0, 0.0], [3.0, 3.0]]), 0.5),
    "two the same and one across": (torch.tensor([[1.0, 0.0], [4.0, 0.0], [0.0, 2.0]]), 1 / 3),
}


def check_pulling_away(term: Callable[[Tensor], Tensor], label: str) -> None:
    """Fails where the term of a batch of encodings, (rows, features), is not the known one."""
    encodings, expected = ENCODINGS[label]
    assert float(term(encodings)) == pytest.approx(expected, abs=1e-5), label


def check_random_rows(term: Callable[[Tensor], Tensor], rows: int = 1000, features: int = 20) -> None:
    """Fails where the term of random directions is further than 4 standard errors from 1/D; pairs are uncorrelated, each of variance
    2(D - 1)/(D²(D + 2))."""
    encodings = torch.randn(rows, features, generator=torch.Generator().manual_seed(3))
    error = math.sqrt(2 * (features - 1) / (features**2 * (features + 2)) / (rows * (rows - 1) / 2))
    assert abs(float(term(encodings)) - 1 / features) < 4 * error, "random rows"


def cosines(encodings: Tensor) -> Tensor:
    """Of all pairs i ≠ j, (rows · (rows - 1),)."""
    unit = F.normalize(encodings)
    return (unit @ unit.T)[~torch.eye(len(unit), dtype=torch.bool)]


def unsquared(encodings: Tensor) -> Tensor:
    """It rewards opposite encodings."""
    return cosines(encodings).mean()


def with_itself(encodings: Tensor) -> Tensor:
    """The pairs i = i are counted."""
    unit = F.normalize(encodings)
    return (unit @ unit.T).square().mean()


def with_lengths(encodings: Tensor) -> Tensor:
    """Products in the place of cosines."""
    products = encodings @ encodings.T
    return products[~torch.eye(len(products), dtype=torch.bool)].square().mean()


FAULTS = [(unsquared, "antipodal"), (unsquared, "45 degrees apart"), (with_itself, "orthogonal"), (with_lengths, "identical")]


@pytest.mark.parametrize("label", ENCODINGS)
def test_the_pulling_away_term_is_the_mean_squared_cosine_of_pairs(label):
    check_pulling_away(pulling_away, label)


@pytest.mark.parametrize(("term", "label"), FAULTS)
def test_a_wrong_pulling_away_term_is_caught(term, label):
    with pytest.raises(AssertionError, match=label):
        check_pulling_away(term, label)


def test_the_pulling_away_term_of_random_rows_is_one_over_their_size():
    check_random_rows(pulling_away)
    with pytest.raises(AssertionError, match="random rows"):
        check_random_rows(lambda encodings: cosines(encodings).mean())


def check_margin(loss: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """Fails where images share a margin: one beyond it must count nothing, and have no gradient."""
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([14.0, 4.0], requires_grad=True)
    value = loss(real, fake, 10.0)
    assert float(value.detach()) == pytest.approx(2 + 6 / 2), "margin"
    (gradient,) = torch.autograd.grad(value, fake)
    assert gradient.tolist() == [0, -0.5], "margin's gradient"


def test_the_margin_is_one_for_each_image():
    check_margin(margin_loss)
    with pytest.raises(AssertionError, match="margin"):
        check_margin(lambda real, fake, margin: real.mean() + F.relu(margin - fake.mean()))


def test_at_the_nash_point_the_loss_is_the_margin():
    energy = torch.full((8,), 2.5)  # as high on real as on generated images, and nowhere above the margin
    assert float(margin_loss(energy, energy, 10.0)) == pytest.approx(10.0)

"""Ratio heads find the ratio that there is, with slope 1 folded into their weights, and the same one from the same seed."""

import copy

import pytest
import torch
from torch import nn

from models.calibration.bench import Bench
from models.calibration.evidence import Evidence, Moments
from models.calibration.logistic import fit_line
from models.calibration.methods import fit
from models.calibration.ratio_head import Disturbance
from models.calibration.settings import Isotonic, Logistic, RatioHead
from models.datasets import Split
from models.families import FAMILIES, family
from models.families.base import Size
from models.networks.ratio import Recalibrated, rescale

SIZE = Size(image_shape=(1, 8, 8), latent_size=4, width=4)
KIND = family("sngan")
ALL = {
    "logistic": Logistic(),
    "isotonic": Isotonic(),
    "one head": RatioHead(steps=40),
    "two heads": RatioHead(steps=24, heads=2, noise_first=0.2),
    "two stages": RatioHead(steps=24, stages=2),
}


def bars(count: int, random: torch.Generator, brightness: float) -> Split:
    """Noisy images with a bar whose brightness is normal: what differs between the two distributions."""
    images = 0.3 * torch.randn(count, 1, 8, 8, generator=random)
    images[:, :, 3:5] += brightness + 0.5 * torch.randn(count, 1, 1, 1, generator=random)
    return Split(images, torch.zeros(count, dtype=torch.int64))


def real(count: int, seed: int) -> Split:
    return bars(count, torch.Generator().manual_seed(seed), 0.5)


def generated(count: int, random: torch.Generator) -> Split:
    return bars(count, random, 0.0)


@pytest.fixture(scope="module")
def bench() -> Bench:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        networks = KIND.build(SIZE).eval()
    return Bench(KIND, networks, SIZE, real(512, 1), generated, 7, lambda: None)


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    """With the bar's brightness and the image's spread as features, and two classes: dark and bright bars."""
    here, there = real(400, 2), generated(800, torch.Generator().manual_seed(3))
    weight = torch.full((400,), 1 / 400, dtype=torch.float64)
    return Evidence(here, there, Moments.of(features(here)), weight, classes(here).mean(0), features(there), classes(there))


def features(split: Split) -> torch.Tensor:
    return torch.stack([split.images[:, 0, 3:5].flatten(1).mean(1), split.images.flatten(1).std(1)], 1)


def classes(split: Split) -> torch.Tensor:
    bright = (10 * features(split)[:, 0]).sigmoid().double()
    return torch.stack([bright, 1 - bright], 1)


@pytest.mark.parametrize("name", ALL)
def test_each_method_makes_a_ratio_that_its_size_describes_and_leaves_the_networks_alone(name, bench, evidence):
    before = copy.deepcopy(bench.networks.state_dict())
    fitted = fit(ALL[name], bench, evidence)
    assert all(torch.equal(before[key], weight) for key, weight in bench.networks.state_dict().items())
    rebuilt = KIND.assemble(fitted.size).eval()["ratio"]
    rebuilt.load_state_dict(fitted.ratio.state_dict())
    assert torch.equal(bench.log_ratios(rebuilt, evidence.fake), bench.log_ratios(fitted.ratio, evidence.fake))
    assert fitted.made
    assert "log p_data/p_generator" in fitted.optimum


@pytest.mark.parametrize("name", ["one head", "two heads", "two stages", "isotonic"])
def test_the_same_seed_makes_the_same_ratio(name, bench, evidence):
    first = fit(ALL[name], bench, evidence)
    torch.rand(3)  # what the process drew before makes no difference
    again = fit(ALL[name], bench, evidence)
    assert first.raw == again.raw
    assert all(torch.equal(weight, again.ratio.state_dict()[key]) for key, weight in first.ratio.state_dict().items())


def test_a_head_has_slope_one_on_what_judged_it_and_lowers_the_distance(bench, evidence):
    fitted = fit(RatioHead(steps=120, noise_first=0), bench, evidence)
    line = fit_line(bench.log_ratios(fitted.ratio, evidence.real), bench.log_ratios(fitted.ratio, evidence.fake))
    assert line.slope == pytest.approx(1, abs=1e-3)
    assert line.intercept == pytest.approx(0, abs=1e-3)
    assert evidence.fid(bench.log_ratios(fitted.ratio, evidence.fake)) < 0.5 * evidence.fid()


def test_a_head_of_points_sees_them_as_they_are_and_finds_what_is_thin():
    kind, size = family("gan"), Size(image_shape=(1, 1, 2), latent_size=2, width=64)

    def points(count: int, random: torch.Generator, strand: float) -> Split:
        """Two modes at (±.5, 0); a share of the points lies on the line between them."""
        side = torch.randint(2, (count, 1), generator=random) - 0.5
        places = torch.cat([side, torch.zeros(count, 1)], 1) + 0.02 * torch.randn(count, 2, generator=random)
        on_strand = torch.rand(count, generator=random) < strand
        places[on_strand, 0] = 0.8 * torch.rand(int(on_strand.sum()), generator=random) - 0.4
        return Split(places.reshape(-1, 1, 1, 2), torch.zeros(count, dtype=torch.int64))

    def features(split: Split) -> torch.Tensor:
        return split.images.flatten(1).square()

    here, there = points(400, torch.Generator().manual_seed(2), 0.0), points(800, torch.Generator().manual_seed(3), 0.2)
    weight, one = torch.full((400,), 1 / 400, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    evidence = Evidence(here, there, Moments.of(features(here)), weight, one, features(there), torch.ones(800, 1, dtype=torch.float64))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        networks = kind.build(size).eval()
    train = points(512, torch.Generator().manual_seed(1), 0.0)
    bench = Bench(kind, networks, size, train, lambda count, random: points(count, random, 0.2), 7, lambda: None)
    fitted = fit(RatioHead(steps=200), bench, evidence)
    assert fitted.optimum == "log p_data/p_generator"
    log_ratios, between = bench.log_ratios(fitted.ratio, there), there.images[:, 0, 0, 0].abs() < 0.4
    assert log_ratios[between].mean() < log_ratios[~between].mean() - 3


def test_another_seed_makes_another_head(bench, evidence):
    other = Bench(KIND, bench.networks, SIZE, bench.train, generated, 8, lambda: None)
    first, second = (fit(ALL["one head"], here, evidence).ratio.state_dict() for here in (bench, other))
    assert not torch.equal(first["layers.0.weight"], second["layers.0.weight"])


def test_the_calibration_can_be_stopped_between_steps(bench, evidence):
    def stop():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        fit(ALL["one head"], Bench(KIND, bench.networks, SIZE, bench.train, generated, 7, stop), evidence)


@pytest.mark.parametrize(
    "kind", [*(family(name) for name, kind in FAMILIES.items() if kind.needs_calibration), family("sngan", {"conditional": True})]
)
def test_a_line_goes_into_the_last_layer_of_every_familys_head(kind):
    head = kind.build(SIZE.model_copy(update={"classes": 3})).eval()["ratio"]
    images, labels = real(16, 4).images, torch.arange(16) % 3
    before = kind.log_ratio(head, images, labels)
    assert torch.allclose(kind.log_ratio(rescale(head, -2.5, 0.75), images, labels), -2.5 * before + 0.75, atol=1e-4)


def test_a_head_that_cannot_take_a_line_says_so():
    with pytest.raises(TypeError, match="linear layer"):
        rescale(nn.Sequential(nn.Linear(4, 1), nn.Tanh()), 2, 0)


def test_a_function_through_knots_has_its_slope_between_them_and_none_beyond():
    function = Recalibrated(nn.Identity(), 3)
    function.at.copy_(torch.tensor([0.0, 1.0, 3.0]))
    function.log_ratio.copy_(torch.tensor([-1.0, 1.0, 2.0]))
    scores = torch.tensor([-5.0, 0.25, 2.0, 9.0], requires_grad=True)
    values = function(scores)
    (slope,) = torch.autograd.grad(values.sum(), scores)
    assert values.tolist() == pytest.approx([-1, -0.5, 1.5, 2])
    assert slope.tolist() == pytest.approx([0, 2, 0.5, 0])


def test_a_shift_moves_each_image_by_whole_pixels_and_noise_has_its_strength():
    images = torch.full((200, 1, 8, 8), -1.0)
    images[:, :, 4, 4] = 1.0
    moved = Disturbance(shifts=0.25)(images, torch.Generator().manual_seed(1))
    places = {tuple(place) for place in (moved[:, 0] == 1).nonzero()[:, 1:].tolist()}
    assert places == {(down, right) for down in range(2, 7) for right in range(2, 7)}
    assert ((moved == 1).sum(dim=(1, 2, 3)) == 1).all()
    noisy = Disturbance(0.6)(torch.zeros(2000, 1, 8, 8), torch.Generator().manual_seed(1)).flatten(1).std(1)
    # The strength of each image is uniform on (0, 0.6), seen through 64 pixels.
    assert float(noisy.mean()) == pytest.approx(0.3, abs=4 * 0.6 / 12**0.5 / 2000**0.5 + 0.003)
    assert float(noisy.min()) < 0.01
    assert 0.55 < float(noisy.max()) < 0.75

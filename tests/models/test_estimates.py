"""What a run is estimated to take is what it takes: parameters exactly, memory and operations within a factor, without torch."""

import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from models import datasets, estimates
from models.costs import Unsuitable
from models.families import FAMILIES, family
from models.families.base import Size
from tests.system.house import ROOT
from workers.jobs import TrainJob

SIZES = (
    Size(image_shape=(1, 28, 28), latent_size=7, width=20, classes=10),
    Size(image_shape=(3, 8, 8), latent_size=64, width=9, classes=3),
)
KINDS = [
    *((name, {}) for name in FAMILIES),
    ("sngan", {"conditional": True}),
    ("gan", {"layers": 5}),
    ("lebm", {"hidden": 31}),
    ("ebgan", {"code": 5}),
]

BY_FOUR = ("dcgan", "ebgan", "sngan", "wgan-gp")  # their images have sides that four divides


class Counter(TorchDispatchMode):
    """Counts floating-point operations; torch's own counter cannot look into gradients of gradients."""

    operations = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if (count := flop_registry.get(function.overloadpacket)) is not None:
            self.operations += count(*args, **(kwargs or {}), out_val=out)
        return out


def run(**given):
    usual = {"name": "x", "family": "sngan", "dataset": "mnist", "steps": 100, "batch_size": 64, "width": 64, "latent_size": 64, "seed": 0}
    return TrainJob(**usual | given)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("name", "options"), KINDS, ids=str)
def test_parameters_are_counted_exactly(name, options, size):
    kind = family(name, options)
    networks = kind.build(size)
    assert {part: cost.parameters for part, cost in kind.costs(size).items()} == {
        part: sum(weight.numel() for weight in network.parameters()) for part, network in networks.items()
    }


@pytest.mark.parametrize(("name", "options"), [*KINDS, ("sngan", {"critic_steps": 3})], ids=str)
def test_operations_of_a_step_are_estimated_within_half_and_twice(name, options):
    kind, size, batch = family(name, options), SIZES[0], 8
    state = kind.begin(size, 0)
    rows = batch * kind.batches_per_step
    images, labels = torch.rand(rows, *size.image_shape) * 2 - 1, torch.arange(rows) % 10
    with Counter() as counter:
        kind.train_step(state, images, labels)
    estimated = batch * kind.step_cost(kind.costs(size)).operations
    assert counter.operations / 2 <= estimated <= 2 * counter.operations


@pytest.mark.parametrize(("name", "width", "batch"), [("sngan", 64, 256), ("vae", 256, 512)])
def test_the_peak_of_memory_is_at_most_what_is_estimated_and_at_least_half_of_it(name, width, batch):
    words = (sys.executable, "-m", "tests.models.peak_memory", name, "28", str(width), "64", str(batch))
    taken = int(subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=100).stdout)
    estimate = estimates.of_training(run(family=name, width=width, batch_size=batch))
    assert taken <= estimate.bytes <= 2 * taken


def test_an_estimate_grows_with_everything_that_a_request_can_raise():
    plain = estimates.of_training(run())
    dearer = {"steps": 1000, "batch_size": 4096, "width": 1024, "latent_size": 4096, "evaluations": 1000, "dataset": "celeba"}
    for name, value in dearer.items():
        assert estimates.of_training(run(**{name: value})).operations > plain.operations, name
    for name in ("batch_size", "width", "latent_size", "dataset"):
        assert estimates.of_training(run(**{name: dearer[name]})).bytes > plain.bytes, name
    for name, options in (("gan", {"layers": 16}), ("lebm", {"hidden": 4096}), ("ebgan", {"code": 4096})):
        assert estimates.of_training(run(family=name, options=options)).parameters > estimates.of_training(run(family=name)).parameters


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dataset", ["gaussians-8", "digits", "folder:x:30"])
def test_images_that_a_family_cannot_make_are_known_before_it_trains_on_them(name, dataset):
    kind, seen = family(name), datasets.outline(dataset)
    size = Size(image_shape=seen.image_shape, latent_size=4, width=8, classes=seen.classes or 2)
    if (dataset == "gaussians-8" and name != "gan") or (dataset == "folder:x:30" and name in BY_FOUR):
        with pytest.raises(Unsuitable) as unsuitable:
            kind.costs(size)
        assert unsuitable.value.field == "dataset"
        return
    assert kind.costs(size)
    made = kind.decoder(kind.begin(size, 0).networks)
    assert made(torch.zeros(3, 4)).shape == (3, *seen.image_shape)

"""What a run publishes: averaged weights where the family asks for them, and the best that were scored on `validation`."""

import pytest
import torch

from models import datasets
from models.datasets import Split, Splits
from models.families import family
from models.families.base import Size, Space, published, unchanged
from models.families.sngan import Sngan
from models.training.run import Run, TrainSettings
from models.training.selection import Best, Judge, Kept
from models.training.state import Account, restore, save
from tests.models.training.reporters import Silent

SETTINGS = TrainSettings(
    name="tiny", family="sngan", dataset="digits", steps=12, batch_size=8, width=8, latent_size=4, seed=1, calibrate=False, evaluations=3
)
SIZE = Size(image_shape=(1, 8, 8), latent_size=4, width=8)
LABELS = torch.zeros(40, dtype=torch.int64)


def images():
    return torch.rand(40, *SIZE.image_shape, generator=torch.Generator().manual_seed(3)) * 2 - 1


class Scripted:
    """Scores the evaluations of a run by a list, and keeps the weights it saw."""

    def __init__(self, *scores):
        self.scores, self.seen = list(scores), []

    def score(self, networks):
        self.seen.append({name: weight.clone() for name, weight in networks.state_dict().items()})
        return self.scores[len(self.seen) - 1]


@pytest.fixture(scope="module")
def few():
    return Splits(*(split.first(100) for split in datasets.load("digits")))


def run(folder, judge=None, ema=0.0, **changes):
    kind = family("sngan", {"ema": ema})
    return Run(SETTINGS.model_copy(update=changes), folder, Silent(), kind, kind.begin(SIZE, 1), judge)


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(weight, second[name]) for name, weight in first.items())


def test_averaged_weights_follow_their_recursion_and_are_what_is_published():
    kind = family("sngan", {"ema": 0.5})
    state = kind.begin(SIZE, 1)
    expected = {name: weight.double() for name, weight in state.networks["generator"].state_dict().items()}
    for step in range(1, 9):
        kind.train_step(state, images()[:8], LABELS[:8])
        state.average(kind.averaged)
        beta = min(0.5, (1 + step) / (10 + step))
        expected = {
            name: beta * expected[name] + (1 - beta) * weight if weight.is_floating_point() else weight
            for name, weight in state.networks["generator"].state_dict().items()
        }
    found, last = published(kind, state)["generator"].state_dict(), state.networks["generator"].state_dict()
    for name, weight in found.items():
        assert torch.allclose(weight.double(), expected[name].double(), atol=1e-6), name
    assert not torch.allclose(found["layers.0.weight"], last["layers.0.weight"], atol=1e-6)


def test_averages_are_saved_with_the_run(tmp_path):
    kind = family("sngan", {"ema": 0.9})
    straight, first, second = (kind.begin(SIZE, seed) for seed in (1, 1, 2))
    for state, steps in ((straight, 6), (first, 3)):
        for _ in range(steps):
            kind.train_step(state, images()[:8], LABELS[:8])
            state.average(kind.averaged)
    save(first, tmp_path, "same", Account(rollbacks=("a loss was nan",)))
    assert restore(second, tmp_path, "same").rollbacks == ("a loss was nan",)
    for _ in range(3):
        kind.train_step(second, images()[:8], LABELS[:8])
        second.average(kind.averaged)
    assert same(straight.averages["generator"], second.averages["generator"])


def test_the_best_of_all_evaluations_is_the_outcome(tmp_path):
    judge = Scripted(9.0, 4.0, 7.0)
    wanted = run(tmp_path, judge)
    wanted.fit(images(), LABELS)
    networks, best = wanted.outcome()
    assert best == Best(4.0, 8)
    assert same(dict(networks.state_dict()), judge.seen[1])
    assert [values["validation_fid"] for values in wanted.reporter.figures.values()] == [9.0, 4.0, 7.0]


def test_without_evaluations_the_last_weights_are_the_outcome(tmp_path):
    wanted = run(tmp_path, evaluations=0)
    wanted.fit(images(), LABELS)
    networks, best = wanted.outcome()
    assert best is None
    assert same(dict(networks.state_dict()), dict(published(wanted.kind, wanted.state).state_dict()))


def test_of_equal_scores_the_first_is_kept_whatever_a_killed_run_had_seen(tmp_path):
    kept, networks = Kept(tmp_path, "same"), family("sngan").build(SIZE)
    for offered in (Best(4.0, 8), Best(4.0, 4), Best(4.0, 8), Best(5.0, 2)):
        kept.offer(offered, networks)
    assert kept.best() == Best(4.0, 4)


def test_the_best_of_another_run_is_refused(tmp_path):
    Kept(tmp_path, "one").offer(Best(4.0, 8), family("sngan").build(SIZE))
    with pytest.raises(ValueError, match="another run"):
        Kept(tmp_path, "two").best()


@pytest.mark.parametrize("name", ["sngan", "lebm"])
def test_an_evaluation_leaves_the_run_as_it_was(name, tmp_path, few):
    kind, ends = family(name), []
    for evaluations in (0, 3):
        judge = Judge(kind, SIZE, "digits", few, torch.device("cpu")) if evaluations else None
        settings = SETTINGS.model_copy(update={"evaluations": evaluations, "steps": 3})
        wanted = Run(settings, tmp_path / str(evaluations), Silent(), kind, kind.begin(SIZE, 1), judge)
        wanted.fit(*few.train)
        ends.append(wanted.state)
    assert same(dict(ends[0].networks.state_dict()), dict(ends[1].networks.state_dict()))
    assert torch.equal(ends[0].random.get_state(), ends[1].random.get_state())


class Copying(Sngan):
    """Its previews are given images, with noise of a given strength."""

    noise: float

    def space(self, networks, size, sampler):
        def decode(normals):
            return images()[: len(normals)] + self.noise * normals.reshape(-1, *SIZE.image_shape)

        return Space((64,), unchanged, decode)


def test_a_score_repeats_and_is_lower_the_closer_images_are_to_validation(few):
    real = Split(images()[:20], LABELS[:20])
    splits = few._replace(validation=real)
    scores = []
    for noise in (0.0, 0.3, 1.0, 1.0):
        kind = Copying(noise=noise)
        scores.append(Judge(kind, SIZE, "digits", splits, torch.device("cpu")).score(kind.build(SIZE)))
    assert scores[0] < scores[1] < scores[2] == scores[3]

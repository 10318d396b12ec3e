"""A run that diverges goes back to its last evaluation, once for each time the same way, and says so."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from models.families.base import Size
from models.families.sngan import Sngan
from models.training.run import MOST_ROLLBACKS, Diverged, Run, TrainingStopped, TrainSettings, reseeded
from models.training.selection import Best
from models.training.state import SOUND
from tests.models.training.reporters import Silent

SETTINGS = TrainSettings(
    name="tiny", family="sngan", dataset="digits", steps=20, batch_size=8, width=8, latent_size=4, seed=1, evaluations=5
)
SIZE = Size(image_shape=(1, 8, 8), latent_size=4, width=8)


class Hasty(Sngan):
    """Loses its critic at step 14 while learning rates are above a bound."""

    bound: float

    def train_step(self, state, images, labels):
        figures = super().train_step(state, images, labels)
        if state.step >= 14 and state.optimizers["critic"].param_groups[0]["lr"] > self.bound:
            figures["loss_critic"] = figures["loss_critic"] * torch.nan
        return figures


class Constant:
    """Scores all weights alike."""

    def score(self, networks):
        return 3.0


def begun(folder: Path, bound: float, stop_at: int | None = None) -> Run:
    kind = Hasty(bound=bound)
    run = Run(SETTINGS, folder, Silent(stop_at), kind, kind.begin(SIZE, 1), Constant())
    run.resume()
    return run


def fitted(run: Run) -> dict[str, torch.Tensor]:
    run.fit(torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(3)), torch.zeros(40, dtype=torch.int64))
    return dict(run.state.networks.state_dict())


def test_a_run_that_diverges_goes_on_from_its_last_evaluation_more_slowly(tmp_path):
    run = begun(tmp_path, bound=1.5e-4)  # the family's rate is 2e-4
    weights = fitted(run)
    assert all(weight.isfinite().all() for weight in weights.values())
    ((step, text),) = run.reporter.notes
    assert step == 12
    assert text.startswith("loss_critic is nan at training step 14: goes on from step 12")
    assert run.account.rollbacks == ("loss_critic is nan at training step 14",)
    assert {group["lr"] for optimizer in run.state.optimizers.values() for group in optimizer.param_groups} == {1e-4}
    assert run.taken == 16 + 8
    assert run.outcome()[1] == Best(3.0, 4)


def test_a_run_killed_around_its_rollbacks_ends_with_the_same_weights(tmp_path):
    undisturbed = begun(tmp_path / "one", bound=0.7e-4)  # it goes back twice
    expected = fitted(undisturbed)
    stopped = begun(tmp_path / "two", bound=0.7e-4, stop_at=16)
    with pytest.raises(TrainingStopped):  # with one or two rollbacks behind it
        fitted(stopped)
    killed = begun(tmp_path / "two", bound=0.7e-4)  # nothing but the folder is left of the other
    found = fitted(killed)
    assert killed.account.rollbacks == undisturbed.account.rollbacks
    assert len(killed.account.rollbacks) == 2
    assert all(torch.equal(weight, expected[name]) for name, weight in found.items())


def test_a_run_that_keeps_diverging_fails_with_every_reason(tmp_path):
    run = begun(tmp_path, bound=0.0)
    with pytest.raises(Diverged, match="step 14; went back 3 times before: (loss_critic is nan at training step 14(; |$)){3}"):
        fitted(run)
    assert len(run.reporter.notes) == MOST_ROLLBACKS
    with safe_open(tmp_path / SOUND, framework="pt") as file:
        assert file.metadata()["step"] == "12"


def test_every_rollback_has_random_numbers_of_its_own():
    seeds = [reseeded(seed, count) for seed in (0, 1, 2**63 - 1) for count in (1, 2, 3)]
    assert len(set(seeds)) == 9
    assert all(0 <= seed < 2**63 for seed in seeds)

"""A run: figures are read now and then, what diverged is never saved nor published, and a state goes on on any device."""

import pytest
import torch
from safetensors import safe_open

from models.checkpoints import Store
from models.families import family
from models.families.base import Size
from models.training.run import REPORT_EVERY, Diverged, Run, TrainingStopped, TrainSettings
from models.training.state import Account, restore, save
from models.training.trainer import train
from tests.models.training.reporters import Silent

SETTINGS = TrainSettings(
    name="tiny", family="sngan", dataset="digits", steps=45, batch_size=8, width=8, latent_size=4, seed=1, calibrate=False
)
SIZE = Size(image_shape=(1, 8, 8), latent_size=4, width=8)


def images(value=0.0):
    return torch.full((20, *SIZE.image_shape), value)


@pytest.fixture(params=["sngan", "lebm"])
def kind(request):
    return family(request.param)


@pytest.fixture
def run(kind, tmp_path):
    return Run(SETTINGS, tmp_path / "run", Silent(), kind, kind.begin(SIZE, 1))


def test_figures_are_reported_every_few_steps_and_after_the_last(kind, run):
    run.fit(images(), torch.zeros(20))
    assert list(run.reporter.figures) == [REPORT_EVERY, 2 * REPORT_EVERY, 45]
    assert all(len(values) == 3 for values in run.reporter.figures.values())
    assert {sample.shape for sample in run.reporter.samples} == {(25, 8, 8, 1)}


def test_a_loss_that_is_not_finite_ends_the_run_by_name_and_step_and_is_not_saved(kind, run):
    run.state.step = 3
    with pytest.raises(Diverged, match="is nan at training step 1; went back 3 times before: .* is nan at training step 4"):
        run.fit(images(torch.nan), torch.zeros(20))
    assert run.state.step <= 3 + REPORT_EVERY
    assert not run.folder.exists()


def test_a_run_asked_to_stop_does_not_save_what_diverged_since_the_last_look(kind, run):
    run.reporter.stop_at = 0
    with pytest.raises(Diverged, match="training step 1"):
        run.fit(images(torch.nan), torch.zeros(20))
    assert not run.folder.exists()


def test_a_weight_that_is_not_finite_is_noticed_though_no_loss_shows_it(kind, run):
    run.state.step = SETTINGS.steps  # no step is left that would show it in a loss
    with torch.no_grad():
        next(run.state.networks.parameters()).fill_(torch.inf)
    run.reporter.stop_at = 1
    with pytest.raises(TrainingStopped):  # it began again
        run.fit(images(), torch.zeros(20))
    assert [step for step, text in run.reporter.notes if "not finite after training step 45" in text] == [0]
    assert all(weight.isfinite().all() for weight in run.state.networks.state_dict().values())


def test_nothing_that_diverged_is_published(tmp_path):
    store = Store(tmp_path / "published", tmp_path / "shipped")
    wanted = SETTINGS.model_copy(update={"family": "lebm", "options": {"sigma": 1e-30}})
    with pytest.raises(Diverged):
        train(wanted, run_folder=tmp_path / "run", store=store, command="", reporter=Silent())
    assert store.versions("tiny") == []


def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    store = Store(tmp_path / "published", tmp_path / "shipped")
    with pytest.raises(TrainingStopped, match="after step 20 of 45"):
        train(SETTINGS, run_folder=tmp_path / "run", store=store, command="", reporter=Silent(stop_at=20))
    with safe_open(tmp_path / "run" / "state.safetensors", framework="pt") as file:
        assert file.metadata()["step"] == "20"


def test_an_option_that_the_family_has_not_is_refused_before_the_first_step(tmp_path):
    wanted = SETTINGS.model_copy(update={"options": {"sigma": 0.2}})
    with pytest.raises(ValueError, match="sigma"):
        train(wanted, run_folder=tmp_path, store=Store(tmp_path), command="", reporter=Silent())


@pytest.mark.filterwarnings("ignore:for .*copying from a non-meta parameter")
def test_a_state_goes_on_on_another_device(kind, tmp_path):
    before = kind.begin(SIZE, 1)
    kind.train_step(before, images(), torch.zeros(20))
    save(before, tmp_path, "same", Account())
    after = kind.begin(SIZE, 2, "meta")
    restore(after, tmp_path, "same")
    assert {parameter.device.type for parameter in after.networks.parameters()} == {"meta"}
    moments = [value for optimizer in after.optimizers.values() for state in optimizer.state.values() for value in state.values()]
    assert {value.device.type for value in moments if value.dim()} == {"meta"}

"""What a run reports can be read back from TensorBoard files, once for each step, and still reaches the other reporter."""

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.models.training.reporters import Silent
from workers.training.tensorboard import TensorBoard, recorded


def read(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def scalars(events, name):
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_figures_samples_and_notes_are_written_and_passed_on(tmp_path):
    silent, images = Silent(), np.zeros((4, 8, 8, 1), np.uint8)
    with recorded(silent, str(tmp_path), "toy") as board:
        board.progress(20, 40, "training")
        board.metrics(20, {"loss": 0.5, "images_per_second": 30.0})
        board.sample(20, images)
        board.metrics(40, {"loss": 0.25})
        assert not board.should_stop()
    events = read(tmp_path / "toy")
    assert scalars(events, "loss") == [(20, 0.5), (40, 0.25)]
    assert scalars(events, "images_per_second") == [(20, 30.0)]
    (picture,) = events.Images("samples")
    assert (picture.step, picture.height, picture.width) == (20, 18, 18)
    assert silent.figures == {20: {"loss": 0.5, "images_per_second": 30.0}, 40: {"loss": 0.25}}
    assert silent.stages == {"training": [(20, 40)]}
    assert silent.samples[0] is images


def test_steps_taken_again_replace_those_before(tmp_path):
    first = TensorBoard(Silent(), tmp_path)
    for step in (20, 40, 60):
        first.metrics(step, {"loss": 1.0})
    first.note(20, "a loss was nan")  # goes back to step 20
    first.metrics(40, {"loss": 2.0})
    first.metrics(60, {"loss": 2.0})
    first.close()  # and a process that was killed since the save at step 40 goes on
    second = TensorBoard(Silent(), tmp_path)
    second.metrics(60, {"loss": 3.0})
    second.close()
    assert scalars(read(tmp_path), "loss") == [(20, 1.0), (40, 2.0), (60, 3.0)]


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    silent = Silent()
    with recorded(silent, "", "toy") as reporter:
        assert reporter is silent
    assert list(tmp_path.iterdir()) == []

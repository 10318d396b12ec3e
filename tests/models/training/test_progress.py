"""Stages after training: each runs from 0 to all of its parts, and any of them may be stopped."""

import pytest

from models.training.progress import Stages
from models.training.run import TrainingStopped


def test_every_stage_is_told_from_its_begin_to_its_end():
    told = []
    stages = Stages(lambda *what: told.append(what))
    stages.stage("calibrating", 3)
    for _ in range(4):  # one more than was foreseen
        stages.advance()
    stages.stage("measuring", 0)
    stages.advance()
    assert (told[0], told[-2:]) == ((0, 3, "calibrating"), [(0, 1, "measuring"), (1, 1, "measuring")])
    assert (3, 3, "calibrating") in told
    assert all(done <= total for done, total, _ in told)


@pytest.mark.parametrize("turn", [lambda stages: stages(), lambda stages: stages.advance(), lambda stages: stages.stage("more", 2)])
def test_a_stage_ends_where_the_run_is_to_stop(turn):
    def stop():
        raise TrainingStopped

    with pytest.raises(TrainingStopped):
        turn(Stages(go_on=stop))


def test_without_a_reporter_nothing_is_told_and_nothing_stops():
    stages = Stages()
    stages.stage("measuring", 2)
    stages.advance()
    stages()

"""`python -m workers.evaluation`: JSON on standard output, progress beside it, and one line for what is wrong."""

import json
from functools import partial
from pathlib import Path

import pytest

from models.checkpoints import Store
from models.metrics.base import Evaluator
from models.training import evaluation
from tests.tiny_models import publish_tiny
from workers.evaluation.__main__ import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(evaluation, "Evaluator", partial(Evaluator, epochs=1))
    publish_tiny(Store(tmp_path), "sngan", "tiny")
    return tmp_path


def test_a_measured_checkpoint_is_written_as_json(folder, capsys):
    out = folder / "found.json"
    words = ["tiny@1", "--samplers", "prior", "--images", "30", "--seeds", "2", "--checkpoints", str(folder)]
    main(words)
    printed = capsys.readouterr()
    main([*words, "--out", str(out)])
    found = json.loads(printed.out)
    assert found == json.loads(out.read_text())  # the same to the last digit
    assert printed.err == "measuring prior\n"
    assert {row["name"] for row in found["metrics"]} >= {"fid", "kid", "precision", "recall", "class-distance", "parzen"}
    assert {(row["split"], row["sampler"], row["images"]) for row in found["metrics"]} == {("test", "prior", 30)}


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["nothing"], "unknown model 'nothing'; there are: "),
        (["tiny@7"], "unknown model 'tiny@7'; there are: tiny@1"),
        (["tiny@first"], "model: 'tiny@first' is no name or name@version"),
        (["tiny", "--samplers", "prior,pixel"], "samplers: tiny offers no 'pixel'; choices: prior, ddls"),
        (["tiny", "--images", "1"], "images: Input should be greater than or equal to 10"),
        (["tiny", "--seeds", "0"], "seeds: Input should be greater than or equal to 1"),
    ],
)
def test_what_is_wrong_is_one_line(words, reason, folder):
    with pytest.raises(SystemExit) as ended:
        main([*words, "--checkpoints", str(folder)])
    assert str(ended.value).startswith(reason)

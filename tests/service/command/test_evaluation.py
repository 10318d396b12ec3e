"""`ebbtide evaluate`: another process measures, and this one prints a table an extractor."""

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from models.cards import Evaluation, Metric
from service.command import evaluation
from service.command.cli import main

ROW = {"split": "test", "images": 100, "seeds": (0, 1)}
FOUND = Evaluation(
    model="tiny",
    version=2,
    digest="0" * 64,
    dataset="digits",
    torch="2",
    device="cpu",
    metrics=(
        Metric(name="kid", sampler="prior", value=0.01234, spread=0.0011, floor=0.0001, extractor="first", **ROW),
        Metric(name="fid", sampler="prior", value=12.345, spread=0.51, floor=1.5, extractor="first", **ROW),
        Metric(name="fid", sampler="ddls", value=6.5, floor=1.5, extractor="first", **ROW),
        Metric(name="parzen", sampler="prior", value=225.0, spread=2.0, extractor=None, **ROW),
    ),
)


def test_a_table_has_samplers_across_figures_down_and_the_floor_last() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    for table in evaluation.tables(FOUND):
        console.print(table)
    lines = [line.split() for line in console.export_text().splitlines()]
    assert lines == [
        ["tiny@2,", "first"],
        ["prior", "ddls", "real", "images"],
        ["fid", "12.3", "±", "0.5", "6.5", "1.5"],
        ["kid", "0.0123", "±", "0.001", "0.0001"],
        ["tiny@2,", "pixels"],
        ["prior", "real", "images"],
        ["parzen", "225", "±", "2"],
    ]


@pytest.mark.system
def test_what_is_wrong_is_said_by_the_process_that_measures(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["ebbtide", "evaluate", "digits-sngan", "--samplers", "pixel", "--data", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "samplers: digits-sngan offers no 'pixel'; choices: prior, ddls" in capsys.readouterr().err

"""`ebbtide evaluate`: runs `python -m workers.evaluation` on this machine and prints what it found as a table."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from models.cards import Evaluation, Metric

LEADING = ("fid", "kid", "precision", "recall", "density", "coverage", "confidence", "class-distance")  # first, in this order


class EvaluationError(Exception):
    """The evaluation failed; the message is its last line."""


def run(arguments: Sequence[str], data: Path) -> Evaluation:
    """Runs the evaluation with the arguments of `python -m workers.evaluation`; its progress goes to stderr. Raises EvaluationError."""
    command = [sys.executable, "-m", "workers.evaluation", *arguments]
    environment = os.environ | {"EBBTIDE_DATA": str(data)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        last = ""
        for line in process.stderr:  # its output is one line of JSON at the end and fits the pipe only once this is read
            last = line.strip() or last
            print(line, end="", file=sys.stderr, flush=True)
        found = process.stdout.read()
    if process.returncode:
        raise EvaluationError(last)
    return Evaluation.model_validate_json(found)


def tables(found: Evaluation) -> list[Table]:
    """A table for each extractor: figures down, samplers across, and last what real images of another split get."""
    extractors = dict.fromkeys(metric.extractor for metric in found.metrics)
    return [
        _table(f"{found.model}@{found.version}, {extractor or 'pixels'}", [row for row in found.metrics if row.extractor == extractor])
        for extractor in extractors
    ]


def _table(title: str, metrics: list[Metric]) -> Table:
    samplers = list(dict.fromkeys(metric.sampler or "" for metric in metrics))
    cells = {(metric.name, metric.sampler): metric for metric in metrics}
    table = Table("", *samplers, "real images", title=title, title_justify="left", box=None)
    for name in sorted({metric.name for metric in metrics}, key=_place):
        row = [cells.get((name, sampler)) for sampler in samplers]
        floor = next((metric.floor for metric in row if metric is not None), None)
        table.add_row(name, *map(_cell, row), "" if floor is None else f"{floor:.3g}")
    return table


def _place(name: str) -> tuple[int, str]:
    """Where a figure stands in the table."""
    return (LEADING.index(name) if name in LEADING else len(LEADING), name)


def _cell(metric: Metric | None) -> str:
    if metric is None:
        return ""
    return f"{metric.value:.3g}" + ("" if metric.spread is None else f" ± {metric.spread:.1g}")

"""Prints the README's table of the checkpoints that ship, from their cards: `python docs/tables.py`."""

from collections.abc import Iterator
from pathlib import Path

from models.cards import Metric, ModelCard
from models.checkpoints import Store

HEADING = ("checkpoint", "data", "sampler", "FID, first extractor", "FID, second extractor", "precision", "recall")
FIGURES = (("fid", 0), ("fid", 1), ("precision", 0), ("recall", 0))  # names, and which extractor


def main() -> None:
    """The table in Markdown."""
    print("\n".join(lines()))


def lines() -> Iterator[str]:
    """Heading and rows: each sampler of each checkpoint beside the checkpoint's prior."""
    yield f"| {' | '.join(HEADING)} |"
    yield "|" + "---|" * len(HEADING)
    for card in Store(Path("nowhere")).cards():
        for sampler in [name for name in card.samplers if name != "prior"] or ["prior"]:
            yield row(card, sampler)


def row(card: ModelCard, sampler: str) -> str:
    """Each figure as `prior` has it, an arrow, and as the sampler has it."""
    extractors = list(dict.fromkeys(metric.extractor for metric in card.metrics if metric.name == "fid"))
    found = {(metric.name, metric.sampler, metric.extractor): metric for metric in card.metrics}
    cells = [f"`{card.name}`", card.training.dataset, "" if sampler == "prior" else f"`{sampler}`"]
    for name, place in FIGURES:
        cells.append(" → ".join(shown(found[name, drawn, extractors[place]]) for drawn in dict.fromkeys(("prior", sampler))))
    return f"| {' | '.join(cells)} |"


def shown(metric: Metric) -> str:
    """A distance to three digits with its spread, a share to three decimals."""
    if metric.name == "fid":
        return f"{metric.value:.3g} ± {metric.spread or 0:.2g}"
    return f"{metric.value:.3f}".removeprefix("0")


if __name__ == "__main__":
    main()

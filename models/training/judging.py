"""Every metric of what a sampler draws, over seeds, in every extractor, beside the same figure of real images: rows for a card."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import TypeAlias

from torch import Tensor

from models import metrics
from models.cards import Metric
from models.datasets import Split, Splits
from models.metrics.base import Draws, Evaluator, Reference

Figures: TypeAlias = dict[tuple[str, str | None], float]  # by the name of the figure and the extractor, None where there is none
REFERENCE = 10_000  # real images compared with, at most


@dataclass(frozen=True)
class Judge:
    """Compares with the images of one split; `others` are real images of another, which a perfect sampler could only equal."""

    references: tuple[Reference, ...]  # one for each extractor
    others: Draws
    split: str
    seen: Tensor  # the classes that the model was trained on, (classes,)
    floors: Figures = field(default_factory=dict)  # measured when first needed

    @classmethod
    def on_test(cls, evaluator: Evaluator, splits: Splits, images: int) -> Judge:
        """Judges by `test`; the floors come from as many images of `validation` as will be drawn."""
        others = splits.validation.images[:images].to(evaluator.device)
        return cls(evaluator.references(splits.test.first(REFERENCE)), Draws(others), "test", splits.train.labels.unique())

    def judged(self, sampler: str, draw: Callable[[int], Draws], seeds: tuple[int, ...]) -> Iterator[Metric]:
        """Every figure that all the seeds have; `draw` gives the draws of a seed."""
        found: dict[tuple[str, str | None], list[float]] = {}
        sizes = []
        for seed in seeds:
            draws = draw(seed)
            sizes.append(len(draws.images))
            for key, value in self._figures(draws):
                found.setdefault(key, []).append(value)
        floors = self._floors()
        for (name, extractor), values in found.items():
            if len(values) == len(seeds):
                floor = floors.get((name, extractor))
                yield Metric(
                    name=name,
                    sampler=sampler,
                    value=_short(mean(values)),
                    spread=_short(stdev(values)) if len(values) > 1 else None,
                    floor=None if floor is None else _short(floor),
                    split=self.split,
                    extractor=extractor,
                    images=max(sizes),
                    seeds=seeds,
                )

    def some(self, images: int) -> Split:
        """The first images compared with, and their labels."""
        return Split(self.references[0].images, self.references[0].labels).first(images)

    def _figures(self, draws: Draws) -> Iterator[tuple[tuple[str, str | None], float]]:
        """Of one seed: the name of a figure and the extractor it was measured in, with the figure."""
        for file in metrics.names():
            compared, measure = metrics.compared(file), metrics.load(file)
            if (compared == "reconstructions") == (draws.explained is None):
                continue
            for reference in self.references if compared == "features" else self.references[:1]:
                for name, value in measure(draws, reference).items():
                    yield (name, reference.description if compared == "features" else None), value

    def _floors(self) -> Figures:
        """What the other real images get."""
        if not self.floors:
            self.floors.update(self._figures(self.others))
        return self.floors


def _short(value: float) -> float:
    """Four significant digits: the rest is noise."""
    return float(f"{value:.4g}")

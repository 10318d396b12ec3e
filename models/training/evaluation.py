"""Measures a published checkpoint again: every figure of its card, on as many images and seeds as asked for, with two oracles beside.

`SAMPLER-reweighted` are prior images resampled by exp(log p(z) - log p0(z)), what chains of that sampler aim at, with no chain in the way.
`classes-balanced` are prior images resampled so that a classifier finds the classes as often as in the data: what a sampler must beat to
have done more than that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from pydantic import Field
from torch import Tensor

from models.cards import Evaluation, Frozen, Metric, ModelCard, SamplerName
from models.checkpoints import Store
from models.datasets import Splits
from models.device import name_of, read, send
from models.families import family
from models.families.base import Size
from models.kernels import Kernel
from models.metrics.base import Draws, Evaluator, Reference, log_probabilities_of
from models.metrics.classes import shares
from models.targets.base import standard_normal
from models.training.judging import Judge
from models.training.measurement import Subject, Trained

POOL = 4  # prior images drawn for each that an oracle keeps


class EvaluationSettings(Frozen):
    """What to measure of a checkpoint."""

    samplers: tuple[SamplerName, ...] | None = Field(None, description="those to measure; all that the card offers if unset")
    images: int = Field(2000, ge=10, le=100_000, description="images of each sampler and seed")
    seeds: int = Field(3, ge=1, le=100, description="how many seeds: 0, 1, ...")
    oracle: bool = Field(False, description="add the rows that exact reweighting and balanced classes give")


def evaluate(
    store: Store, card: ModelCard, splits: Splits, settings: EvaluationSettings, *, device: torch.device, report: Callable[[str], None]
) -> Evaluation:
    """Every figure of the samplers on `splits.test`; `report` hears each sampler's name before its chains run.

    Raises ValueError for a sampler that the card does not offer, DamagedWeights for weights that are not the card's.
    """
    samplers = chosen(card, settings)
    trained = loaded(store, card, device)
    subject = Subject.of(trained, settings.images)
    judge = Judge.on_test(Evaluator(splits.evaluator, card.training.dataset, device=device), splits, settings.images)
    seeds, rows = tuple(range(settings.seeds)), list[Metric]()
    for name, draw in _drawn(subject, samplers, judge, settings):
        report(name)
        rows += judge.judged(name, draw, seeds)
    return Evaluation(
        model=card.name,
        version=card.version,
        digest=card.digest,
        dataset=card.training.dataset,
        torch=torch.__version__,
        device=name_of(device),
        metrics=tuple(rows),
    )


def chosen(card: ModelCard, settings: EvaluationSettings) -> dict[str, Kernel | None]:
    """The samplers to measure, with the card's kernels. Raises ValueError for one that it does not offer."""
    names = tuple(card.samplers) if settings.samplers is None else settings.samplers
    for name in names:
        if name not in card.samplers:
            raise ValueError(f"samplers: {card.name} offers no {name!r}; choices: {', '.join(card.samplers)}")
    return {name: card.samplers[name] for name in names}


def loaded(store: Store, card: ModelCard, device: torch.device) -> Trained:
    """A published checkpoint as it was before publication. Raises DamagedWeights."""
    kind, size = family(card.family, card.options), Size.model_validate(card.networks)
    networks = kind.assemble(size).eval()
    networks.load_state_dict(store.weights(card))
    return Trained(card.name, card.family, kind, networks.to(device), size, card.training, device)


def _drawn(
    subject: Subject, samplers: Mapping[str, Kernel | None], judge: Judge, settings: EvaluationSettings
) -> Iterator[tuple[str, Callable[[int], Draws]]]:
    """The rows' names and what draws each from a seed."""
    for name, kernel in samplers.items():
        yield name, partial(subject.draws, name, kernel)
    if settings.oracle:
        oracle = Oracle(replace(subject, images=POOL * settings.images), settings.images)
        if judge.references[0].classes:
            yield "classes-balanced", partial(oracle.balanced, judge.references[0])
        for name, kernel in samplers.items():
            if kernel and oracle.reaches(name):
                yield f"{name}-reweighted", partial(oracle.reweighted, name)
    if subject.kind.reconstructs:
        yield "posterior", partial(subject.explain, judge.some(settings.images), judge.seen)


@dataclass(frozen=True)
class Oracle:
    """Draws from the prior and resamples, without any chain."""

    subject: Subject  # draws the pool
    kept: int

    def reaches(self, sampler: str) -> bool:
        """Whether the sampler's points are those of the prior, so that weights between the two exist."""
        spaces = self.subject.spaces
        return spaces[sampler].shape == spaces["prior"].shape

    def reweighted(self, sampler: str, seed: int) -> Draws:
        """Prior images resampled by weights p(z)/p0(z) of the sampler's target."""
        points = self.subject.points("prior", seed)
        log_weights = standard_normal(points) - self.subject.energies(sampler, points)
        return self._resampled(points, read(log_weights), seed)

    def balanced(self, reference: Reference, seed: int) -> Draws:
        """Prior images resampled so that the reference's extractor finds each class as often as among the reference's images."""
        points = self.subject.points("prior", seed)
        drawn = Draws(self.subject.images_of("prior", points)).log_probabilities(reference.extractor)
        wanted = shares(log_probabilities_of(reference.features, reference.extractor))
        return self._resampled(points, (wanted / shares(drawn)).log()[drawn.argmax(1)], seed)

    def _resampled(self, points: Tensor, log_weights: Tensor, seed: int) -> Draws:
        rows = resampled(log_weights, self.kept, torch.Generator().manual_seed(seed))
        images = self.subject.images_of("prior", points)
        return Draws(images[send(rows, images.device)])


def resampled(log_weights: Tensor, count: int, random: torch.Generator) -> Tensor:
    """Rows drawn with replacement in proportion to exp of their weight, (rows,) to (count,): self-normalised importance resampling."""
    weights = (log_weights.double() - log_weights.max()).exp()
    return torch.multinomial(weights, count, replacement=True, generator=random)

"""From trained networks to a published version: calibrate where a sampler needs it, tune, measure, choose defaults, write the card."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import replace
from functools import partial

from models.calibration.settings import RatioHead
from models.cards import Metric, ModelCard
from models.checkpoints import Store
from models.datasets import Split, Splits
from models.images import encode_png, grid, to_pixels
from models.kernels import Kernel
from models.metrics.base import Draws, Evaluator
from models.training.calibration import Judges, Outcome, Plan, calibrated, uncalibrated
from models.training.judging import Judge
from models.training.measurement import SEEDS, Subject, Trained, affordable, evaluations
from models.training.progress import Stages
from models.training.tuning import TRIALS, tuned

SHOWN = 36  # images of samples.png
BUDGET = 6e12  # floating-point operations of the energies of all seeds: one to two minutes on two cores
FEWEST, MOST = 500, 10_000  # images of a seed that metrics see
EXPLAINED = 200  # images that reconstructions are measured on, at most


def publish(trained: Trained, splits: Splits, store: Store, stages: Stages, *, calibrate: bool) -> ModelCard:
    """Publishes the next version of the model with its measured metrics, calibrated first where it needs that and gets better by it.

    `splits` are on the CPU. It takes minutes: `stages` hears how far it is, last before the version appears, and may raise, which
    ends it there.
    """
    evaluator = Evaluator(splits.evaluator, trained.origin.dataset, device=trained.device)
    if calibrate and trained.kind.needs_calibration:
        judges = Judges(evaluator.against(splits.validation), evaluator.against(splits.test))
        plan = Plan(RatioHead(), trained.origin.dataset, trained.origin.seed)
        outcome = calibrated(trained, plan, splits.to(trained.device), judges, stages)
    else:
        outcome = uncalibrated(trained)
    return place(outcome, evaluator, splits, store, stages)


def place(outcome: Outcome, evaluator: Evaluator, splits: Splits, store: Store, stages: Stages) -> ModelCard:
    """Chooses kernel settings for a model as it is, measures it, and publishes it as the next version."""
    trained, kind, validation = outcome.trained, outcome.trained.kind, evaluator.against(splits.validation)
    subject, samplers = Subject.of(trained, 0), dict[str, Kernel | None]()
    offered = {name: kernel for name, kernel in kind.samplers().items() if outcome.calibration or name not in kind.only_calibrated}
    stages.stage("tuning", TRIALS * sum(kernel is not None for kernel in offered.values()))
    for name, kernel in offered.items():
        samplers[name] = tuned(subject, name, kernel, validation, advance=stages.advance) if kernel else None
    subject = replace(subject, images=images_to_draw(subject, samplers, 2 * len(splits.test.images)))
    card = described(outcome, subject, samplers)
    stages.stage("measuring", len(SEEDS) * (len(samplers) + kind.reconstructs))
    figures = measured(subject, samplers, Judge.on_test(evaluator, splits, subject.images), stages.advance)
    card = card.model_copy(update={"metrics": figures, "remarks": remarked(trained, subject, samplers, splits.validation)})
    shown = grid(to_pixels(replace(subject, images=SHOWN).draws(card.default_sampler, samplers[card.default_sampler], SEEDS[0]).images))
    stages()
    return store.publish(card, dict(trained.networks.state_dict()), encode_png(shown, {"Software": "Ebbtide"}), outcome.files)


def images_to_draw(subject: Subject, samplers: Mapping[str, Kernel | None], enough: int) -> int:
    """How many images of each seed the budget allows for the dearest sampler; the others draw as many, so that figures compare."""
    costs = [subject.operations[name] * evaluations(kernel) * len(SEEDS) for name, kernel in samplers.items() if kernel]
    return min(affordable(BUDGET, max(costs, default=1), FEWEST, MOST), enough)


def measured(
    subject: Subject, samplers: Mapping[str, Kernel | None], judge: Judge, advance: Callable[[], None] = lambda: None
) -> tuple[Metric, ...]:
    """Every figure of every sampler, then those of reconstructions where the family infers latents; `advance` hears of each seed."""

    def counted(draw: Callable[[int], Draws]) -> Callable[[int], Draws]:
        def drawn(seed: int) -> Draws:
            draws = draw(seed)
            advance()
            return draws

        return drawn

    figures: list[Metric] = []
    for name, kernel in samplers.items():
        figures += judge.judged(name, counted(partial(subject.draws, name, kernel)), SEEDS)
    if subject.kind.reconstructs:
        figures += judge.judged("posterior", counted(partial(subject.explain, judge.some(EXPLAINED), judge.seen)), SEEDS)
    return tuple(figures)


def remarked(trained: Trained, subject: Subject, samplers: Container[str], split: Split) -> dict[str, str]:
    """What results of the samplers offered should warn of."""
    drawn = replace(subject, images=len(split.images)).draws("prior", None, SEEDS[0]).images
    remarks = trained.kind.remarks(trained.networks, split.images.to(trained.device), drawn)
    return {name: remark for name, remark in remarks.items() if name in samplers}


def described(outcome: Outcome, subject: Subject, samplers: Mapping[str, Kernel | None]) -> ModelCard:
    """The card without its figures; the store fills in version and digest."""
    trained, kind = outcome.trained, outcome.trained.kind
    unfit = outcome.calibration is None and kind.default_sampler in kind.needs_calibration
    return ModelCard(
        name=trained.name,
        version=1,
        family=trained.family,
        options=kind.model_dump(mode="json"),
        description=f"{kind.description}, trained on {trained.origin.dataset}",
        image_shape=trained.size.image_shape,
        latent_shape=subject.spaces["prior"].shape,
        classes=kind.classes(trained.size),
        networks=trained.size.model_dump(),
        samplers=dict(samplers),
        default_sampler="prior" if unfit else kind.default_sampler,
        needs_calibration=kind.needs_calibration,
        calibration=outcome.calibration,
        training=trained.origin,
        digest="0" * 64,
    )

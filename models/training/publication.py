"""From trained networks to a published version: calibrate where a sampler needs it, measure, choose defaults, write the card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from models.calibration.settings import RatioHead
from models.cards import Metric, ModelCard
from models.checkpoints import Store
from models.datasets import Splits
from models.images import encode_png, grid, to_pixels
from models.kernels import Kernel
from models.metrics.base import Evaluator
from models.training.calibration import Judges, Outcome, Plan, calibrated, uncalibrated
from models.training.measurement import SEEDS, Subject, Trained

SHOWN = 36  # images of samples.png


def publish(trained: Trained, splits: Splits, store: Store, go_on: Callable[[], None], *, calibrate: bool) -> ModelCard:
    """Publishes the next version of the model with its measured metrics, calibrated first where it needs that and gets better by it.

    `splits` are on the CPU. It takes minutes: `go_on` is called between its parts, and last before the version appears; what it
    raises ends it there.
    """
    evaluator = Evaluator(splits.evaluator, trained.origin.dataset, device=trained.device)
    judges = Judges(evaluator.against(splits.validation), evaluator.against(splits.test))
    if calibrate and trained.kind.needs_calibration:
        plan = Plan(RatioHead(), trained.origin.dataset, trained.origin.seed)
        outcome = calibrated(trained, plan, splits.to(trained.device), judges, go_on)
    else:
        outcome = uncalibrated(trained)
    return place(outcome, judges, store, go_on)


def place(outcome: Outcome, judges: Judges, store: Store, go_on: Callable[[], None]) -> ModelCard:
    """Measures a model as it is, chooses kernel settings, and publishes it as the next version."""
    trained, calibration, validation, test = outcome.trained, outcome.calibration, *judges
    kind, needed = trained.kind, trained.kind.needs_calibration
    subject = Subject.of(trained, 2 * len(test.images))  # two samples for every real image
    samplers: dict[str, Kernel | None] = {}
    figures: list[Metric] = []
    for name, kernel in kind.samplers().items():
        if calibration is None and name in kind.only_calibrated:
            continue
        go_on()
        samplers[name] = replace(subject, images=len(validation.images)).tuned(name, kernel, validation) if kernel else None
        go_on()
        figures += subject.figures(name, samplers[name], test)
    default = "prior" if calibration is None and kind.default_sampler in needed else kind.default_sampler
    card = ModelCard(
        name=trained.name,
        version=1,
        family=trained.family,
        options=kind.model_dump(mode="json"),
        description=f"{kind.description}, trained on {trained.origin.dataset}",
        image_shape=trained.size.image_shape,
        latent_shape=subject.spaces["prior"].shape,
        classes=kind.classes(trained.size),
        networks=trained.size.model_dump(),
        samplers=samplers,
        default_sampler=default,
        needs_calibration=needed,
        calibration=calibration,
        metrics=tuple(figures),
        training=trained.origin,
        digest="0" * 64,  # the store fills it in
    )
    shown = grid(to_pixels(replace(subject, images=SHOWN).draws(default, samplers[default], SEEDS[0]).images))
    go_on()
    return store.publish(card, dict(trained.networks.state_dict()), encode_png(shown, {"Software": "Ebbtide"}), outcome.files)

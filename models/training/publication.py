"""From trained networks to a published version: calibrate where a sampler needs it, measure, choose defaults, write the card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from models.cards import Metric, ModelCard
from models.checkpoints import Store
from models.datasets import Images
from models.images import encode_png, grid, to_pixels
from models.kernels import Kernel
from models.metrics.base import Reference
from models.training.calibration import calibrated
from models.training.measurement import SEEDS, Subject, Trained

SHOWN = 36  # images of samples.png


def publish(trained: Trained, images: Images, store: Store, go_on: Callable[[], None], *, calibrate: bool) -> ModelCard:
    """Publishes the next version of the model with its measured metrics; calibrates `trained.networks` in place.

    `images` are on the CPU. It takes minutes: `go_on` is called between its parts, and last before the version appears; what it
    raises ends it there.
    """
    kind, needed = trained.kind, trained.kind.needs_calibration
    reference = Reference(images, trained.origin.dataset, device=trained.device)
    go_on()
    kind.uncalibrate(trained.networks)
    calibration = calibrated(trained, images.to(trained.device), reference, go_on) if calibrate and needed else None
    subject = Subject.of(trained, 2 * len(images.held_out))  # two samples for every held-out image
    samplers: dict[str, Kernel | None] = {}
    figures: list[Metric] = []
    for name, kernel in kind.samplers().items():
        go_on()
        samplers[name] = replace(subject, images=len(images.held_out)).tuned(name, kernel, reference) if kernel else None
        go_on()
        figures += subject.figures(name, samplers[name], reference)
    default = "prior" if calibration is None and kind.default_sampler in needed else kind.default_sampler
    card = ModelCard(
        name=trained.name,
        version=1,
        family=trained.family,
        options=kind.model_dump(mode="json"),
        description=f"{kind.description}, trained on {trained.origin.dataset}",
        image_shape=trained.size.image_shape,
        latent_shape=subject.spaces["prior"].shape,
        networks=trained.size.model_dump(),
        samplers=samplers,
        default_sampler=default,
        needs_calibration=needed,
        calibration=calibration,
        metrics=tuple(figures),
        training=trained.origin,
        digest="0" * 64,  # the store fills it in
    )
    shown = replace(subject, images=SHOWN).draws(default, samplers[default], SEEDS[0]).images
    go_on()
    return store.publish(card, dict(trained.networks.state_dict()), encode_png(grid(to_pixels(shown)), {"Software": "Ebbtide"}))

"""From trained networks to a published version: calibrate where there is a critic, measure, choose defaults, write the card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import mean

import torch
from torch import nn

from models.cards import Calibration, Metric, ModelCard, SamplerName, Training
from models.checkpoints import Store
from models.datasets import Images
from models.families import family
from models.families.base import Family, Size
from models.images import encode_png, grid, to_pixels
from models.inference.prepared import prepare
from models.kernels import Kernel
from models.metrics.fid import Evaluator
from models.training.calibration import fit_ratio_head, reweighted
from models.training.measurement import SEEDS, Subject, over_seeds

SHOWN = 36  # images of samples.png


@dataclass(frozen=True)
class Trained:
    """Plain networks in eval mode, and where they came from."""

    name: str
    family: str
    networks: nn.ModuleDict
    size: Size
    origin: Training
    calibrate: bool

    @property
    def kind(self) -> Family:
        return family(self.family)


def publish(trained: Trained, images: Images, store: Store, go_on: Callable[[], None]) -> ModelCard:
    """Publishes the next version of the model with what is measured of it; fits the ratio head of `trained.networks` in place.

    It takes minutes: `go_on` is called between its parts, and last before the version appears; what it raises ends it there.
    """
    evaluator = Evaluator(images, trained.origin.dataset)
    go_on()
    calibration = _calibrated(trained, images, evaluator, go_on) if "ratio" in trained.networks else None
    subject = _subject(trained, evaluator, images)
    samplers: dict[str, Kernel | None] = {}
    metrics: list[Metric] = []
    for name, kernel in trained.kind.samplers().items():
        go_on()
        samplers[name] = replace(subject, images=len(images.held_out)).tuned(name, kernel) if kernel else None
        go_on()
        metrics.append(subject.fid(name, samplers[name]))
    honest = calibration is not None or "ratio" not in trained.networks
    default: SamplerName = trained.kind.default_sampler if honest else "prior"
    card = ModelCard(
        name=trained.name,
        version=1,
        family=trained.family,
        description=f"{trained.kind.description}, trained on {trained.origin.dataset}",
        image_shape=trained.size.image_shape,
        latent_shape=(trained.size.latent_size,),
        networks=trained.size.model_dump(),
        samplers=samplers,
        default_sampler=default,
        calibration=calibration,
        metrics=tuple(metrics),
        training=trained.origin,
        digest="0" * 64,  # the store fills it in
    )
    shown = replace(subject, images=SHOWN).samples(default, samplers[default], SEEDS[0])
    go_on()
    return store.publish(card, dict(trained.networks.state_dict()), encode_png(grid(to_pixels(shown)), {"Software": "Ebbtide"}))


def _calibrated(trained: Trained, images: Images, evaluator: Evaluator, go_on: Callable[[], None]) -> Calibration | None:
    """Fits the ratio head and keeps it if its oracle lowers FID by more than the seeds' spread; else the raw critic takes its place."""
    networks, raw = trained.networks, trained.networks["critic"].state_dict()
    networks["ratio"].load_state_dict(raw)
    if not trained.calibrate:
        return None
    networks["ratio"].load_state_dict(trained.kind.build(trained.size)["ratio"].state_dict())
    generator = prepare(networks, torch.device("cpu"))["generator"]
    loss = fit_ratio_head(networks["ratio"], generator, images.train, images.held_out, latent=trained.size.latent_size)
    go_on()
    subject = _subject(trained, evaluator, images)
    fid_prior, spread = over_seeds(lambda seed: evaluator.distance(subject.samples("prior", None, seed)))
    shares: list[float] = []

    def oracle(seed: int) -> float:
        samples = subject.samples("prior", None, seed)
        with torch.no_grad():
            log_ratio = torch.cat([networks["ratio"](part) for part in samples.split(500)])
        rows, share = reweighted(log_ratio, torch.Generator().manual_seed(seed))
        shares.append(share)
        return evaluator.distance(samples[rows])

    fid_reweighted, _ = over_seeds(oracle)
    if fid_reweighted >= fid_prior - spread:
        networks["ratio"].load_state_dict(raw)
        return None
    return Calibration(
        method="ratio-head",
        held_out_loss=round(loss, 4),
        weights_ess=round(mean(shares), 4),
        fid_prior=round(fid_prior, 3),
        fid_reweighted=round(fid_reweighted, 3),
        fid_spread=round(spread, 3),
    )


def _subject(trained: Trained, evaluator: Evaluator, images: Images) -> Subject:
    """The networks as they will be served, and two samples for every held-out image."""
    networks = prepare(trained.networks, torch.device("cpu"))
    kind = trained.kind
    return Subject(kind.decoder(networks), kind.targets(networks), trained.size.latent_size, evaluator, 2 * len(images.held_out))

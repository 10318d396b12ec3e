"""From trained networks to a published version: calibrate where there is a critic, measure, choose defaults, write the card."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import mean

import torch
from torch import nn

from models.calibration import fit_ratio_head, reweighted
from models.cards import Calibration, ModelCard, SamplerName, Training
from models.checkpoints import Store
from models.datasets import Images
from models.families import family
from models.families.base import Family, Size
from models.images import encode_png, grid, to_pixels
from models.kernels import Kernel
from models.measurement import SEEDS, Subject, over_seeds
from models.metrics.fid import Evaluator
from models.prepared import prepare

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


def publish(trained: Trained, images: Images, store: Store) -> ModelCard:
    """Publishes the next version of the model with what is measured of it; fits the ratio head of `trained.networks` in place."""
    evaluator = Evaluator(images, trained.origin.dataset)
    calibration = _calibrated(trained, images, evaluator) if "ratio" in trained.networks else None
    subject = _subject(trained, evaluator, images)
    samplers: dict[SamplerName, Kernel | None] = {
        name: replace(subject, images=len(images.held_out)).tuned(name, kernel) if kernel else None
        for name, kernel in trained.kind.samplers().items()
    }
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
        metrics=tuple(subject.fid(name, kernel) for name, kernel in samplers.items()),
        training=trained.origin,
        digest="0" * 64,  # the store fills it in
    )
    shown = replace(subject, images=SHOWN).samples(default, samplers[default], SEEDS[0])
    return store.publish(card, dict(trained.networks.state_dict()), encode_png(grid(to_pixels(shown)), {"Software": "Ebbtide"}))


def _calibrated(trained: Trained, images: Images, evaluator: Evaluator) -> Calibration | None:
    """Fits the ratio head and keeps it if its oracle lowers FID by more than the seeds' spread; else the raw critic takes its place."""
    networks, raw = trained.networks, trained.networks["critic"].state_dict()
    networks["ratio"].load_state_dict(raw)
    if not trained.calibrate:
        return None
    networks["ratio"].load_state_dict(trained.kind.build(trained.size)["ratio"].state_dict())
    generator = prepare(networks, torch.device("cpu"))["generator"]
    loss = fit_ratio_head(networks["ratio"], generator, images.train, images.held_out, latent=trained.size.latent_size)
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

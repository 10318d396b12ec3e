"""Calibrates a trained model; keeps the calibration only if resampling the prior's images by their weights lowers FID."""

from __future__ import annotations

from collections.abc import Callable
from statistics import mean

import torch
from torch import Tensor

from models.cards import Calibration
from models.datasets import Splits
from models.device import read, send
from models.families.base import Fit
from models.metrics.base import Reference
from models.metrics.fid import distance
from models.training.measurement import CHUNK, Subject, Trained, over_seeds


def calibrated(trained: Trained, splits: Splits, reference: Reference, go_on: Callable[[], None]) -> Calibration | None:
    """Calibrates `trained.networks` in place if that lowers FID by more than the seeds' spread; else they stay uncalibrated.

    `splits` are on the device of the networks, `reference` holds validation images; `go_on` is called between the parts and may raise.
    """
    subject = Subject.of(trained, 2 * len(reference.images))
    prior = subject.spaces["prior"]

    def draw(count: int, random: torch.Generator) -> Tensor:
        return prior.decode(prior.start(send(torch.randn(count, *prior.shape, generator=random), trained.device)))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trained.origin.seed)
        fit = trained.kind.calibrate(trained.networks, trained.size, splits, draw)
    go_on()
    calibration = assessed(fit, subject, reference)
    if calibration is None:
        trained.kind.uncalibrate(trained.networks)
    return calibration


def assessed(fit: Fit, subject: Subject, reference: Reference) -> Calibration | None:
    """FID of the prior's images, and of the same ones resampled by the fitted weights; None where that is no better."""
    shares: list[float] = []

    def images_of(seed: int) -> Tensor:
        return subject.draws("prior", None, seed).images

    def oracle(seed: int) -> float:
        drawn = images_of(seed)
        with torch.no_grad():
            log_weight = read(torch.cat([fit.log_weight(part) for part in drawn.split(2 * CHUNK)]))
        rows, share = reweighted(log_weight, torch.Generator().manual_seed(seed))
        shares.append(share)
        return distance(drawn[send(rows, drawn.device)], reference)

    fid_prior, spread = over_seeds(lambda seed: distance(images_of(seed), reference))
    fid_reweighted, _ = over_seeds(oracle)
    if fid_reweighted >= fid_prior - spread:
        return None
    return Calibration(
        method=fit.method,
        held_out_loss=round(fit.held_out_loss, 4),
        weights_ess=round(mean(shares), 4),
        fid_prior=round(fid_prior, 3),
        fid_reweighted=round(fid_reweighted, 3),
        fid_spread=round(spread, 3),
    )


def reweighted(log_weight: Tensor, random: torch.Generator) -> tuple[Tensor, float]:
    """Self-normalised importance resampling by exp(d), (rows,): the rows drawn, (rows,), and the weights' effective fraction."""
    weights = (log_weight.double() - log_weight.max()).exp()
    share = float(weights.sum().square() / weights.square().sum() / len(weights))
    return torch.multinomial(weights, len(weights), replacement=True, generator=random), share

"""The figures that say whether a network is the log density ratio d = log p_data/p_generator, with what each is for a perfect one.

Slope 1 and intercept 0 in a logistic regression on d; E_data[e^-d] = E_model[e^d] = 1, since each is the integral of the other density;
|Z| < 2 with Z = Σ(y - p)/√Σp(1 - p), p = σ(d + log(n_data/n_model)), y = 1 for data  (MH-GAN, Turner et al. 2019, arXiv 1811.11357).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from statistics import mean, stdev

import torch
from torch import Tensor

from models.calibration.evidence import Evidence, effective_share
from models.calibration.logistic import fit_line
from models.calibration.ratio_head import classification_loss
from models.calibration.reliability import Reliability
from models.cards import Assessment

LEAST_GAIN = 0.01  # of the prior's FID: where all images are nearly the same, the spread is next to nothing


def assess(evidences: Iterable[Evidence], log_ratios: Callable[[Evidence], tuple[Tensor, Tensor]]) -> tuple[Assessment, Reliability]:
    """Figures of a log ratio on the same real images and, in each evidence, others of the prior; and its reliability.

    `log_ratios` gives those of the real and of the generated images. FIDs and class distances are means over the evidences.
    """
    rows, fakes = [], []
    for evidence in evidences:
        real, fake = log_ratios(evidence)
        fakes.append(fake)
        rows.append((evidence.fid(), evidence.fid(fake), evidence.class_distance(), evidence.class_distance(fake)))
    fake, columns = torch.cat(fakes), [list(column) for column in zip(*rows, strict=True)]
    line, reliability = fit_line(real, fake), Reliability.of(real, fake)
    return Assessment(
        real=len(real),
        generated=len(fake),
        slope=_short(line.slope),
        intercept=_short(line.intercept),
        z=_short(z_score(real, fake)),
        data_mean=_short(float((-real.double()).exp().mean())),
        model_mean=_short(float(fake.double().exp().mean())),
        calibration_error=_short(reliability.calibration_error),
        loss=_short(float(classification_loss(real, fake))),
        weights_ess=_short(effective_share(fake)),
        fid_prior=_short(mean(columns[0])),
        fid_prior_spread=_short(_spread(columns[0])),
        fid_reweighted=_short(mean(columns[1])),
        fid_reweighted_spread=_short(_spread(columns[1])),
        classes_prior=_short(mean(columns[2])),
        classes_reweighted=_short(mean(columns[3])),
    ), reliability


def helps(assessment: Assessment) -> bool:
    """Whether exact reweighting lowers FID by more than the larger of the two spreads, and by one per cent at least."""
    return assessment.fid_reweighted < assessment.fid_prior - needed_gain(assessment)


def needed_gain(assessment: Assessment) -> float:
    """By how much FID has to be lower."""
    return max(assessment.fid_prior_spread, assessment.fid_reweighted_spread, LEAST_GAIN * assessment.fid_prior)


def z_score(real: Tensor, fake: Tensor) -> float:
    """Z of log ratios, (real,) and (fake,), on images that fitted nothing; beyond ±2 they are no log density ratio."""
    offset = math.log(len(real) / len(fake))
    chance = (torch.cat([real, fake]).double() + offset).sigmoid()
    return float((len(real) - chance.sum()) / (chance * (1 - chance)).sum().sqrt())


def _spread(values: list[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


def _short(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")

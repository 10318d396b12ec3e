"""Classes in a ratio head's last features: linear scores by which its class proportions are corrected without another network.

A head learns how single images of a class differ sooner than how often the class should appear, and one factor on its output sharpens both.
So a logistic regression gets the classes' scores beside the head's output. They are linear in the features that the head's last layer
sees, by ridge regression on the labels of `train`; the corrected log ratio is therefore still a head with another last layer.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.calibration.bench import Bench
from models.calibration.evidence import weights_of
from models.networks.ratio import last_layer, rescale

IMAGES = 2_000  # of `train`, that the scores are fitted on
MOST_CLASSES = 50  # beyond which proportions are left to the head
RIDGE = 0.1  # of the features' mean square
ROUNDS = 50  # of Newton's method
SHRINKAGE = 1e-2  # keeps the corrections small where the samples say little


class Scores(NamedTuple):
    """Rows for a head's last layer."""

    weight: Tensor  # (classes - 1, features)
    bias: Tensor  # (classes - 1,)


def class_scores(head: nn.Module, bench: Bench) -> Scores:
    """Linear scores of all classes but the last, about 1 in the class and 0 outside, by the features of a head."""
    some = bench.some(bench.train, min(IMAGES, len(bench.train.images)), bench.random(500))
    features: list[Tensor] = []
    hook = last_layer(head).register_forward_pre_hook(lambda layer, inputs: features.append(inputs[0].detach()))
    try:
        bench.log_ratios(head, some)
    finally:
        hook.remove()
    seen = torch.cat(features).double()  # (images, features)
    wanted = nn.functional.one_hot(some.labels, bench.classes).double()[:, :-1]
    mean, share = seen.mean(0), wanted.mean(0)
    centred = seen - mean
    kernel = centred @ centred.T
    kernel.diagonal().add_(RIDGE * kernel.diagonal().mean())
    weight = torch.linalg.solve(kernel, wanted - share).T @ centred
    return Scores(weight.float(), (share - weight @ mean).float())


def widened(head: nn.Module, scores: Scores) -> nn.Module:
    """A copy of a head that gives its output and the classes' scores, (rows, classes)."""
    wide = rescale(copy.deepcopy(head), 1.0, 0.0)
    last = last_layer(wide)
    assert last.bias is not None
    last.out_features = 1 + len(scores.bias)
    last.weight = nn.Parameter(torch.cat([last.weight.detach(), scores.weight]))
    last.bias = nn.Parameter(torch.cat([last.bias.detach(), scores.bias]))
    return wide


def tilt(log_ratio: Tensor, scores: Tensor, wanted: Tensor) -> Tensor:
    """Slopes b, (scores,) float64, under which weights ∝ exp(d + b·s) give scores s the wanted means.

    They minimise log Σ exp(d + b·s) - b·wanted, which is convex  (KLIEP's dual, Sugiyama et al. 2008); d is (rows,), s is (rows, scores).
    """
    if scores.shape[1] == 0:
        return wanted
    scores, wanted = scores.double(), wanted.double()
    spread = scores.std(0).clamp_min(1e-12)
    scores, wanted = scores / spread, wanted / spread
    slopes = torch.zeros_like(wanted)
    for _ in range(ROUNDS):
        weights = weights_of(log_ratio + scores @ slopes)
        mean = weights @ scores
        curvature = (scores * weights.unsqueeze(1)).T @ scores - mean.outer(mean)
        curvature.diagonal().add_(SHRINKAGE)
        step = torch.linalg.solve(curvature, mean - wanted + SHRINKAGE * slopes)
        step = step / step.norm().clamp_min(1.0)
        slopes -= step
        if step.abs().max() < 1e-8:
            break
    return slopes / spread


@torch.no_grad()
def add(head: nn.Module, scores: Scores | None, slopes: Tensor) -> None:
    """Adds slopes · scores to a head's output, in place; `rescale` came before."""
    last = last_layer(head)
    if scores is not None:
        slopes = slopes.to(scores.weight)
        last.weight.add_(slopes @ scores.weight)
        last.bias.add_(slopes @ scores.bias)

"""The methods by name: each makes a log ratio of the bench's networks, for the assessment to keep or refuse."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from models.calibration.bench import Bench, Fitted
from models.calibration.evidence import Evidence
from models.calibration.isotonic import fit_knots
from models.calibration.logistic import Line, fit_line
from models.calibration.search import Search
from models.calibration.settings import Isotonic, Logistic, RatioHead
from models.networks.ratio import Recalibrated

SCORES_OPTIMUM = "log p_data/p_generator of images that have the same critic output"


def fit(settings: Logistic | Isotonic | RatioHead, bench: Bench, evidence: Evidence) -> Fitted:
    """A log ratio by that method; the networks of the bench stay as they are. `evidence` is of `validation`.

    The critic saw `train` and not `validation`, so logistic and isotonic calibration fit on `validation` too.
    """
    if isinstance(settings, RatioHead):
        return Search(bench, evidence, settings).fitted()
    score = bench.kind.score(copy.deepcopy(bench.networks))
    real, fake = bench.log_ratios(score, evidence.real), bench.log_ratios(score, evidence.fake)
    raw = fit_line(real, fake)
    if isinstance(settings, Isotonic):
        return _through(bench, *fit_knots(real, fake), raw, "a non-decreasing function of the critic's output")
    at = torch.tensor([0.0, 1.0])
    return _through(bench, at, raw.slope * at + raw.intercept, raw, "a line through the critic's output")


def _through(bench: Bench, at: Tensor, log_ratio: Tensor, raw: Line, made: str) -> Fitted:
    """The critic's output through the function with these knots, (knots,)."""
    size = bench.size.model_copy(update={"ratio_heads": 0, "ratio_knots": len(at)})
    ratio = bench.kind.assemble(size)["ratio"]
    assert isinstance(ratio, Recalibrated)
    ratio.score.load_state_dict(bench.kind.score(bench.networks).state_dict())
    ratio.at.copy_(at)
    ratio.log_ratio.copy_(log_ratio)
    return Fitted(ratio.eval().to(bench.device), size, raw, made, SCORES_OPTIMUM)

"""Convergence of chains: ESS and R-hat (Vehtari et al. 2021, arXiv 1903.08008), nested R-hat (Margossian et al. 2024, arXiv 2110.13017).

Draws become normal scores by their ranks first, so heavy tails and units do not matter, and each chain counts as its two halves.
"""

import math
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

MIN_DRAWS = 4  # of a chain: two in each half
TAILS = (0.05, 0.95)  # quantiles


class Convergence(NamedTuple):
    """What draws say of convergence. A figure that they do not give is None, and `reasons` says why under its name."""

    reasons: dict[str, str]
    ess_bulk: float | None = None  # for the centre of the distribution, all chains together
    ess_tail: float | None = None  # the smaller of those for the 5 % and the 95 % quantile
    r_hat: float | None = None  # of scores or of distances from the median, whichever is larger: it sees places and scales that differ
    nested_r_hat: float | None = None


def convergence(draws: np.ndarray) -> Convergence:
    """Figures of (chains, draws), all finite, of chains that started independently of each other.

    Of a single chain R-hat compares the two halves. Where no half moved it is inf, unless all draws are equal. Chains that never moved
    have no ESS.
    """
    chains, count = draws.shape
    if count < MIN_DRAWS:
        return Convergence(dict.fromkeys(Convergence._fields[1:], f"{count} draws a chain, and it takes {MIN_DRAWS}"))
    halves = split(draws.astype(np.float64))
    scores, folded = normal_scores(halves), normal_scores(np.abs(halves - _median(halves)))
    bulk, *tails = effective_sample_sizes(np.stack([scores, *(halves <= quantile for quantile in _tails(draws))]))
    found = {"ess_bulk": bulk, "ess_tail": _smaller(tails, halves.size), "r_hat": float(np.fmax(r_hat(scores), r_hat(folded)))}
    if chains > 1:
        found["nested_r_hat"] = nested_r_hat(draws[:, np.newaxis].astype(np.float64))
    reasons = {name: "too many draws are equal" for name, value in found.items() if math.isnan(value)}
    if (draws == draws[:, :1]).all():
        reasons |= dict.fromkeys(("ess_bulk", "ess_tail"), "no chain moved, and equal draws are no sample")
    if chains == 1:
        reasons["nested_r_hat"] = "one chain has no other to differ from"
    return Convergence(reasons, **{name: value for name, value in found.items() if name not in reasons})


def nested_r_hat(draws: np.ndarray) -> float:
    """√(1 + B/W) of (superchains, chains, draws): B the variance of superchains' means, W the mean of the variance within superchains.

    Chains of one superchain start at one point, so B shows what they remember of it. Chains that all start independently are superchains of
    one chain each: groups of them would have means that differ less, whether they have converged or not. Then B holds the noise of a single
    chain's mean, too: stationary chains have √(1 + 1/n), n the effective draws of one. inf where only B is positive, NaN where neither is.
    """
    means = draws.mean(axis=2)
    within = _variance(draws).mean() if draws.shape[2] > 1 else 0.0
    among = _variance(means).mean() if draws.shape[1] > 1 else 0.0
    return _root(1.0, float(_variance(means.mean(axis=1))), float(within + among))


def r_hat(draws: np.ndarray) -> float:
    """√((n - 1)/n + B/W) of (chains, n), without ranks or halves; inf where only B is positive, NaN where neither is."""
    share = 1 - 1 / draws.shape[1]
    return _root(share, float(_variance(draws.mean(axis=1))), float(_variance(draws).mean()))


def effective_sample_sizes(traces: np.ndarray) -> list[float]:
    """ESS of each of several traces, (traces, chains, n), by Geyer's initial monotone sequence; at most N log10 N, NaN of equal draws."""
    count, size = traces.shape[2], traces[0].size
    means = traces.mean(axis=2, keepdims=True)
    length = 1 << (2 * count - 1).bit_length()
    spectrum = np.fft.rfft(traces - means, n=length)
    covariance = np.fft.irfft((spectrum.real**2 + spectrum.imag**2).sum(axis=1), n=length)[:, :count] / size
    within = covariance[:, :1] * count / (count - 1)
    total = covariance[:, :1] + _variance(means[..., 0])[:, np.newaxis]
    still = (traces == traces[:, :1, :1]).all(axis=(1, 2)).tolist()
    correlation = (1 - (within - covariance) / np.where(total > 0, total, 1.0)).tolist()
    times = [max(_time(column), 1 / math.log10(size)) for column in correlation]
    return [math.nan if equal else size / time for equal, time in zip(still, times, strict=True)]


def _time(correlation: list[float]) -> float:
    """Draws that are worth one: -1 + 2 Σ correlation over pairs of lags, while they are positive, none larger than the one before."""
    last = max(0, (len(correlation) - 3) // 2)  # the pair that ends the sum, if none ends it before
    even, odd = 1.0, correlation[1]
    time, least, pair = -1.0, even + odd, 0
    while pair < last and even + odd > 0:
        least = min(least, even + odd)
        time, pair = time + 2 * least, pair + 1
        even, odd = correlation[2 * pair], correlation[2 * pair + 1]
    return time + (even if even > 0 or even + odd >= 0 else 0.0)


def split(draws: np.ndarray) -> np.ndarray:
    """Chains cut in two halves: (chains, draws) -> (2 chains, draws // 2); of an odd number the middle draw is left out."""
    half = draws.shape[1] // 2
    return np.concatenate([draws[:, :half], draws[:, -half:]])


def normal_scores(values: np.ndarray) -> np.ndarray:
    """Φ⁻¹((rank - 3/8) / (S + 1/4)) of S values of any shape; equal values share their mean rank  (Vehtari et al. 2021, eq. 14)."""
    order = values.argsort(axis=None)
    ordered = values.ravel()[order]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))  # of equal values
    scores = np.empty(values.size)
    if len(first) == values.size:
        scores[order] = _scores(values.size)
    else:
        counts = np.diff(first, append=values.size)
        scores[order] = np.repeat(_score(first + 0.5 * (counts + 1), values.size), counts)
    return scores.reshape(values.shape)


def _score(rank: np.ndarray, size: int) -> np.ndarray:
    shares = (rank - 0.375) / (size + 0.25)
    return np.fromiter(map(NormalDist().inv_cdf, shares.tolist()), np.float64, len(shares))


@lru_cache(16)
def _scores(size: int) -> np.ndarray:
    return _score(np.arange(1.0, size + 1), size)


def _root(share: float, between: float, within: float) -> float:
    if within > 0:
        return float(np.sqrt(share + between / within))
    return math.inf if between > 0 else math.nan


def _variance(draws: np.ndarray) -> np.ndarray:
    """Along the last axis; 0 of equal numbers, which their rounded mean may differ from, and of a single one."""
    deviations = draws - draws.mean(axis=-1, keepdims=True)
    moved = (draws != draws[..., :1]).any(axis=-1)
    variance: np.ndarray = np.square(deviations).sum(axis=-1) / max(draws.shape[-1] - 1, 1) * moved
    return variance


def _smaller(sizes: list[float], draws: int) -> float:
    """The smaller ESS of two; one that is NaN, since all draws are on one side of its quantile, counts as that of independent draws."""
    known = [size for size in sizes if not math.isnan(size)]
    return min(known if len(known) == len(sizes) else [*known, float(draws)]) if known else math.nan


def _tails(draws: np.ndarray) -> list[float]:
    """The quantiles of TAILS, interpolated between draws as R's type 7."""
    ordered = np.sort(draws, axis=None).astype(np.float64)
    places = [share * len(ordered) + (1 - share) for share in TAILS]  # from 1
    return [float((1 - place % 1) * ordered[int(place) - 1] + place % 1 * ordered[int(place)]) for place in places]


def _median(values: np.ndarray) -> float:
    ordered = np.sort(values, axis=None)
    return float(0.5 * (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]))

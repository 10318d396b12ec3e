"""Convergence diagnostics of chains from their draws: effective sample size and split R-hat  (Vehtari et al. 2021, arXiv 1903.08008)."""

import numpy as np

MIN_DRAWS = 100  # per chain; both estimates are unreliable below it


def split(draws: np.ndarray) -> np.ndarray:
    """Chains cut in two halves: (chains, draws) -> (2 chains, draws // 2); of an odd number the first draw is left out."""
    half = draws.shape[1] // 2
    return np.concatenate([draws[:, -2 * half : -half], draws[:, -half:]])


def r_hat(draws: np.ndarray) -> float:
    """Split R-hat of (chains, draws): 1 where every half-chain sees the same distribution; inf where constant chains differ."""
    halves = split(draws.astype(np.float64))
    count = halves.shape[1]
    within = halves.var(axis=1, ddof=1).mean()
    between = count * halves.mean(axis=1).var(ddof=1)
    if within == 0:
        return 1.0 if between == 0 else float("inf")
    return float(np.sqrt(((count - 1) / count * within + between / count) / within))


def effective_sample_size(draws: np.ndarray) -> float:
    """ESS of (chains, draws), all chains together, by Geyer's initial positive monotone sequence; at most N log10 N."""
    chains, count = draws.shape
    centred = draws.astype(np.float64) - draws.mean(axis=1, keepdims=True)
    spectrum = np.abs(np.fft.rfft(centred, n=2 * count, axis=1)) ** 2
    autocovariance = np.fft.irfft(spectrum, axis=1)[:, :count] / count
    within = autocovariance[:, 0].mean() * count / (count - 1)
    variance = within * (count - 1) / count + (draws.mean(axis=1).var(ddof=1) if chains > 1 else 0.0)
    if variance == 0:
        return float(chains * count)
    correlation = 1 - (within - autocovariance.mean(axis=0) * count / (count - 1)) / variance
    correlation[0] = 1.0
    pairs = correlation[: count // 2 * 2].reshape(-1, 2).sum(axis=1)
    positive = pairs[: np.argmax(pairs < 0)] if (pairs < 0).any() else pairs
    time = -1 + 2 * np.minimum.accumulate(positive).sum()
    return float(min(chains * count / max(time, 1e-9), chains * count * np.log10(chains * count)))

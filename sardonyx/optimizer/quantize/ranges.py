"""From what was observed to the range that is worth keeping: min-max, percentile, entropy, squared error."""

from __future__ import annotations

import numpy as np

from sardonyx.errors import InputError
from sardonyx.optimizer.quantize.numbers import Grid, fit
from sardonyx.optimizer.quantize.observers import Histogram, Range

__all__ = ["METHODS", "choose", "needs_histogram"]

METHODS = ("minmax", "percentile", "entropy", "mse")
_STEPS = 64  # ends tried by "mse"
_FINE = 2048  # bins looked at by "entropy"


def needs_histogram(method: str) -> bool:
    """Whether `method` needs more than the smallest and largest value."""
    return method != "minmax"


def choose(seen: Range, method: str, percentile: float, dtype: str, symmetric: bool) -> Grid:
    """The grid for what was seen.

    Args:
        seen: a `Histogram`, for every method but "minmax".
        method: "minmax": nothing is cut off. "percentile": each end is where `percentile` % of the values are inside.
            "entropy": the threshold of the least Kullback-Leibler divergence (Migacz, "8-bit inference with
            TensorRT", 2017). "mse": the ends of the least squared error, by coordinate search from min-max.
        percentile: 50 ... 100.
        dtype: see `fit`.
        symmetric: likewise.

    Raises:
        InputError: there is no such method.
    """
    if method not in METHODS:
        raise InputError(f"no calibration method {method!r}", hint=f"methods are {', '.join(METHODS)}")
    if seen.empty:
        return fit(0.0, 0.0, dtype, symmetric)
    low, high = seen.low, seen.high
    if isinstance(seen, Histogram) and seen.counts.any():
        if method == "percentile":
            low, high = _percentile(seen, percentile)
        elif method == "entropy":
            low, high = _entropy(seen)
        elif method == "mse":
            low, high = _least_squares(seen, dtype, symmetric)
    return fit(low, high, dtype, symmetric)


def _percentile(seen: Histogram, percentile: float) -> tuple[float, float]:
    """Ends of bins; the borders themselves never lie outside of what was seen."""
    cut = seen.total * (1 - percentile / 100)
    below = np.cumsum(seen.counts)
    below[len(below) // 2 :] += seen.zeros
    edges = (np.arange(len(below) + 1) - len(below) // 2) * seen.width
    low = edges[int(np.searchsorted(below, cut, side="right"))]
    last = int(np.searchsorted(below, seen.total - cut, side="left"))
    high = edges[min(last, len(below) - 1) + 1]
    return max(float(low), seen.low), min(float(high), seen.high)


def _least_squares(seen: Histogram, dtype: str, symmetric: bool) -> tuple[float, float]:
    used = np.nonzero(seen.counts)[0]
    counts, centres = seen.counts[used].astype(np.float64), seen.centres[used]

    def error(low: float, high: float) -> float:
        return float(np.sum(counts * (fit(low, high, dtype, symmetric).rounded(centres) - centres) ** 2))

    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    best = error(low, high)
    fractions = np.linspace(1, 0, _STEPS, endpoint=False)[1:]
    for _ in range(1 if symmetric else 2):
        for tried in ([(low * f, high * f) for f in fractions], [(low, high * f) for f in fractions],
                      [(low * f, high) for f in fractions]):  # fmt: skip
            errors = [error(*ends) for ends in tried]
            place = int(np.argmin(errors))
            if errors[place] < best:
                best, (low, high) = errors[place], tried[place]
    return low, high


def _entropy(seen: Histogram) -> tuple[float, float]:
    """One threshold for both signs, at which least is lost when sizes are told apart by as many levels as there are."""
    half = len(seen.counts) // 2
    sizes = (seen.counts[half:] + seen.counts[:half][::-1]).astype(np.float64)
    sizes = sizes[: int(np.nonzero(sizes)[0][-1]) + 1]
    width = seen.width
    if len(sizes) > _FINE:
        sizes = np.pad(sizes, (0, len(sizes) % 2)).reshape(-1, 2).sum(axis=1)
        width *= 2
    levels = 128 if seen.low < 0 else 256
    if len(sizes) <= levels:
        return seen.low, seen.high
    tried = np.unique(np.linspace(levels, len(sizes), 128).astype(int))
    costs = [_divergence(sizes, int(count), levels) for count in tried]
    threshold = float(tried[int(np.argmin(costs))]) * width
    return max(seen.low, -threshold), min(seen.high, threshold)


def _divergence(sizes: np.ndarray, count: int, levels: int) -> float:
    """KL divergence of the first `count` bins, what is beyond added to the last, from their `levels` means."""
    kept = sizes[:count].copy()
    level = np.arange(count) * levels // count
    there = kept > 0
    mass = np.bincount(level, kept, levels)
    bins = np.bincount(level, there, levels)
    coarse = np.where(there, (mass / np.maximum(bins, 1))[level], 0.0)
    kept[-1] += sizes[count:].sum()
    if mass.sum() == 0:
        return np.inf  # all that there is lies beyond
    p, q = kept / kept.sum(), coarse / coarse.sum()
    if np.any((p > 0) & (q == 0)):
        q = np.where((p > 0) & (q == 0), 1e-12, q)
    used = p > 0
    return float(np.sum(p[used] * np.log(p[used] / q[used])))

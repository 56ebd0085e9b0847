"""Numbers with few bits: scales, zero points, and what a float becomes.

``q = saturate(round(x / scale) + zero)`` and ``x' = (q - zero) * scale``, ties to even, as QuantizeLinear and
DequantizeLinear say. Zero itself is always exact, since padding and Relu make many zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["LIMITS", "Grid", "channel_scales", "fit", "round_weight", "scale_shape"]

LIMITS = {"uint8": (0, 255), "int8": (-128, 127), "uint4": (0, 15), "int4": (-8, 7)}
SMALLEST = float(np.finfo(np.float32).tiny)  # a scale below it is subnormal, which some processors flush to zero
_LARGEST = float(np.finfo(np.float32).max) * 0.99  # of an end: it is rounded outwards, and has to stay finite


@dataclass(frozen=True)
class Grid:
    """The numbers that a tensor may have: one scale and zero point, integers of type `dtype`."""

    scale: np.float32
    zero: int
    dtype: str

    def quantize(self, x: np.ndarray) -> np.ndarray:
        """The integers nearest to `x`."""
        low, high = LIMITS[self.dtype]
        scaled = np.rint(np.asarray(x, np.float32) / self.scale) + np.float32(self.zero)
        return np.clip(scaled, low, high).astype(self.dtype)

    def rounded(self, x: np.ndarray) -> np.ndarray:
        """What is left of `x`, float32."""
        return (self.quantize(x).astype(np.float32) - np.float32(self.zero)) * self.scale


def fit(low: float, high: float, dtype: str, symmetric: bool = False) -> Grid:
    """The grid whose ends are the ends of [low, high], and 0, as nearly as may be.

    Args:
        low: finite; the range is widened to hold 0, and [0, 0] has scale 1.
        high: likewise.
        dtype: uint8 or int8.
        symmetric: the zero point is the middle (0 of int8, 128 of uint8).
    """
    low, high = max(min(float(low), 0.0), -_LARGEST), min(max(float(high), 0.0), _LARGEST)
    first, last = LIMITS[dtype]
    if symmetric:
        step, zero = max(-low, high) / 127, (first + last + 1) // 2
    else:
        step, zero = (high - low) / (last - first), 0
    scale = _clean(step)
    if not symmetric:
        zero = int(np.clip(np.rint(first - low / float(scale)), first, last))
    return Grid(scale, zero, dtype)


def _clean(step: float) -> np.float32:
    return np.float32(1.0 if step == 0 else max(step, SMALLEST))


def scale_shape(rank: int, axis: int | None) -> tuple[int, ...]:
    """The shape in which the scales of a weight broadcast against it."""
    return () if axis is None else tuple(-1 if i == axis else 1 for i in range(rank))


def channel_scales(weight: np.ndarray, axis: int | None, limit: int = 127, search: bool = False) -> np.ndarray:
    """Symmetric scales: one for each index of `axis`, or one in all (None); float32.

    Args:
        weight: the floats.
        axis: the output channels.
        limit: the largest integer, by size.
        search: instead of the largest weight being `limit`, the scale of the least squared error is taken, out of
            fractions 0.50 ... 1.00 of that.

    Returns:
        Scales; 0 where all weights are 0, for the caller to decide.
    """
    rows = _rows(weight, axis)
    largest = np.max(np.abs(rows), axis=1, initial=0.0) / limit
    if not search:
        return _finish(largest, axis)
    best, error = largest.copy(), np.full(len(rows), np.inf)
    for fraction in np.linspace(1.0, 0.5, 51):
        scale = np.maximum(largest * fraction, SMALLEST)[:, None]
        now = np.sum((np.clip(np.rint(rows / scale), -limit, limit) * scale - rows) ** 2, axis=1)
        better = now < error
        best[better], error[better] = largest[better] * fraction, now[better]
    return _finish(best, axis)


def _rows(weight: np.ndarray, axis: int | None) -> np.ndarray:
    weight = np.asarray(weight, np.float64)
    return weight.reshape(1, -1) if axis is None else np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)


def _finish(scales: np.ndarray, axis: int | None) -> np.ndarray:
    scales = np.where(scales > 0, np.maximum(scales, SMALLEST), 0.0).astype(np.float32)
    return scales if axis is not None else scales[0]


def round_weight(weight: np.ndarray, scale: np.ndarray, axis: int | None, limit: int = 127) -> np.ndarray:
    """The nearest integers in -limit ... limit, int8."""
    steps = np.reshape(scale, scale_shape(weight.ndim, axis))
    return np.clip(np.rint(np.asarray(weight, np.float64) / steps), -limit, limit).astype(np.int8)

"""Weights of `winograd_f32`, transformed and packed."""

from __future__ import annotations

import math

import numpy as np

POINTS = (0.0, 0.625, -0.625, 1.5, -1.5)  # and infinity; winograd_f32.h says why these


def _weight_transform() -> list[tuple[float, float, float]]:
    """G, 6 rows: 1, p and p^2 at point p, over the product of its distances to the others; and infinity."""
    rows = []
    for point in POINTS:
        scale = math.prod(point - other for other in POINTS if other != point)
        rows.append((1 / scale, point / scale, point * point / scale))
    return [*rows, (0.0, 0.0, 1.0)]


def _transform(x: np.ndarray) -> np.ndarray:
    """G along the first axis, 3 -> 6. Written out: the rounding of a matrix product depends on the machine."""
    return np.stack([a * x[0] + b * x[1] + c * x[2] for a, b, c in _weight_transform()])


def pack_winograd(weight: np.ndarray) -> np.ndarray:
    """Transform and pack the weights of `winograd_f32`.

    Args:
        weight: [O, I, 3, 3], any strides.

    Returns:
        A contiguous float32 array [ceil(O / 16), 36, ceil(I / 16), 16, 16], whose last axes are a block's input
        channels and output channels; 0 beyond the last of either. Computed in float64, rounded once.
    """
    outputs, inputs = weight.shape[:2]
    inner = -(-inputs // 16)
    packed = np.empty((-(-outputs // 16), 36, inner, 16, 16), np.float32)
    for block in range(packed.shape[0]):  # one at a time: in float64, all would be 8 times the weights
        part = weight[block * 16 : block * 16 + 16]
        taps = np.zeros((3, 3, inner * 16, 16))
        taps[:, :, :inputs, : len(part)] = part.transpose(2, 3, 1, 0)
        columns = _transform(taps)  # [6, 3, ...]
        both = _transform(columns.swapaxes(0, 1))  # [6 across, 6 down, ...]
        packed[block] = both.swapaxes(0, 1).reshape(36, inner, 16, 16)
    return packed

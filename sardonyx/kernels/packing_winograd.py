"""Weights of `winograd_f32`, transformed and packed."""

from __future__ import annotations

import numpy as np

from sardonyx.kernels.packing import pack_conv

POINTS = (0.0, 0.625, -0.625, 1.5, -1.5)  # and infinity; winograd_f32.h says why these


def _weight_transform() -> np.ndarray:
    """G [6, 3] in float64: row i evaluates a window's polynomial at point i, over the product of distances to the others."""
    rows = []
    for i, point in enumerate(POINTS):
        scale = np.prod([point - other for j, other in enumerate(POINTS) if j != i])
        rows.append([point**k / scale for k in range(3)])
    return np.array([*rows, [0.0, 0.0, 1.0]])


def pack_winograd(weight: np.ndarray) -> np.ndarray:
    """Transform and pack the weights of `winograd_f32`.

    Args:
        weight: [O, I, 3, 3], any strides.

    Returns:
        A contiguous float32 array [ceil(O / 16), 36, ceil(I / 16), 16, 16], whose last axes are a block's input channels
        and output channels; 0 beyond the last of either. Computed in float64, rounded once.
    """
    transform = _weight_transform()
    # One output block at a time: float64 copies of all transformed weights would be 8 times the weights.
    packed = np.empty((-(-weight.shape[0] // 16), 36, -(-weight.shape[1] // 16), 16, 16), np.float32)
    for block in range(packed.shape[0]):
        part = weight[block * 16 : block * 16 + 16].astype(np.float64)
        part = np.einsum("ia,ocab,jb->ocij", transform, part, transform, optimize=True)
        packed[block] = pack_conv(part.reshape(*part.shape[:2], 36, 1))[0].transpose(1, 2, 0, 3, 4)[:, 0]
    return packed

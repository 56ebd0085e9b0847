"""Weights of `matmul_int8` in the layout that it reads, in numpy."""

from __future__ import annotations

import numpy as np


def pack_quads(b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pack the right operand of `matmul_int8` for instructions that take four bytes at once.

    Args:
        b: A matrix [K, N] of uint8 or int8, any strides.

    Returns:
        ``(packed, sums)``: int8 [ceil(N / 16), ceil(K / 4), 16, 4] in which element (p, q, j, i) is
        `b[4 * q + i, 16 * p + j]`, less 128 if `b` is uint8, and 0 beyond K or N; and the sum of each column as packed,
        int32 [16 * ceil(N / 16)].
    """
    k, n = b.shape
    quads, panels = -(-k // 4), -(-n // 16)
    padded = np.zeros((quads * 4, panels * 16), np.int8)
    padded[:k, :n] = (b ^ np.uint8(0x80)).view(np.int8) if b.dtype == np.uint8 else b
    packed = np.ascontiguousarray(padded.reshape(quads, 4, panels, 16).transpose(2, 0, 3, 1))
    return packed, padded.sum(axis=0, dtype=np.int32)

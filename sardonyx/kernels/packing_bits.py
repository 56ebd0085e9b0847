"""Weights of `matmul_nbits_f32` in the layout that it reads, in numpy."""

from __future__ import annotations

import numpy as np


def pack_bits(q: np.ndarray, bits: int) -> np.ndarray:
    """Pack the weights of `matmul_nbits_f32`.

    Args:
        q: A matrix [K, N] of numbers 0 .. 2^bits - 1 as uint8, any strides.
        bits: 4 or 8.

    Returns:
        int32 [ceil(N / 16), ceil(K / per), 16] where `per` is 32 / bits: in element (p, w, j) the numbers
        `q[per * w + i, 16 * p + j]`, each less 2^(bits - 1) modulo 2^bits, the first in the lowest bits; 0 beyond K, N.
    """
    (k, n), per = q.shape, 32 // bits
    words, panels = -(-k // per), -(-n // 16)
    padded = np.zeros((words * per, panels * 16), np.uint8)
    padded[:k, :n] = q ^ np.uint8(1 << (bits - 1))
    parts = padded.reshape(words, per, panels, 16)
    packed = np.zeros((panels, words, 16), np.uint32)
    for i in range(per):
        packed |= parts[:, i].transpose(1, 0, 2).astype(np.uint32) << np.uint32(bits * i)
    return packed.view(np.int32)


def pack_rows(values: np.ndarray) -> np.ndarray:
    """Scales or zero points of `matmul_nbits_f32`: float32 [blocks, N] as [ceil(N / 16), blocks, 16], 0 beyond N."""
    blocks, n = values.shape
    panels = -(-n // 16)
    padded = np.zeros((blocks, panels * 16), np.float32)
    padded[:, :n] = values
    return np.ascontiguousarray(padded.reshape(blocks, panels, 16).swapaxes(0, 1))

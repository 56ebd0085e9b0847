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


def pack_conv_nhwc(w: np.ndarray, groups: int = 1, *, merged: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Pack the weights of `conv_nhwc_int8`: for each output channel, the runs of bytes that its window sees in NHWC.

    Args:
        w: int8 [O, C / groups, KH, KW].
        groups: of channels.
        merged: taps of a row are neighbours in the input, so that a row of the window is one segment; without (where
            the window is dilated along its rows) each tap is a segment of its own.

    Returns:
        ``(packed, sums)``: int8 [groups, ceil(O / groups / 16), segments, quads, 16, 4], 0 beyond a segment and beyond
        the last channel, where a segment is filled up to a multiple of 64 bytes (16 quads); and int32 [O], the sum of
        all weights of each output channel.
    """
    outputs, channels, kh, kw = w.shape
    own = outputs // groups
    taps = w.transpose(0, 2, 3, 1)  # [O, KH, KW, C]
    rows = taps.reshape(groups, own, kh, kw * channels) if merged else taps.reshape(groups, own, kh * kw, channels)
    segments, length = rows.shape[2:]
    panels, quads = -(-own // 16), -(-length // 64) * 16
    padded = np.zeros((groups, panels * 16, segments, quads * 4), np.int8)
    padded[:, :own, :, :length] = rows
    packed = padded.reshape(groups, panels, 16, segments, quads, 4).transpose(0, 1, 3, 4, 2, 5)
    return np.ascontiguousarray(packed), w.sum(axis=(1, 2, 3), dtype=np.int32)


def pack_depthwise_nhwc(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pack the weights of `depthwise_nhwc_int8`: four taps of a column side by side, for 16 channels at a time.

    Args:
        w: int8 [C, 1, KH, KW].

    Returns:
        ``(packed, sums)``: int8 [ceil(KH / 4), KW, 16 * ceil(C / 16), 4], 0 beyond KH and C; and int32 [C], the sum of
        the weights of each channel.
    """
    channels, _, kh, kw = w.shape
    padded = np.zeros((-(-channels // 16) * 16, -(-kh // 4) * 4, kw), np.int8)
    padded[:channels, :kh] = w[:, 0]
    packed = padded.reshape(len(padded), -1, 4, kw).transpose(1, 3, 0, 2)
    return np.ascontiguousarray(packed), w.sum(axis=(1, 2, 3), dtype=np.int32)

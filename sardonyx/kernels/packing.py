"""Weights in the layouts that the kernels read: what `kernels/c` calls packed, in numpy."""

from __future__ import annotations

import numpy as np


def pack_panels(b: np.ndarray) -> np.ndarray:
    """Pack the right operand of `matmul_f32` into panels of 16 columns.

    A weight stored transposed, [N, K], is packed through its view: `pack_panels(weight.T)`.

    Args:
        b: Matrices [..., K, N], any strides.

    Returns:
        A contiguous array [..., ceil(N / 16), K, 16] of the same dtype in which element (p, k, j) is
        `b[..., k, 16 * p + j]`, or 0 beyond column N. Batch strides count its elements.
    """
    *batch, k, n = b.shape
    panels = -(-n // 16)
    packed = np.zeros((*batch, panels, k, 16), b.dtype)
    whole = n // 16
    packed[..., :whole, :, :] = b[..., : whole * 16].reshape(*batch, k, whole, 16).swapaxes(-3, -2)
    if whole < panels:
        packed[..., whole, :, : n - whole * 16] = b[..., whole * 16 :]
    return packed


def _blocks(channels: int) -> int:
    return -(-channels // 16)


def nchw_to_nchw16c(x: np.ndarray) -> np.ndarray:
    """Put channels into blocks of 16.

    Args:
        x: Activations [N, C, H, W], any strides.

    Returns:
        A contiguous array [N, ceil(C / 16), H, W, 16] of the same dtype, 0 beyond channel C.
    """
    n, c, h, w = x.shape
    blocked = np.zeros((n, _blocks(c) * 16, h, w), x.dtype)
    blocked[:, :c] = x
    return np.ascontiguousarray(blocked.reshape(n, _blocks(c), 16, h, w).transpose(0, 1, 3, 4, 2))


def nchw16c_to_nchw(x: np.ndarray, channels: int) -> np.ndarray:
    """Undo `nchw_to_nchw16c`.

    Args:
        x: Activations [N, blocks, H, W, 16], any strides.
        channels: How many there are, at most 16 * blocks; the lanes beyond are dropped.

    Returns:
        A contiguous array [N, channels, H, W] of the same dtype.
    """
    n, blocks, h, w, _ = x.shape
    return np.ascontiguousarray(x.transpose(0, 1, 4, 2, 3).reshape(n, blocks * 16, h, w)[:, :channels])


def pack_conv(weight: np.ndarray, groups: int = 1) -> np.ndarray:
    """Pack the weights of `conv_nchw16c_f32`.

    Args:
        weight: [O, I / groups, KH, KW], any strides.
        groups: Of the convolution. With more than one, a group's channels fill whole blocks.

    Returns:
        A contiguous array [ceil(O / 16), ceil(I / groups / 16), KH, KW, 16, 16] of the same dtype, whose last axes are
        a block's input channels and output channels; 0 beyond the last of either.

    Raises:
        ValueError: The channels of a group are no multiple of 16.
    """
    o, i, kh, kw = weight.shape
    if groups > 1 and (i % 16 or o % (16 * groups)):
        raise ValueError(
            f"pack_conv: {groups} groups of {i} input and {o / groups:g} output channels; both must be multiples of 16"
        )
    padded = np.zeros((_blocks(o) * 16, _blocks(i) * 16, kh, kw), weight.dtype)
    padded[:o, :i] = weight
    packed = padded.reshape(_blocks(o), 16, _blocks(i), 16, kh, kw).transpose(0, 2, 4, 5, 3, 1)
    return np.ascontiguousarray(packed)


def pack_conv_first(weight: np.ndarray) -> np.ndarray:
    """Pack the weights of `conv_first_f32`.

    Args:
        weight: [O, I, KH, KW], any strides.

    Returns:
        A contiguous array [ceil(O / 16), I, KH, KW, 16] of the same dtype, 0 beyond output channel O.
    """
    o, i, kh, kw = weight.shape
    padded = np.zeros((_blocks(o) * 16, i, kh, kw), weight.dtype)
    padded[:o] = weight
    packed = padded.reshape(_blocks(o), 16, i, kh, kw).transpose(0, 2, 3, 4, 1)
    return np.ascontiguousarray(packed)


def pack_depthwise(weight: np.ndarray) -> np.ndarray:
    """Pack the weights of `depthwise_nchw16c_f32`.

    Args:
        weight: [C, 1, KH, KW], any strides.

    Returns:
        A contiguous array [ceil(C / 16), KH, KW, 16] of the same dtype, 0 beyond channel C.
    """
    return pack_conv_first(weight)[:, 0]


def pack_grouped(weight: np.ndarray) -> np.ndarray:
    """Pack the weights of `grouped_nchw16c_f32`.

    Args:
        weight: [O, I, KH, KW], any strides; groups of I = 2, 4 or 8 channels in and out.

    Returns:
        A contiguous array [ceil(O / 16), KH, I, KW, 16] of the same dtype, whose lane l has in step c of axis 2 the
        weight of its group's channel (l & ~1) ^ c; 0 beyond output channel O.

    Raises:
        ValueError: Groups of another size.
    """
    o, i, kh, kw = weight.shape
    if i not in (2, 4, 8) or o % i:
        raise ValueError(f"pack_grouped: groups of {i} channels, {o} in all; the kernel has 2, 4 and 8")
    padded = np.zeros((_blocks(o) * 16, i, kh, kw), weight.dtype)
    outputs = np.arange(o)[:, None]
    padded[:o] = weight[outputs, (outputs % i & ~1) ^ np.arange(i)]
    return np.ascontiguousarray(padded.reshape(_blocks(o), 16, i, kh, kw).transpose(0, 3, 2, 4, 1))

"""Max, average and global average pooling over NCHW16c."""

from __future__ import annotations

import numpy as np
import pytest
from kernels.window import Window, assert_same_bits, naive, run_kernel

MAX, AVERAGE, AVERAGE_PADDED, GLOBAL_AVERAGE = range(4)

CASES = [
    Window(c=1, size=(1, 1), kernel=(1, 1)),
    Window(c=33, size=(14, 15), kernel=(3, 3), stride=(2, 2), pads=(1, 1, 1, 1), n=2),
    Window(c=16, size=(13, 13), kernel=(5, 5), pads=(2, 2, 2, 2)),
    Window(c=16, size=(12, 17), kernel=(2, 2), stride=(2, 2)),
    Window(c=20, size=(9, 14), kernel=(3, 2), dilation=(2, 3), stride=(1, 2), pads=(0, 2, 1, 1)),
    Window(c=16, size=(7, 9), kernel=(3, 3), stride=(2, 2), extra=1),
    Window(c=16, size=(10, 10), kernel=(3, 3), stride=(3, 3), pads=(0, 0, 1, 1), extra=1, n=2),
    Window(c=16, size=(4, 70), kernel=(1, 7), stride=(1, 3), pads=(0, 3, 0, 2)),
    Window(c=16, size=(70, 66), kernel=(3, 3), pads=(1, 1, 1, 1)),
    Window(c=1100, size=(4, 4), kernel=(2, 2)),
]


def pool(kind: int, window: Window, x: np.ndarray, variant: str = "v3") -> np.ndarray:
    fields = {
        "kind": kind,
        "c_blocks": -(-window.c // 16),
        "pad_bottom": window.pads[2],
        "pad_right": window.pads[3],
    }
    return run_kernel("pool_nchw16c_f32", window, x, None, variant=variant, fields=fields)


def taps(window: Window, x: np.ndarray) -> np.ndarray:
    """What each output sees, [N, C, OH, OW, KH * KW] in float64: NaN stands for a tap outside of the image."""
    (sh, sw), (dh, dw), (oh, ow) = window.stride, window.dilation, window.out
    top, left, _, _ = window.pads
    beyond = [window.extra * s + d * k for s, d, k in zip(window.stride, window.dilation, window.kernel)]
    pads = ((0, 0), (0, 0), (top, window.pads[2] + beyond[0]), (left, window.pads[3] + beyond[1]))
    padded = np.pad(x.astype(np.float64), pads, constant_values=np.nan)
    return np.stack(
        [
            padded[:, :, i * dh : i * dh + (oh - 1) * sh + 1 : sh, j * dw : j * dw + (ow - 1) * sw + 1 : sw]
            for i in range(window.kernel[0])
            for j in range(window.kernel[1])
        ],
        axis=-1,
    )


@pytest.mark.parametrize("variant", ["v3", "v2", "wide"])
@pytest.mark.parametrize("kind", [MAX, AVERAGE, AVERAGE_PADDED])
@pytest.mark.parametrize("window", CASES, ids=str)
def test_pool_equals_plain_loops(window, kind, variant):
    x = np.random.default_rng(1).standard_normal((window.n, window.c, *window.size), dtype=np.float32)
    y = pool(kind, window, x, variant)[:, : window.c]
    assert_same_bits(y, naive(window, variant, "naive_pool", x, kind=kind))
    if kind == MAX:
        np.testing.assert_array_equal(y, np.nanmax(taps(window, x), axis=-1))
    if kind == AVERAGE:
        np.testing.assert_allclose(y, np.nanmean(taps(window, x), axis=-1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel", [1, 2, 3])
@pytest.mark.parametrize("width", [1, 3, 4, 5, 6, 7, 9, 13])
def test_every_row_width(kernel, width):
    window = Window(c=16, size=(3, width + kernel - 1), kernel=(kernel, kernel))
    x = np.random.default_rng(width).standard_normal((1, 16, *window.size), dtype=np.float32)
    assert_same_bits(pool(MAX, window, x), naive(window, "v3", "naive_pool", x, kind=MAX))


@pytest.mark.parametrize("kind", [MAX, AVERAGE, AVERAGE_PADDED])
def test_nan_and_infinity_pass_through(kind):
    window = Window(c=18, size=(8, 9), kernel=(3, 3), pads=(1, 1, 1, 1))
    x = np.random.default_rng(2).standard_normal((1, 18, 8, 9), dtype=np.float32)
    x[0, 0, 0, 0], x[0, 1, 4, 4], x[0, 2, 7, 8], x[0, 17, 3, 3] = np.nan, np.nan, np.inf, -np.inf
    x[0, 4] = -np.inf
    x[0, 5, :, :4], x[0, 5, :, 4:] = 0.0, -0.0
    y = pool(kind, window, x)[:, :18]
    assert_same_bits(y, naive(window, "v3", "naive_pool", x, kind=kind))
    assert np.isnan(y[0, 1, 3:6, 3:6]).all()
    assert np.isnan(y).sum() == 4 + 9


def test_an_empty_window_has_no_maximum_and_no_mean():
    window = Window(c=16, size=(2, 2), kernel=(1, 1), pads=(1, 1, 1, 1))
    x = np.ones((1, 16, 2, 2), np.float32)
    assert (pool(MAX, window, x)[0, :, 0] == -np.inf).all()
    assert np.isnan(pool(AVERAGE, window, x)[0, :, 0]).all()
    assert (pool(AVERAGE_PADDED, window, x)[0, :, 0] == 0).all()


@pytest.mark.parametrize("variant", ["v3", "v2", "wide"])
@pytest.mark.parametrize("size", [(1, 1), (1, 3), (7, 7), (5, 13), (2, 4)])
def test_global_average_folds_four_sums(size, variant):
    x = np.random.default_rng(3).standard_normal((2, 35, *size), dtype=np.float32)
    x[1, 34, 0, 0] = np.nan
    window = Window(c=35, n=2, size=size, kernel=size)
    y = pool(GLOBAL_AVERAGE, window, x, variant)[:, :35]
    flat = x.reshape(2, 35, -1)
    sums = np.zeros((2, 35, 4), np.float32)
    for p in range(flat.shape[-1]):
        sums[..., p % 4] += flat[..., p]
    total = (sums[..., 0] + sums[..., 1]) + (sums[..., 2] + sums[..., 3])
    assert_same_bits(y[..., 0, 0], total / np.float32(flat.shape[-1]))

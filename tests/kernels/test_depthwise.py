"""Depthwise convolutions over NCHW16c."""

from __future__ import annotations

import ctypes
import re

import numpy as np
import pytest
from kernels.harness import at_page_end, build, compile_kernels, pointer, struct
from kernels.window import (
    Window,
    assert_close_to_float64,
    assert_same_bits,
    fma_loops,
    naive,
    run_kernel,
)

from sardonyx.kernels.packing import pack_depthwise

CASES = [
    Window(c=1, size=(1, 1), kernel=(1, 1)),
    Window(c=33, size=(7, 7), kernel=(3, 3), pads=(1, 1, 1, 1), n=2),
    Window(c=16, size=(14, 30), kernel=(3, 3), stride=(2, 2), pads=(0, 0, 1, 1)),
    Window(c=20, size=(15, 15), kernel=(5, 5), pads=(2, 2, 2, 2)),
    Window(c=16, size=(13, 37), kernel=(5, 5), stride=(2, 2), pads=(2, 1, 1, 2)),
    Window(c=48, size=(9, 17), kernel=(7, 7), pads=(3, 3, 3, 3), n=2),
    Window(c=16, size=(12, 40), kernel=(7, 7), stride=(2, 2), pads=(3, 2, 3, 4)),
    Window(c=17, size=(10, 11), kernel=(3, 3), stride=(3, 3), pads=(1, 1, 1, 1)),
    Window(c=16, size=(9, 14), kernel=(3, 3), dilation=(2, 2), pads=(2, 2, 2, 2)),
    Window(c=16, size=(9, 14), kernel=(3, 5), dilation=(2, 1), stride=(1, 2), pads=(2, 2, 2, 2)),
    Window(c=16, size=(6, 9), kernel=(2, 2), stride=(2, 1), pads=(0, 1, 0, 0)),
    Window(c=16, size=(8, 21), kernel=(1, 7), pads=(0, 3, 0, 3)),
    Window(c=16, size=(2, 2), kernel=(3, 3), pads=(5, 5, 5, 5)),
    Window(c=16, size=(66, 64), kernel=(3, 3)),
    Window(c=16, size=(3, 61), kernel=(3, 3), pads=(9, 40, 4, 23)),
    Window(c=16, size=(20, 9), kernel=(3, 3), stride=(1, 2), dilation=(7, 4), pads=(7, 4, 7, 4)),
    Window(c=1100, size=(3, 3), kernel=(3, 3), pads=(1, 1, 1, 1)),
]


def depthwise(window: Window, x: np.ndarray, w: np.ndarray, variant: str) -> np.ndarray:
    fields = {"c_blocks": -(-window.c // 16)}
    return run_kernel("depthwise_nchw16c_f32", window, x, pack_depthwise(w), variant=variant, fields=fields)


def whole(window: Window) -> Window:
    """The same as a convolution with as many groups as channels."""
    values = {**vars(window), "o": window.c, "groups": window.c}
    return Window(**values)


def check(window: Window, variant: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal((window.n, window.c, *window.size), dtype=np.float32)
    w = rng.standard_normal((window.c, 1, *window.kernel), dtype=np.float32)
    y = depthwise(window, x, w, variant)
    assert_same_bits(y[:, : window.c], naive(whole(window), variant, "naive_conv", x, w))
    assert_close_to_float64(whole(window), y[:, : window.c], x, w)
    assert not y[:, window.c :].any(), "lanes beyond the last channel are not zero"


@pytest.mark.parametrize("variant", ["v3", "v2", "wide"])
@pytest.mark.parametrize("window", CASES, ids=str)
def test_depthwise_sums_in_the_stated_order(window, variant):
    check(window, variant, np.random.default_rng(1))


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("width", [1, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14, 15, 28])
def test_every_row_width(kernel, stride, width):
    pad = kernel // 2
    window = Window(c=16, size=(4, width * stride), kernel=(kernel, kernel), stride=(stride, stride), pads=(pad,) * 4)
    check(window, "v3", np.random.default_rng(width))


def test_rows_of_a_part_of_the_image():
    """`depthwise_nchw16c_f32_rows` reads no row of x but those that have taps."""
    window = Window(c=16, size=(20, 11), kernel=(3, 3), stride=(2, 2), pads=(1, 1, 1, 1))
    rng = np.random.default_rng(3)
    x = rng.standard_normal((1, 16, 20, 11), dtype=np.float32)
    w = rng.standard_normal((16, 1, 3, 3), dtype=np.float32)
    whole_y = depthwise(window, x, w, "v3")
    lib, packed = build("depthwise_nchw16c_f32.c", isa="x86_64_v3"), pack_depthwise(w)
    args = struct("depthwise_nchw16c_f32.h", "depthwise_nchw16c_f32_args")
    a = args(w=pointer(packed), c_blocks=1, **window.fields())
    ow = window.out[1]
    for lo, hi in [(0, 3), (3, 4), (4, 10)]:
        first, last = max(lo * 2 - 1, 0), min((hi - 1) * 2 + 2, 20)
        part = at_page_end(np.full((last - first, 11, 16), 1, np.float32))
        part[...] = x[0, :, first:last].transpose(1, 2, 0)
        y = np.zeros((hi - lo, ow, 16), np.float32)
        plane_x = ctypes.c_void_p(pointer(part) - first * 11 * 64)
        plane_y = ctypes.c_void_p(pointer(y) - lo * ow * 64)
        rows = lib.depthwise_nchw16c_f32_rows
        rows(ctypes.byref(a), ctypes.c_int64(0), plane_x, plane_y, ctypes.c_int64(lo), ctypes.c_int64(hi))
        assert_same_bits(y.transpose(2, 0, 1), np.ascontiguousarray(whole_y[0, :, lo:hi]))


@pytest.mark.parametrize("kernel", [3, 4])
def test_nan_and_infinity_pass_through(kernel):
    window = Window(c=17, size=(9, 16), kernel=(kernel, kernel), pads=(1, 1, 1, 1))
    rng = np.random.default_rng(2)
    x = rng.standard_normal((1, 17, 9, 16), dtype=np.float32)
    w = rng.standard_normal((17, 1, kernel, kernel), dtype=np.float32)
    x[0, 1, 4, 5], x[0, 2, 0, 0], x[0, 16, 8, 15] = np.nan, np.inf, -np.inf
    w[2, 0, 1, 1], w[4, 0, 0, 0] = 0, np.inf  # infinity meets the padding: NaN
    y = depthwise(window, x, w, "v3")[:, :17]
    assert_same_bits(y, naive(whole(window), "v3", "naive_conv", x, w))
    assert np.isnan(y[0, 4, 0]).all()
    assert np.isfinite(y[0, 0]).all()


@pytest.mark.parametrize("isa", ["x86_64_v3", "icelake_server"])
def test_hot_loops_have_no_stack_references(isa):
    loops = fma_loops(compile_kernels("depthwise_nchw16c_f32.c", isa=isa, kind="s").read_text())
    inner = [(name, loop) for name, loop in loops if re.fullmatch(r"inner_[47]_[357]s[12]", name)]
    assert len({name for name, _ in inner}) == 12
    for name, loop in inner:
        assert not re.search(r"%[er][sb]p", loop), f"{name}:\n{loop}"

"""Convolutions of small groups over NCHW16c."""

from __future__ import annotations

import re

import numpy as np
import pytest
from kernels.harness import compile_kernels
from kernels.window import (
    Window,
    assert_close_to_float64,
    assert_same_bits,
    fma_loops,
    naive,
    run_kernel,
)

from sardonyx.kernels.packing import pack_grouped

PAIRS = -2  # of naive_window.c

CASES = [
    (2, Window(c=2, size=(1, 1), kernel=(1, 1))),
    (2, Window(c=34, size=(7, 7), kernel=(3, 3), pads=(1, 1, 1, 1), n=2)),
    (4, Window(c=16, size=(14, 30), kernel=(3, 3), stride=(2, 2), pads=(0, 0, 1, 1))),
    (4, Window(c=20, size=(15, 15), kernel=(5, 5), pads=(2, 2, 2, 2))),
    (8, Window(c=16, size=(13, 37), kernel=(5, 5), stride=(2, 2), pads=(2, 1, 1, 2))),
    (8, Window(c=56, size=(9, 29), kernel=(3, 3), pads=(1, 1, 1, 1), n=2)),
    (8, Window(c=24, size=(5, 17), kernel=(1, 1), n=2)),
    (2, Window(c=16, size=(12, 40), kernel=(7, 7), stride=(2, 2), pads=(3, 2, 3, 4))),
    (4, Window(c=36, size=(10, 11), kernel=(3, 3), stride=(3, 3), pads=(1, 1, 1, 1))),
    (8, Window(c=16, size=(9, 14), kernel=(3, 3), dilation=(2, 2), pads=(2, 2, 2, 2))),
    (4, Window(c=16, size=(9, 14), kernel=(3, 5), dilation=(2, 1), stride=(1, 2), pads=(2, 2, 2, 2))),
    (2, Window(c=16, size=(6, 9), kernel=(2, 2), stride=(2, 1), pads=(0, 1, 0, 0))),
    (8, Window(c=16, size=(1, 101), kernel=(1, 3), pads=(0, 1, 0, 1))),
    (8, Window(c=16, size=(2, 2), kernel=(3, 3), pads=(5, 5, 5, 5))),
    (4, Window(c=16, size=(66, 64), kernel=(3, 3))),
    (2, Window(c=16, size=(3, 61), kernel=(3, 3), pads=(9, 40, 4, 23))),
    (8, Window(c=16, size=(20, 9), kernel=(3, 3), stride=(1, 2), dilation=(7, 4), pads=(7, 4, 7, 4))),
    (4, Window(c=1100, size=(3, 3), kernel=(3, 3), pads=(1, 1, 1, 1))),
]


def grouped(window: Window, x: np.ndarray, w: np.ndarray, variant: str) -> np.ndarray:
    fields = {"c_blocks": -(-window.c // 16), "channels": w.shape[1]}
    return run_kernel("grouped_nchw16c_f32", window, x, pack_grouped(w), variant=variant, fields=fields)


def whole(channels: int, window: Window) -> Window:
    values = {**vars(window), "o": window.c, "groups": window.c // channels}
    return Window(**values)


def check(channels: int, window: Window, variant: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal((window.n, window.c, *window.size), dtype=np.float32)
    w = rng.standard_normal((window.c, channels, *window.kernel), dtype=np.float32)
    y = grouped(window, x, w, variant)
    assert_same_bits(y[:, : window.c], naive(whole(channels, window), variant, "naive_conv", x, w, order=PAIRS))
    assert_close_to_float64(whole(channels, window), y[:, : window.c], x, w)
    assert not y[:, window.c :].any(), "lanes beyond the last channel are not zero"


@pytest.mark.parametrize("variant", ["v3", "v2", "wide"])
@pytest.mark.parametrize(("channels", "window"), CASES, ids=str)
def test_groups_sum_in_the_stated_order(channels, window, variant):
    check(channels, window, variant, np.random.default_rng(1))


@pytest.mark.parametrize("variant", ["v3", "wide"])
@pytest.mark.parametrize("channels", [2, 4, 8])
@pytest.mark.parametrize("stride", [1, 2])
def test_every_row_width(channels, stride, variant):
    for width in (1, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 18, 19, 21, 22, 28, 33):
        for kernel in (1, 3):
            pads = (kernel // 2,) * 4
            shape = {"size": (4, width * stride), "kernel": (kernel, kernel), "stride": (stride, stride), "pads": pads}
            check(channels, Window(c=16, **shape), variant, np.random.default_rng(width))


@pytest.mark.parametrize("variant", ["v3", "v2", "wide"])
@pytest.mark.parametrize("kernel", [3, 4])
def test_nan_and_infinity_stay_in_their_group(kernel, variant):
    window = Window(c=24, size=(9, 29), kernel=(kernel, kernel), pads=(1, 1, 1, 1))
    rng = np.random.default_rng(2)
    x = rng.standard_normal((1, 24, 9, 29), dtype=np.float32)
    w = rng.standard_normal((24, 4, kernel, kernel), dtype=np.float32)
    x[0, 1, 4, 5], x[0, 6, 0, 0], x[0, 23, 8, 28] = np.nan, np.inf, -np.inf
    w[5, 2, 1, 1], w[12, 0, 0, 0] = 0, np.inf  # the latter meets the padding: NaN
    y = grouped(window, x, w, variant)
    assert_same_bits(y[:, :24], naive(whole(4, window), variant, "naive_conv", x, w, order=PAIRS))
    assert np.isnan(y[0, 12, 0]).all()
    assert np.isnan(y[0, :4, 3:5, 4:6]).all()
    assert np.isfinite(y[0, [8, 9, 10, 11, 13, 14, 15, 16, 17, 18, 19]]).all()
    assert not y[0, 24:].any(), "lanes beyond the last channel are not zero"


@pytest.mark.parametrize("isa", ["x86_64_v3", "icelake_server"])
def test_hot_loops_have_no_stack_references(isa):
    loops = fma_loops(compile_kernels("grouped_nchw16c_f32.c", isa=isa, kind="s").read_text())
    inner = [(name, loop) for name, loop in loops if re.fullmatch(r"inner_(14|7|4)_(3s[12]|other)", name)]
    assert len({name for name, _ in inner}) == (9 if isa == "icelake_server" else 6)
    for name, loop in inner:
        assert not re.search(r"%[er][sb]p", loop), f"{name}:\n{loop}"

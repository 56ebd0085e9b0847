"""Dense convolutions: NCHW16c, and the first one of a network, which reads a plain image."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from kernels.harness import build, compile_kernels, pointer, struct
from kernels.window import (
    Window,
    assert_close_to_float64,
    assert_same_bits,
    fma_loops,
    naive,
    run_kernel,
    spaced,
)

from sardonyx.kernels.packing import nchw16c_to_nchw, nchw_to_nchw16c, pack_conv, pack_conv_first

# Chunks, ranges and groups so small that every one of them has a border in a small convolution; and the two-block tile.
SMALL: dict[str, dict[str, object]] = {
    "small": {"CONV_MR": 4, "CONV_NB": 1, "CHUNK": 5, "POSITIONS": 8, "OC_GROUP": 2},
    "pairs": {"CONV_MR": 2, "CONV_NB": 2, "CHUNK": 3, "POSITIONS": 6, "OC_GROUP": 2},
}
CASES = [
    Window(c=1, o=1, size=(1, 1), kernel=(1, 1)),
    Window(c=16, o=32, size=(5, 13), kernel=(1, 1), n=2),
    Window(c=40, o=20, size=(14, 14), kernel=(1, 1)),
    Window(c=300, o=17, size=(7, 7), kernel=(1, 1)),
    Window(c=20, o=33, size=(15, 17), kernel=(1, 1), stride=(2, 2)),
    Window(c=16, o=16, size=(7, 7), kernel=(3, 3), pads=(1, 1, 1, 1), n=2),
    Window(c=35, o=50, size=(14, 14), kernel=(3, 3), pads=(1, 1, 1, 1)),
    Window(c=24, o=16, size=(15, 30), kernel=(3, 3), stride=(2, 2), pads=(0, 1, 2, 0)),
    Window(c=16, o=16, size=(9, 5), kernel=(2, 2), stride=(1, 2), pads=(1, 0, 0, 1)),
    Window(c=17, o=15, size=(16, 23), kernel=(5, 5), dilation=(2, 2), pads=(4, 3, 2, 5)),
    Window(c=16, o=80, size=(13, 6), kernel=(1, 7), stride=(3, 1), pads=(0, 3, 0, 3), n=2),
    Window(c=16, o=16, size=(6, 40), kernel=(7, 1), stride=(1, 3), dilation=(1, 2), pads=(3, 0, 3, 0)),
    Window(c=64, o=96, size=(6, 7), kernel=(3, 3), pads=(1, 1, 1, 1), groups=2, n=2),
    Window(c=48, o=48, size=(5, 5), kernel=(1, 1), groups=3),
    Window(c=16, o=16, size=(3, 3), kernel=(3, 3), pads=(3, 3, 3, 3)),
    Window(c=64, o=300, size=(10, 12), kernel=(3, 3), pads=(1, 1, 1, 1)),
    # Rows of taps in padding: of some tasks, of all but one.
    Window(c=40, o=50, size=(20, 11), kernel=(3, 3), dilation=(12, 5), pads=(12, 5, 12, 5)),
    Window(c=33, o=16, size=(30, 8), kernel=(5, 2), dilation=(9, 1), pads=(18, 0, 18, 1), n=2),
    Window(c=16, o=16, size=(5, 4), kernel=(3, 3), stride=(2, 1), pads=(9, 1, 9, 1)),
]
FIRST = [
    Window(c=1, o=1, size=(1, 1), kernel=(1, 1)),
    Window(c=3, o=64, size=(23, 30), kernel=(7, 7), stride=(2, 2), pads=(3, 3, 3, 3), n=2),
    Window(c=3, o=20, size=(16, 15), kernel=(3, 3), stride=(2, 2), pads=(0, 0, 1, 1)),
    Window(c=1, o=32, size=(14, 13), kernel=(5, 5), pads=(2, 2, 2, 2)),
    Window(c=4, o=17, size=(12, 17), kernel=(3, 2), stride=(1, 3), dilation=(2, 2), pads=(2, 1, 0, 4)),
    Window(c=3, o=48, size=(16, 24), kernel=(8, 8), stride=(8, 8)),
    Window(c=2, o=16, size=(2, 3), kernel=(3, 3), stride=(2, 2), pads=(2, 5, 2, 5)),
    Window(c=3, o=24, size=(40, 50), kernel=(3, 3), pads=(1, 1, 1, 1), n=2),
    Window(c=2, o=40, size=(5, 9), kernel=(2, 2), stride=(2, 2), dilation=(1, 3)),
]


def inputs(window: Window, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    x = rng.standard_normal((window.n, window.c, *window.size), dtype=np.float32)
    w = rng.standard_normal((window.o, window.c // window.groups, *window.kernel), dtype=np.float32)
    return x, w


def conv(
    window: Window, x: np.ndarray, w: np.ndarray, more: Mapping[str, int] | None = None, **options: object
) -> np.ndarray:
    blocks = {"ic_blocks": -(-window.c // 16), "oc_blocks": -(-window.o // 16), "groups": window.groups}
    blocks |= {"ic": window.c // window.groups, **(more or {})}
    return run_kernel("conv_nchw16c_f32", window, x, pack_conv(w, window.groups), fields=blocks, **options)


def conv_rows(window: Window, x: np.ndarray, w: np.ndarray, **options: object) -> np.ndarray:
    blocks = {"ic_blocks": -(-window.c // 16), "oc_blocks": -(-window.o // 16), "groups": window.groups}
    blocks["ic"] = window.c // window.groups
    return run_kernel("conv_rows_nchw16c_f32", window, x, pack_conv(w, window.groups), fields=blocks, **options)


def conv_first(window: Window, x: np.ndarray, w: np.ndarray, **options: object) -> np.ndarray:
    fields = {"ic": window.c, "oc_blocks": -(-window.o // 16)}
    return run_kernel("conv_first_f32", window, x, pack_conv_first(w), blocked=False, fields=fields, **options)


def check(window: Window, kernel, order: int, rng: np.random.Generator, variant: str = "v3", **options) -> None:
    x, w = inputs(window, rng)
    y = kernel(window, x, w, variant=variant, **options)
    assert_same_bits(y[:, : window.o], naive(window, variant, "naive_conv", x, w, order=order))
    assert_close_to_float64(window, y[:, : window.o], x, w)
    assert not y[:, window.o :].any(), "lanes beyond the last channel are not zero"


@pytest.mark.parametrize("variant", ["v3", "v2", "wide"])
@pytest.mark.parametrize("window", CASES, ids=str)
def test_conv_sums_in_the_stated_order(window, variant):
    check(window, conv, 16, np.random.default_rng(1), variant)


@pytest.mark.parametrize("variant", ["v3", "v2", "wide"])
@pytest.mark.parametrize("window", [window for window in CASES if window.stride[1] <= 2], ids=str)
def test_conv_by_rows_sums_in_the_same_order(window, variant):
    check(window, conv_rows, 16, np.random.default_rng(1), variant)


@pytest.mark.parametrize("tunables", SMALL)
@pytest.mark.parametrize("window", CASES, ids=str)
def test_conv_does_not_depend_on_tiles_and_chunks(window, tunables):
    check(window, conv, 16, np.random.default_rng(2), defines=SMALL[tunables])


@pytest.mark.parametrize("variant", ["v3", "v2", "wide"])
@pytest.mark.parametrize("window", CASES, ids=str)
def test_a_scale_of_channels_multiplies_the_weights_of_each_image(window, variant):
    rng = np.random.default_rng(6)
    x, w = inputs(window, rng)
    scale = rng.standard_normal((window.n, window.c), dtype=np.float32)
    memory, batch = spaced(nchw_to_nchw16c(scale[:, :, None, None]))
    y = conv(window, x, w, variant=variant, more={"scale": pointer(memory), "scale_batch": batch})
    for image in range(window.n):
        one = replace(window, n=1)
        by = scale[image].reshape(window.groups, 1, -1, 1, 1)
        scaled = (w.reshape(window.groups, -1, *w.shape[1:]) * by).reshape(w.shape)
        wanted = naive(one, variant, "naive_conv", x[image : image + 1], scaled, order=16)
        assert_same_bits(y[image : image + 1, : window.o], wanted)


@pytest.mark.parametrize("variant", ["v3", "v2", "wide"])
@pytest.mark.parametrize("window", FIRST, ids=str)
def test_first_conv_sums_in_the_stated_order(window, variant):
    check(window, conv_first, 1, np.random.default_rng(3), variant)


@pytest.mark.parametrize("tunables", SMALL)
@pytest.mark.parametrize("window", FIRST, ids=str)
def test_first_conv_does_not_depend_on_tiles_and_chunks(window, tunables):
    check(window, conv_first, 1, np.random.default_rng(4), defines=SMALL[tunables])


@pytest.mark.parametrize("width", [1, 2, 5, 6, 7, 11, 13, 14, 15, 17])
def test_every_row_width(width):
    window = Window(c=16, o=32, size=(4, width), kernel=(3, 3), pads=(1, 1, 1, 1))
    check(window, conv, 16, np.random.default_rng(width))
    check(window, conv, 16, np.random.default_rng(width), "wide")
    for variant in ("v3", "v2", "wide"):
        check(window, conv_rows, 16, np.random.default_rng(width), variant)
        halved = Window(c=32, o=48, size=(5, 2 * width), kernel=(3, 5), stride=(1, 2), pads=(1, 2, 1, 2), groups=1)
        check(halved, conv_rows, 16, np.random.default_rng(width), variant)
    window = Window(c=3, o=16, size=(4, width), kernel=(3, 3), pads=(1, 1, 1, 1))
    check(window, conv_first, 1, np.random.default_rng(width))


@pytest.mark.parametrize(("kernel", "order", "c"), [(conv, 16, 20), (conv_rows, 16, 20), (conv_first, 1, 3)])
def test_nan_and_infinity_pass_through(kernel, order, c):
    window = Window(c=c, o=17, size=(9, 11), kernel=(3, 3), pads=(1, 1, 1, 1), stride=(1, 1))
    rng = np.random.default_rng(5)
    x, w = inputs(window, rng)
    x[0, 1, 2, 3], x[0, 0, 8, 10], x[0, 2, 0, 7] = np.nan, np.inf, -np.inf
    w[3, 0, 1, 1], w[5, 1, 0, 0], w[7, 2, 2, 2] = 0, np.nan, np.inf  # infinity meets the padding: NaN
    y = kernel(window, x, w)[:, : window.o]
    assert_same_bits(y, naive(window, "v3", "naive_conv", x, w, order=order))
    assert np.isnan(y[0, 7, 8]).all()
    assert np.isfinite(y[0, 0, 4:7, 5:8]).all()


def test_work_is_cut_finer_than_threads():
    lib = build("conv_nchw16c_f32.c")
    arguments = struct("conv_nchw16c_f32.h", "conv_nchw16c_f32_args")
    same = {"n": 1, "stride_h": 1, "stride_w": 1, "dilation_h": 1, "dilation_w": 1, "groups": 1}
    for channels, size, kernel in [(64, 56, 3), (512, 7, 3), (2048, 7, 1), (256, 14, 1), (32, 112, 1)]:
        args = arguments(
            ic=channels,
            ic_blocks=channels // 16,
            oc_blocks=channels // 16,
            ih=size,
            iw=size,
            oh=size,
            ow=size,
            kh=kernel,
            kw=kernel,
            pad_top=kernel // 2,
            pad_left=kernel // 2,
            **same,
        )
        assert 8 <= lib.conv_nchw16c_f32_tasks(ctypes.byref(args)) <= 256


@pytest.mark.parametrize("isa", ["x86_64_v3", "icelake_server", "aarch64"])
@pytest.mark.parametrize("kernel", ["conv_nchw16c_f32", "conv_first_f32"])
def test_hot_loops_have_no_stack_references(kernel, isa):
    loops = fma_loops(compile_kernels(f"{kernel}.c", isa=isa, kind="s").read_text())
    many = {"conv_nchw16c_f32": (12, 37), "conv_first_f32": (6, 28)}  # 37: of 1 to 14, 14 and 9 positions
    assert len(loops) == many[kernel][isa == "icelake_server"], "one for each tile"
    for name, loop in loops:
        assert not re.search(r"%[er][sb]p|\[(sp|x29)", loop), f"{name}:\n{loop}"


def test_layouts_round_trip():
    x = np.arange(2 * 19 * 3 * 4, dtype=np.float32).reshape(2, 19, 3, 4)
    blocked = nchw_to_nchw16c(x)
    assert blocked.shape == (2, 2, 3, 4, 16)
    assert blocked[1, 1, 2, 3, 2] == x[1, 18, 2, 3]
    assert not blocked[:, 1, :, :, 3:].any()
    np.testing.assert_array_equal(nchw16c_to_nchw(blocked, 19), x)


def test_groups_must_fill_whole_blocks():
    with pytest.raises(ValueError, match="2 groups of 8 input and 16 output channels"):
        pack_conv(np.zeros((32, 8, 3, 3), np.float32), groups=2)

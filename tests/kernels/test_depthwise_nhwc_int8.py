"""depthwise_nhwc_int8 and pool_nhwc_int8: the bytes of integer arithmetic in numpy, on every engine."""

from __future__ import annotations

import numpy as np
import pytest
from kernels import harness
from kernels.nhwc import ENGINES, Case, reference, samples

from sardonyx.kernels.packing_int8 import pack_depthwise_nhwc

CASES = {
    "3x3": Case(c=16, o=16, groups=16),
    "few channels": Case(c=3, o=3, groups=3, scales=1),
    "tails": Case(c=37, o=37, groups=37, scales=1, size=(13, 9)),
    "stride 2": Case(c=32, o=32, groups=32, strides=(2, 2), size=(17, 20)),
    "5x5": Case(c=48, o=48, groups=48, kernel=(5, 5), pads=(2, 2, 2, 2)),
    "7x2": Case(c=19, o=19, groups=19, kernel=(7, 2), pads=(3, 1, 0, 4), strides=(3, 2), size=(23, 11)),
    "dilated": Case(c=17, o=17, groups=17, dilations=(2, 3), pads=(2, 3, 2, 3)),
    "narrow": Case(c=21, o=21, groups=21, size=(7, 1), pads=(1, 1, 1, 1)),
    "signed": Case(c=35, o=35, groups=35, x="int8", y="int8", scales=1),
    "unsigned to signed": Case(c=35, o=35, groups=35, x="uint8", y="int8"),
    "sums": Case(c=23, o=23, groups=23, y="int32", x="int8"),
    "batch in gaps": Case(n=3, c=18, o=18, groups=18, pitch=7, scales=1),
    "all padding": Case(c=5, o=5, groups=5, size=(1, 1), kernel=(3, 3), pads=(3, 3, 3, 3)),
    "no bias": Case(c=40, o=40, groups=40, bias=False),
    "64 channels": Case(c=64, o=64, groups=64, scales=1, size=(5, 11)),
    "192 channels, signed": Case(c=192, o=192, groups=192, x="int8", y="int8", strides=(2, 2), size=(7, 13)),
    "64 channels in gaps": Case(c=64, o=64, groups=64, x="int8", y="uint8", kernel=(5, 5), pads=(2, 2, 2, 2), pitch=3),
    "sums of 64 channels": Case(c=64, o=64, groups=64, y="int32"),
    "wide parts": Case(c=1088, o=1088, groups=1088, size=(3, 40), scales=1),
    "parts": Case(c=1030, o=1030, groups=1030, size=(3, 40), scales=1),
    "nothing": Case(n=0, c=5, o=5, groups=5),
}


def image(case: Case, x: np.ndarray) -> np.ndarray:
    """`x` in memory as the kernels want it, at the end of a page."""
    room = np.full((case.n, *case.size, case.c + case.pitch), 85, x.dtype)
    room[..., : case.c] = x
    return harness.at_page_end(np.concatenate([room.reshape(-1), np.full(64, 77, x.dtype)]))


def geometry(case: Case) -> dict[str, int]:
    names = ("ih", "iw", "oh", "ow", "kh", "kw", "stride_h", "stride_w", "dilation_h", "dilation_w", "pad_top",
             "pad_left")  # fmt: skip
    values = (*case.size, *case.out, *case.kernel, *case.strides, *case.dilations, *case.pads[:2])
    return dict(zip(names, values, strict=True)) | {"n": case.n, "oc": case.o}


def depthwise(lib, case: Case, t: dict[str, np.ndarray], *, splits=None, **more) -> tuple[np.ndarray, int]:
    args_type = harness.struct("depthwise_nhwc_int8.h", "depthwise_nhwc_int8_args")
    x, (oh, ow) = image(case, t["x"]), case.out
    packed, sums = map(harness.at_page_end, pack_depthwise_nhwc(t["w"]))
    bias, scale = harness.at_page_end(t["bias"]), harness.at_page_end(t["scale"])
    y = harness.at_page_end(np.full((case.n, oh, ow, case.o + case.pitch), 99, case.y))
    args = args_type(
        x=harness.pointer(x), x_signed=case.x == "int8", x_batch=case.size[0] * case.size[1] * (case.c + case.pitch),
        x_pitch=case.c + case.pitch, x_zero=harness.pointer(t["x_zero"]), w=harness.pointer(packed),
        w_sums=harness.pointer(sums), bias=harness.pointer(bias) if case.bias else None,
        scale=None if case.y == "int32" else harness.pointer(scale), scale_step=case.scales,
        y_zero=harness.pointer(t.get("y_zero")), y=harness.pointer(y), y_signed=case.y == "int8",
        y_batch=oh * ow * (case.o + case.pitch), y_pitch=case.o + case.pitch, **geometry(case), **more,
    )  # fmt: skip
    tasks = harness.run(lib, "depthwise_nhwc_int8", args, splits=splits)
    assert (y[..., case.o :] == 99).all(), "wrote between pixels"
    return y[..., : case.o], tasks


@pytest.mark.parametrize("engine", ENGINES)
def test_depthwise_bytes_are_those_of_integer_arithmetic(engine):
    lib = harness.build("depthwise_nhwc_int8.c", "builtins.c", **engine)
    for name, case in CASES.items():
        t = samples(case, 11)
        np.testing.assert_array_equal(depthwise(lib, case, t)[0], reference(case, t), err_msg=name)


@pytest.mark.parametrize("engine", ENGINES)
def test_depthwise_tasks_may_run_in_any_order(engine):
    lib = harness.build("depthwise_nhwc_int8.c", "builtins.c", **engine)
    case = Case(c=96, o=96, groups=96, size=(30, 41))
    t = samples(case, 5)
    want, tasks = depthwise(lib, case, t)
    assert tasks > 1
    got, _ = depthwise(lib, case, t, splits=[(i, i + 1) for i in reversed(range(tasks))])
    np.testing.assert_array_equal(got, want)


def largest(case: Case, x: np.ndarray) -> np.ndarray:
    top, left, bottom, right = case.pads
    low = np.iinfo(x.dtype).min
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=low)
    oh, ow = case.out
    found = np.full((case.n, oh, ow, case.c), low, x.dtype)
    for i in range(case.kernel[0]):
        for j in range(case.kernel[1]):
            seen = x[:, i * case.dilations[0] :, j * case.dilations[1] :][:, :: case.strides[0], :: case.strides[1]]
            found = np.maximum(found, seen[:, :oh, :ow])
    return found


@pytest.mark.parametrize("isa", ["x86_64_v2", pytest.param("x86_64_v3", marks=pytest.mark.isa("avx2")),
                                 pytest.param("icelake_server", marks=pytest.mark.isa("avx512_vbmi2"))])  # fmt: skip
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_pooling_finds_the_largest_byte_of_each_window(isa, dtype):
    lib = harness.build("pool_nhwc_int8.c", "builtins.c", isa=isa)
    args_type = harness.struct("pool_nhwc_int8.h", "pool_nhwc_int8_args")
    for case in (Case(c=64, o=64, strides=(2, 2)), Case(c=7, o=7, kernel=(2, 2), pads=(0, 0, 0, 0), strides=(2, 2)),
                 Case(c=101, o=101, n=2, pitch=3), Case(c=19, o=19, kernel=(5, 1), dilations=(2, 1), pads=(4, 0, 4, 0)),
                 Case(c=16, o=16, kernel=(9, 11), pads=(0, 0, 0, 0)), Case(n=0, o=5)):  # fmt: skip
        x = np.random.default_rng(3).integers(-128, 128, (case.n, *case.size, case.c)).astype(np.int8).view(dtype)
        x[x > 90] -= 60
        given, (oh, ow) = image(case, x), case.out
        y = harness.at_page_end(np.full((case.n, oh, ow, case.o + case.pitch), 99, dtype))
        args = args_type(
            x=harness.pointer(given), is_signed=dtype == "int8", x_pitch=case.c + case.pitch,
            x_batch=case.size[0] * case.size[1] * (case.c + case.pitch), y=harness.pointer(y),
            y_batch=oh * ow * (case.o + case.pitch), y_pitch=case.o + case.pitch, **geometry(case),
        )  # fmt: skip
        harness.run(lib, "pool_nhwc_int8", args)
        np.testing.assert_array_equal(y[..., : case.o], largest(case, x), err_msg=str(case))
        assert (y[..., case.o :] == 99).all(), "wrote between pixels"


def sums(case: Case, x: np.ndarray, zero: int) -> np.ndarray:
    """[n, oh, ow, c]: the sum of each window's taps inside the image, less the zero point each."""
    top, left, bottom, right = case.pads
    x = np.pad(x.astype(np.int64) - zero, ((0, 0), (top, bottom), (left, right), (0, 0)))
    oh, ow = case.out
    found = np.zeros((case.n, oh, ow, case.c), np.int64)
    for i in range(case.kernel[0]):
        for j in range(case.kernel[1]):
            seen = x[:, i * case.dilations[0] :, j * case.dilations[1] :][:, :: case.strides[0], :: case.strides[1]]
            found += seen[:, :oh, :ow]
    return found


@pytest.mark.parametrize("isa", ["x86_64_v2", pytest.param("x86_64_v3", marks=pytest.mark.isa("avx2")),
                                 pytest.param("icelake_server", marks=pytest.mark.isa("avx512_vbmi2"))])  # fmt: skip
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_pooling_adds_up_the_bytes_of_each_window(isa, dtype):
    lib = harness.build("pool_nhwc_int8.c", "builtins.c", isa=isa)
    args_type = harness.struct("pool_nhwc_int8.h", "pool_nhwc_int8_args")
    far = np.iinfo(dtype).max
    whole = Case(c=83, o=83, size=(37, 29), kernel=(37, 29), pads=(0, 0, 0, 0))  # more than 16 bits hold
    for case in (whole, Case(c=64, o=64, strides=(2, 2)), Case(c=101, o=101, n=2, pitch=3), Case(n=0, o=5),
                 Case(c=19, o=19, kernel=(5, 1), dilations=(2, 1), pads=(4, 0, 4, 0))):  # fmt: skip
        x = np.random.default_rng(3).integers(-128, 128, (case.n, *case.size, case.c)).astype(np.int8).view(dtype)
        x[..., :20] = far
        given, (oh, ow) = image(case, x), case.out
        for zero in (None, np.array([far - 6], dtype)):
            y = harness.at_page_end(np.full((case.n, oh, ow, case.o + case.pitch), 99, np.int32))
            args = args_type(
                x=harness.pointer(given), is_signed=dtype == "int8", x_pitch=case.c + case.pitch, sums=1,
                x_batch=case.size[0] * case.size[1] * (case.c + case.pitch), y=harness.pointer(y),
                y_batch=oh * ow * (case.o + case.pitch), y_pitch=case.o + case.pitch, x_zero=harness.pointer(zero),
                **geometry(case),
            )  # fmt: skip
            harness.run(lib, "pool_nhwc_int8", args)
            expected = sums(case, x, 0 if zero is None else int(zero[0]))
            np.testing.assert_array_equal(y[..., : case.o], expected, err_msg=str(case))
            assert (y[..., case.o :] == 99).all(), "wrote between pixels"

"""conv_nhwc_int8: the bytes of integer arithmetic in numpy, on every engine."""

from __future__ import annotations

import numpy as np
import pytest
from kernels import harness
from kernels.nhwc import ENGINES, Case, reference, samples

from sardonyx.compiler.byte_sums import equal_factors
from sardonyx.kernels.packing_int8 import pack_conv_nhwc

CASES = {
    "3x3": Case(),
    "pointwise": Case(c=67, o=33, kernel=(1, 1), pads=(0, 0, 0, 0), scales=1),
    "pointwise of few positions": Case(c=64, o=16, size=(3, 5), kernel=(1, 1), pads=(0, 0, 0, 0)),
    "pointwise in gaps": Case(c=13, o=18, kernel=(1, 1), pads=(0, 0, 0, 0), pitch=5),
    "pointwise strided": Case(c=24, o=40, kernel=(1, 1), strides=(2, 2), pads=(0, 0, 0, 0)),
    "pointwise padded": Case(c=3, o=5, kernel=(1, 1), strides=(3, 2), pads=(2, 1, 0, 3)),
    "stem": Case(c=3, o=37, size=(31, 29), kernel=(7, 7), strides=(2, 2), pads=(3, 3, 3, 3), scales=1),
    "stride 2": Case(c=32, o=16, strides=(2, 2)),
    "other strides": Case(c=7, o=5, size=(23, 19), kernel=(5, 3), strides=(3, 2), pads=(2, 0, 1, 4)),
    "dilated": Case(c=19, o=31, size=(17, 13), dilations=(2, 3), pads=(2, 3, 2, 3), strides=(2, 1)),
    "row": Case(c=11, o=9, size=(1, 41), kernel=(1, 5), pads=(0, 2, 0, 2), dilations=(1, 1)),
    "column": Case(c=11, o=9, size=(41, 1), kernel=(5, 1), pads=(2, 0, 2, 0)),
    "whole input": Case(c=29, o=67, size=(7, 7), kernel=(7, 7), pads=(0, 0, 0, 0)),
    "padding everywhere": Case(size=(1, 1), kernel=(5, 5), pads=(4, 4, 4, 4), dilations=(2, 2)),
    "groups": Case(c=12, o=21, groups=3, scales=1),
    "groups of 32": Case(c=96, o=99, groups=3, kernel=(1, 1), pads=(0, 0, 0, 0), size=(6, 7)),
    "channels alone": Case(c=6, o=12, groups=6),
    "batch": Case(n=3, c=17, o=35, scales=1, pitch=3),
    "wide": Case(c=129, o=65, size=(13, 15), scales=1),
    "many channels": Case(c=520, o=70, size=(5, 5)),
    "no bias": Case(bias=False, x="int8", y="int8", scales=1),
    "signed": Case(c=65, o=34, x="int8", y="int8"),
    "signed to unsigned": Case(c=8, o=16, x="int8", y="uint8"),
    "unsigned to signed": Case(c=8, o=16, x="uint8", y="int8"),
    "sums": Case(c=33, o=47, y="int32"),
    "sums without bias": Case(c=33, o=16, y="int32", bias=False, x="int8", kernel=(1, 1), pads=(0, 0, 0, 0), pitch=2),
    "nothing": Case(n=0),
    "no channels of output": Case(o=0),
    "many tasks": Case(c=64, o=160, size=(40, 40)),
}  # fmt: skip


def convolve(lib, case: Case, t: dict[str, np.ndarray], *, splits=None, place=None, **more) -> tuple[np.ndarray, int]:
    args_type = harness.struct("conv_nhwc_int8.h", "conv_nhwc_int8_args")
    (oh, ow), pitch = case.out, case.c + case.pitch
    x = np.full((case.n, *case.size, pitch), 85, t["x"].dtype)
    x[..., : case.c] = t["x"]
    room = harness.at_page_end(np.concatenate([x.reshape(-1), np.full(64, 77, x.dtype)]))
    packed, sums = pack_conv_nhwc(t["w"], case.groups, merged=case.dilations[1] == 1)
    w, sums = harness.at_page_end(packed), harness.at_page_end(sums)
    bias, scale = harness.at_page_end(t["bias"]), harness.at_page_end(t["scale"])
    y = harness.at_page_end(np.full((case.n, oh, ow, case.o + case.pitch), 99, case.y))
    kh, kw = case.kernel
    args = args_type(
        x=harness.pointer(room), x_signed=case.x == "int8", x_batch=x[0].size if case.n else 0, x_pitch=pitch,
        x_zero=harness.pointer(t["x_zero"]), w=harness.pointer(w), w_sums=harness.pointer(sums),
        bias=harness.pointer(bias) if case.bias else None,
        scale=None if case.y == "int32" else harness.pointer(scale), scale_step=case.scales,
        y_zero=harness.pointer(t.get("y_zero")), y=harness.pointer(y), y_signed=case.y == "int8",
        y_batch=y[0].size if case.n else 0, y_pitch=case.o + case.pitch, n=case.n, ic=case.c, oc=case.o,
        groups=case.groups, ih=case.size[0], iw=case.size[1], oh=oh, ow=ow, kh=kh, kw=kw, stride_h=case.strides[0],
        stride_w=case.strides[1], dilation_h=case.dilations[0], dilation_w=case.dilations[1], pad_top=case.pads[0],
        pad_left=case.pads[1], **more,
    )  # fmt: skip
    for name, value in (place or {}).items():
        setattr(args, name, value)
    tasks = harness.run(lib, "conv_nhwc_int8", args, splits=splits)
    assert (y[..., case.o :] == 99).all(), "wrote between pixels"
    return y[..., : case.o], tasks


def library(engine: dict, **more):
    return harness.build("conv_nhwc_int8.c", "builtins.c", **engine, **more)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", CASES)
def test_the_bytes_are_those_of_integer_arithmetic(engine, name):
    case, lib = CASES[name], library(engine)
    t = samples(case, 7)
    got, tasks = convolve(lib, case, t)
    np.testing.assert_array_equal(got, reference(case, t))
    if name == "many tasks":
        assert tasks > 1


@pytest.mark.parametrize("engine", ENGINES)
def test_tasks_may_run_in_any_order(engine):
    case, lib = CASES["many tasks"], library(engine)
    t = samples(case, 3)
    want, tasks = convolve(lib, case, t)
    backwards = [(i, i + 1) for i in reversed(range(tasks))]
    np.testing.assert_array_equal(convolve(lib, case, t, splits=backwards)[0], want)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_extreme_values_neither_saturate_on_the_way_nor_leave_their_range(engine, dtype):
    lib, kind = library(engine), np.iinfo(dtype)
    for x, w, zero, scale in ((kind.max, -128, kind.min, 1e-4), (kind.max, 127, kind.min, 3.0),
                              (kind.min, -128, kind.max, 1e9), (kind.min, 127, kind.max, 1e-4)):  # fmt: skip
        case = Case(c=66, o=19, x=dtype, y=dtype, bias=False)
        t = samples(case, 1)
        t["x"][...], t["w"][...], t["x_zero"][...], t["scale"][...] = x, w, zero, scale
        np.testing.assert_array_equal(convolve(lib, case, t)[0], reference(case, t))


@pytest.mark.parametrize("engine", ENGINES)
def test_halves_are_rounded_to_even_before_the_zero_point_is_added(engine):
    lib = library(engine)
    case = Case(c=1, o=16, kernel=(1, 1), pads=(0, 0, 0, 0), y="int8", x="int8", bias=False)
    t = samples(case, 1)
    t["w"][...], t["x_zero"][...], t["y_zero"][...], t["scale"][...] = 1, 0, 1, 0.5
    got = convolve(lib, case, t)[0]
    np.testing.assert_array_equal(got, reference(case, t))
    assert (got[t["x"][..., 0] == 3] == 3).all(), "1.5 -> 2, plus 1"


@pytest.mark.parametrize("engine", ENGINES)
def test_every_number_of_positions_and_channels_around_a_tile(engine):
    lib = library(engine)
    for width in (1, 2, 5, 6, 7, 13, 14, 15, 16, 17, 31, 32, 33, 47, 65):
        for o in (1, 15, 16, 17, 31, 32, 33, 48):
            case = Case(c=3, o=o, size=(1, width), kernel=(1, 1), pads=(0, 0, 0, 0))
            t = samples(case, width)
            np.testing.assert_array_equal(convolve(lib, case, t)[0], reference(case, t), err_msg=f"{width} {o}")


EPILOGUE = """
#include <stdint.h>
void count(void *const *p, const int64_t *d, int64_t i0, int64_t i1, int64_t lo2, int64_t hi2, int64_t lo3,
           int64_t hi3) {
    uint8_t *seen = p[0];
    for (int64_t i = lo2; i < hi2; i++)
        for (int64_t j = lo3; j < hi3; j++) seen[(i0 * d[0] + i) * d[1] + j] += 1 + 100 * (i1 != 0);
}
"""


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["batch", "pointwise", "groups", "many tasks"])
def test_the_epilogue_sees_every_element_once(engine, name):
    case, lib = CASES[name], library(engine, source=EPILOGUE)
    t, (oh, ow) = samples(case, 5), case.out
    seen = np.zeros((case.n, oh * ow, case.o), np.uint8)
    operands, dims = np.array([seen.ctypes.data], np.int64), np.array([oh * ow, case.o], np.int64)
    convolve(lib, case, t, epilogue=harness.function(lib, "count"), operands=harness.pointer(operands),
             dims=harness.pointer(dims))  # fmt: skip
    assert (seen == 1).all()


@pytest.mark.parametrize("isa", ["x86_64_v3", "icelake_server", "aarch64"])
def test_the_hot_loops_do_not_touch_the_stack(isa):
    text = harness.compile_kernels("conv_nhwc_int8.c", isa=isa, kind="s").read_text()
    loops = [loop for name, loop in harness.hot_loops(text, r"vpdpbusd|vpmaddwd|smull2") if "conv_int8" in name]
    assert len(loops) == {"x86_64_v3": 6, "icelake_server": 28, "aarch64": 5}[isa], "one for each tile"
    assert not any("%rsp" in loop or "%rbp" in loop or "[sp" in loop for loop in loops)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("block", [2, 3])
def test_channels_are_spread_over_blocks_of_pixels(engine, block):
    lib, depth = library(engine), 64 if block == 2 else 32
    case = Case(n=2, c=37, o=block * block * depth, size=(5, 7), kernel=(1, 1), pads=(0, 0, 0, 0), scales=1)
    t, (oh, ow) = samples(case, 13), case.out
    want = reference(case, t).reshape(case.n, oh, ow, block, block, depth).transpose(0, 1, 3, 2, 4, 5)
    want = want.reshape(case.n, oh * block, ow * block, depth)
    y = harness.at_page_end(np.full((*want.shape[:3], depth + 32), 99, case.y))
    place = {"spread": block, "y": harness.pointer(y), "y_pitch": depth + 32, "y_batch": y[0].size}
    convolve(lib, case, t, place=place)
    np.testing.assert_array_equal(y[..., :depth], want)
    assert (y[..., depth:] == 99).all(), "wrote between pixels"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["3x3", "pointwise", "groups of 32", "many tasks", "signed", "many channels"])
@pytest.mark.parametrize("known", [True, False])
def test_a_sum_with_other_bytes_is_rounded_as_its_quotient(engine, name, known):
    case, lib, single = CASES[name], library(engine), np.float32
    t, info, rng = samples(case, 17), np.iinfo(case.y), np.random.default_rng(19)
    other = rng.integers(info.min, info.max + 1, (case.n, *case.out, case.o), case.y)
    own_zero, other_zero, zero = 3, -5 if case.y == "int8" else 5, 12
    own_scale, other_scale, divisor = map(single, (0.021, 0.013, 0.017))
    t["y_zero"][...] = own_zero
    own = reference(case, t).astype(int) - own_zero
    terms = own.astype(single) * own_scale + (other.astype(int) - other_zero).astype(single) * other_scale
    want = np.clip(np.rint(terms / divisor) + zero, info.min, info.max)
    found = equal_factors((own_zero, own_scale), (other_zero, other_scale), divisor, zero, case.y)
    assert found is not None
    t["y_zero"][...] = zero
    room = harness.at_page_end(np.concatenate([other.reshape(-1), np.zeros(64, case.y)]))
    more = {"other": harness.pointer(room), "own_zero": own_zero, "other_zero": other_zero, "own_scale": own_scale,
            "other_scale": other_scale, "divisor": divisor, "inverse": single(1) / divisor}  # fmt: skip
    got, _ = convolve(lib, case, t, **more, **(found._asdict() if known else {}))
    np.testing.assert_array_equal(got, want)

"""Winograd convolution: tails, cuts, error bound, special values, and when it is chosen."""

from __future__ import annotations

import ctypes
import re

import numpy as np
import onnx
import pytest
from kernels.harness import build, compile_kernels, pointer, run, struct
from kernels.window import (
    ISAS,
    Window,
    assert_same_bits,
    conv_float64,
    fma_loops,
    random_splits,
    run_kernel,
    spaced,
)
from onnx import helper, numpy_helper

import sardonyx
from sardonyx.kernels.packing import nchw_to_nchw16c, pack_conv
from sardonyx.ops import window
from sardonyx.ops import winograd as lowering


def _blocks(tiles: int) -> dict[str, object]:
    return {"WINOGRAD_BLOCK": tiles, "WINOGRAD_SHARED_BLOCK": tiles}


# Blocks and groups so small that every one of them has a border in a small convolution.
SMALL: dict[str, dict[str, object]] = {
    "small": {
        "WINOGRAD_BLOCK": 3,
        "WINOGRAD_SHARED_BLOCK": 3,
        "GROUP": 2,
        "CONV_MR": 2,
        "CONV_NB": 1,
        "INPUT_BLOCKS": 2,
    },
    "pairs": {
        "WINOGRAD_BLOCK": 5,
        "WINOGRAD_SHARED_BLOCK": 5,
        "GROUP": 2,
        "CONV_MR": 2,
        "CONV_NB": 2,
        "INPUT_BLOCKS": 1,
    },
}

# The transforms, as the header states them.
P, Q = 0.625, 1.5
POINTS = [0, P, -P, Q, -Q]
OUTPUT = np.array([[point**i for point in POINTS] + [float(i == 3)] for i in range(4)])


def polynomial(roots: list[float]) -> np.ndarray:
    return np.append(np.polynomial.polynomial.polyfromroots(roots), np.zeros(5 - len(roots)))


INPUT = np.array([polynomial([q for q in POINTS if q != p]) for p in POINTS] + [polynomial(POINTS)])
WEIGHT = np.array([[p**i / np.prod([p - q for q in POINTS if q != p]) for i in range(3)] for p in POINTS] + [[0, 0, 1]])


class Tiled(Window):
    """A 3x3 convolution whose arguments are those of the Winograd kernels."""

    def fields(self) -> dict[str, int]:
        names = ("n", "ih", "iw", "oh", "ow", "pad_top", "pad_left")
        return {name: value for name, value in super().fields().items() if name in names}


def tiled(c: int, o: int, size: tuple[int, int], n: int = 1, pads: tuple[int, int, int, int] = (1, 1, 1, 1)) -> Tiled:
    return Tiled(c=c, o=o, size=size, kernel=(3, 3), n=n, pads=pads)


CASES = [
    tiled(1, 1, (1, 1)),
    tiled(17, 33, (7, 5), n=2),
    tiled(48, 16, (14, 14)),
    tiled(20, 48, (11, 17), pads=(0, 0, 0, 0)),
    tiled(16, 40, (9, 12), pads=(0, 2, 3, 1), n=2),
    tiled(3, 20, (4, 30), pads=(2, 0, 0, 2)),
    tiled(35, 150, (13, 10)),
    tiled(300, 17, (8, 8)),
]


def inputs(case: Tiled, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    x = rng.standard_normal((case.n, case.c, *case.size), dtype=np.float32)
    return x, rng.standard_normal((case.o, case.c, 3, 3), dtype=np.float32)


def winograd(
    case: Tiled,
    x: np.ndarray,
    w: np.ndarray,
    variant: str = "v3",
    defines: dict[str, object] | None = None,
    groups: int = 1,
) -> np.ndarray:
    """The output [N, O, OH, OW] of the kernels; several groups are whole blocks.

    Lanes beyond the last channel are checked to be zero.
    """
    macros = dict(defines or {"WINOGRAD_BLOCK": 7, "WINOGRAD_SHARED_BLOCK": 7})
    blocks, outputs = -(-case.c // groups // 16), -(-case.o // groups // 16)
    packed = pack_conv(w, groups)
    tiles = case.n * -(-case.out[0] // 4) * -(-case.out[1] // 4)
    fields = {"ic_blocks": blocks, "oc_blocks": outputs, "groups": groups}
    memory, x_batch = spaced(nchw_to_nchw16c(x))
    geometry = case.fields() | fields | {"x": pointer(memory), "x_batch": x_batch}
    transformed = {
        "input": np.full(groups * tiles * 5 * -(-blocks // 4) * 576 + 64, 1e30, np.float32),
        "weights": np.full(groups * outputs * -(-blocks // 4) * 37440 + 64, 1e30, np.float32),
    }
    for part, values, to in (
        ("input", geometry, "v"),
        ("weights", fields | {"w": pointer(packed), "tiles": tiles}, "u"),
    ):
        name = f"winograd_{part}_f32"
        lib = build(f"{name}.c", isa=ISAS[variant][0], defines=ISAS[variant][1] | macros)
        args = struct(f"{name}.h", f"{name}_args")(**values, **{to: pointer(transformed[part])})
        tasks = getattr(lib, f"{name}_tasks")
        tasks.restype = ctypes.c_int64
        assert (tasks(ctypes.byref(args)) > 0) == ((part == "input") == (tiles <= 16 * outputs))
        run(lib, name, args, splits=random_splits(tasks(ctypes.byref(args)), np.random.default_rng(0)))
        assert (transformed[part][-64:] == 1e30).all(), "wrote beyond its buffer"
        fields[to] = pointer(transformed[part])
    y = run_kernel("winograd_f32", case, x, packed, variant=variant, defines=macros, fields=fields)
    assert not y[:, case.o :].any() or not np.isfinite(x).all(), "lanes beyond the last channel are not zero"
    return y[:, : case.o]


def error_bound(case: Tiled, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The bound of winograd_f32.h for each output [N, O, OH, OW]."""
    top, left, bottom, right = case.pads
    rows, columns = (-(-length // 4) for length in case.out)
    room = [(0, 0), (0, 0), (top, bottom + 4), (left, right + 4)]
    padded = np.pad(np.abs(x.astype(np.float64)), room)
    weights = np.einsum("ia,ocab,jb->ocij", np.abs(WEIGHT), np.abs(w.astype(np.float64)), np.abs(WEIGHT))
    bound = np.zeros((case.n, case.o, rows * 4, columns * 4))
    for row in range(rows):
        for column in range(columns):
            d = padded[:, :, row * 4 : row * 4 + 6, column * 4 : column * 4 + 6]
            v = np.einsum("ia,ncab,jb->ncij", np.abs(INPUT), d, np.abs(INPUT))
            m = np.einsum("ncij,ocij->noij", v, weights)
            place = bound[:, :, row * 4 : row * 4 + 4, column * 4 : column * 4 + 4]
            place[...] = np.einsum("ai,noij,bj->noab", np.abs(OUTPUT), m, np.abs(OUTPUT))
    return bound[:, :, : case.out[0], : case.out[1]] * (case.c + 32) * 2.0**-24


def assert_within_bound(case: Tiled, y: np.ndarray, x: np.ndarray, w: np.ndarray) -> None:
    excess = np.abs(y - conv_float64(case, x, w)) / (error_bound(case, x, w) + 1e-30)
    assert excess.max() <= 1, f"error is {excess.max():.2f} of the bound"


def test_transforms_are_an_exact_identity():
    rng = np.random.default_rng(0)
    d, g = rng.standard_normal((6, 6)), rng.standard_normal((3, 3))
    y = OUTPUT @ ((WEIGHT @ g @ WEIGHT.T) * (INPUT @ d @ INPUT.T)) @ OUTPUT.T
    direct = [[(d[i : i + 3, j : j + 3] * g).sum() for j in range(4)] for i in range(4)]
    np.testing.assert_allclose(y, direct, rtol=0, atol=1e-12)
    assert (INPUT.astype(np.float32) == INPUT).all()
    assert (OUTPUT.astype(np.float32) == OUTPUT).all()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_same_bits_for_every_isa_and_cut(case):
    x, w = inputs(case, np.random.default_rng(1))
    y = winograd(case, x, w)
    assert_within_bound(case, y, x, w)
    assert_same_bits(winograd(case, x, w, "wide"), y)
    for defines in SMALL.values():
        assert_same_bits(winograd(case, x, w, defines=defines), y)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_without_fused_multiply_add(case):
    x, w = inputs(case, np.random.default_rng(2))
    assert_within_bound(case, winograd(case, x, w, variant="v2"), x, w)


@pytest.mark.parametrize("length", range(1, 18))
def test_every_plane(length):
    rng = np.random.default_rng(length)
    for case in (tiled(5, 18, (4, length)), tiled(18, 5, (length, 3)), tiled(length * 3 - 2, 16, (length, length))):
        x, w = inputs(case, rng)
        assert_within_bound(case, winograd(case, x, w), x, w)


@pytest.mark.parametrize("size", [(7, 7), (9, 14), (30, 25)])
@pytest.mark.parametrize("variant", ["v2", "v3"])
def test_groups_are_convolutions_of_their_own(size, variant):
    case, rng = tiled(96, 144, size, n=2), np.random.default_rng(7)
    x, w = inputs(case, rng)
    w = np.ascontiguousarray(w[:, :32])
    alone = tiled(32, 48, size, n=2)
    parts = [winograd(alone, np.ascontiguousarray(x[:, 32 * g : 32 * g + 32]), w[48 * g : 48 * g + 48], variant)
             for g in range(3)]  # fmt: skip
    assert_same_bits(winograd(case, x, w, variant, {}, groups=3), np.concatenate(parts, 1))


def test_empty_batch_has_no_tasks():
    case = tiled(16, 16, (8, 8))
    arguments = struct("winograd_f32.h", "winograd_f32_args")
    args = arguments(**(case.fields() | {"n": 0}), ic_blocks=1, oc_blocks=1, groups=1)
    assert run(build("winograd_f32.c"), "winograd_f32", args) == 0


def hostile(kind: str, case: Tiled, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    x, w = inputs(case, rng)
    if kind == "constant":
        return np.full_like(x, 1000), w
    if kind == "cancelling":  # windows that sum to 0 over large, nearly constant values
        return 1e4 + x, w - w.mean((2, 3), keepdims=True)
    if kind == "range":
        return x * np.exp(rng.uniform(-30, 30, x.shape)).astype(np.float32), w
    if kind == "alternating":
        signs = (-1.0) ** np.add.outer(np.arange(case.size[0]), np.arange(case.size[1]))
        return (np.abs(x) * signs).astype(np.float32), np.abs(w)
    return x * np.float32(1e-30), w


@pytest.mark.parametrize("kind", ["constant", "cancelling", "range", "alternating", "tiny"])
def test_error_bound_on_hostile_data(kind):
    case = tiled(64, 16, (15, 14))
    x, w = hostile(kind, case, np.random.default_rng(3))
    assert_within_bound(case, winograd(case, x, w), x, w)


def test_error_on_ordinary_data():
    case = tiled(64, 32, (28, 28))
    x, w = inputs(case, np.random.default_rng(4))
    exact = conv_float64(case, x, w)
    error = np.abs(winograd(case, x, w) - exact) / exact.std()
    assert error.max() < 1e-5
    assert np.sqrt((error**2).mean()) < 1e-6


def direct(case: Tiled, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The same convolution by conv_nchw16c_f32."""
    blocks = {"groups": 1, "ic": case.c, "ic_blocks": -(-case.c // 16), "oc_blocks": -(-case.o // 16)}
    fields = Window.fields(case) | blocks
    plain = Window(c=case.c, o=case.o, size=case.size, kernel=(3, 3), n=case.n, pads=case.pads)
    return run_kernel("conv_nchw16c_f32", plain, x, pack_conv(w, 1), fields=fields)[:, : case.o]


@pytest.mark.parametrize("variant", ["v3", "wide"])
@pytest.mark.parametrize("size", [(7, 7), (40, 37)])
@pytest.mark.parametrize("kind", ["x", "w", "both", "overflow"])
def test_what_is_not_finite_is_the_direct_sum(kind, size, variant):
    """NaN and infinity stand where they stand in the direct sum; everything else is untouched."""
    case = tiled(20, 17, size)
    rng = np.random.default_rng(5)
    x, w = inputs(case, rng)
    clean = winograd(case, x, w, variant)
    if kind in ("x", "both"):
        x[0, 3, 5, 6], x[0, 1, 0, 0], x[0, 1, 2, 1] = np.nan, np.inf, -np.inf
    if kind in ("w", "both"):
        w[2, 4, 1, 1], w[16, 0, 0, 2] = np.nan, -np.inf
    if kind == "overflow":  # within, and at some outputs; large values of both signs side by side
        x[0, :, 2:5, 2:5] = rng.choice([-1.5e38, 1.5e38, 2.0], (20, 3, 3))
    y, expected = winograd(case, x, w, variant), direct(case, x, w)
    finite = np.isfinite(y)
    if kind != "overflow":
        np.testing.assert_array_equal(finite, np.isfinite(expected))
    assert_same_bits(np.where(finite, np.float32(0), y), np.where(finite, np.float32(0), expected))
    if kind == "x":
        assert_same_bits(y[:, :, 8:], clean[:, :, 8:])  # beyond the tiles that read them
    assert not finite.all()


@pytest.mark.parametrize("isa", ["x86_64_v3", "icelake_server", "aarch64"])
def test_hot_loops_have_no_stack_references(isa):
    loops = fma_loops(compile_kernels("winograd_f32.c", isa=isa, kind="s").read_text())
    tiles = [(name, loop) for name, loop in loops if name.startswith("winograd_tile_")]
    assert len(tiles) == (28 if isa == "icelake_server" else 6), "one for each tile"
    for name, loop in tiles:
        assert not re.search(r"%[er][sb]p|\[(sp|x29)", loop), f"{name}:\n{loop}"


def test_work_is_cut_finer_than_threads():
    lib = build("winograd_f32.c")
    arguments = struct("winograd_f32.h", "winograd_f32_args")
    for channels, size in [(64, 56), (128, 28), (256, 14), (512, 14), (512, 28), (256, 64), (64, 224)]:
        args = arguments(
            ic_blocks=channels // 16,
            oc_blocks=channels // 16,
            ih=size,
            iw=size,
            oh=size,
            ow=size,
            n=1,
            groups=1,
        )
        assert 8 <= lib.winograd_f32_tasks(ctypes.byref(args)) <= 256


@pytest.mark.parametrize(
    ("channels", "size", "images", "chosen"),
    [
        ((64, 64), (56, 56), 1, True),
        ((512, 512), (14, 14), 1, True),
        ((512, 512), (7, 7), 1, True),
        ((512, 512), (7, 7), 8, True),
        ((16, 64), (55, 55), 1, True),
        ((128, 32), (14, 14), 1, True),
        ((64, 64), (1, 400), 1, False),
        ((64, 64), (4, 4), 1, False),
        ((5000, 64), (56, 56), 1, False),
    ],
)
def test_choice(channels, size, images, chosen):
    place = window.Window(size, (3, 3), (1, 1), (1, 1), (1, 1), (1, 1), size)
    assert lowering.winograd_pays(images, *channels, place) is chosen
    for other in ({"strides": (2, 1)}, {"dilations": (1, 2)}, {"kernel": (3, 5)}):
        fields = {**place.__dict__, **other}
        assert not lowering.winograd_pays(images, *channels, window.Window(**fields))


@pytest.mark.parametrize(
    ("dims", "shape"),
    [
        ((1, 40, 18, 17), (1, 40, 18, 17)),  # V shared by all tasks
        ((1, 24, 50, 50), (1, 24, 50, 50)),  # too many tiles for that
        (("n", 24, "h", "w"), (1, 24, 9, 14)),
        (("n", 24, "h", "w"), (2, 24, 18, 15)),
        (("n", 24, "h", "w"), (3, 24, 35, 33)),
    ],
)
def test_in_a_session(dims, shape):
    rng = np.random.default_rng(6)
    case = tiled(shape[1], 20, shape[2:], n=shape[0])
    x, w = inputs(case, rng)
    bias = rng.standard_normal(case.o, dtype=np.float32)
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1] * 4), helper.make_node("Relu", ["c"], ["y"])]
    ports = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, d) for name, d in (("x", dims), ("y", None))]
    constants = [numpy_helper.from_array(w, "w"), numpy_helper.from_array(bias, "b")]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    results = []
    for threads in (1, 2):
        session = sardonyx.Session(model, sardonyx.SessionOptions(threads=threads))
        results.append(session.run({"x": x})[0])
    assert "winograd_f32" in session._library.facts["kernels"]
    exact = np.maximum(conv_float64(case, x, w) + bias[:, None, None], 0)
    assert (np.abs(results[0] - exact) <= error_bound(case, x, w) + 1e-6 * np.abs(exact) + 1e-6).all()
    assert_same_bits(results[1], results[0])

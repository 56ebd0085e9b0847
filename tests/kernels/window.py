"""What the tests of convolution and pooling kernels share: cases, oracles, guarded memory."""

from __future__ import annotations

import ctypes
import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from kernels.harness import at_page_end, build, function, pointer, run, struct
from kernels.harness import hot_loops as fma_loops  # noqa: F401 (the tests of windows import it from here)

from sardonyx.kernels.packing import nchw16c_to_nchw, nchw_to_nchw16c

NAIVE = Path(__file__).with_name("naive_window.c")
NAIVE_FIELDS = (
    *("n", "c", "ih", "iw", "o", "oh", "ow", "kh", "kw", "stride_h", "stride_w", "dilation_h", "dilation_w"),
    *("pad_top", "pad_left", "pad_bottom", "pad_right", "groups", "order"),
)
GAP = 48  # elements between images that are nobody's
ISAS: dict[str, tuple[str, dict[str, object]]] = {
    "v3": ("x86_64_v3", {}),
    "v2": ("x86_64_v2", {"SX_PORTABLE": None}),
    # Vectors and tiles of AVX-512, run as pairs of AVX2 instructions.
    "wide": ("x86_64_v3", {"__AVX512F__": 1}),
}


@dataclasses.dataclass(frozen=True)
class Window:
    """One convolution or pooling, in the terms of ONNX."""

    c: int
    size: tuple[int, int]
    kernel: tuple[int, int]
    o: int = 0
    n: int = 1
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right
    groups: int = 1
    extra: int = 0  # output rows and columns more than the pads give (ceil_mode)

    @property
    def out(self) -> tuple[int, int]:
        def length(i: int) -> int:
            room = self.size[i] + self.pads[i] + self.pads[i + 2] - self.dilation[i] * (self.kernel[i] - 1) - 1
            return room // self.stride[i] + 1 + self.extra

        return length(0), length(1)

    def fields(self) -> dict[str, int]:
        pairs = {
            "ih": self.size[0],
            "iw": self.size[1],
            "oh": self.out[0],
            "ow": self.out[1],
            "kh": self.kernel[0],
            "kw": self.kernel[1],
        }
        for name in ("stride", "dilation"):
            pairs[f"{name}_h"], pairs[f"{name}_w"] = getattr(self, name)
        return pairs | {"n": self.n, "pad_top": self.pads[0], "pad_left": self.pads[1]}


def naive(
    window: Window, variant: str, function_name: str, *arrays: np.ndarray, order: int = 16, kind: int | None = None
) -> np.ndarray:
    """The output [N, O, OH, OW] of `naive_conv` or `naive_pool`, with the roundings of `variant`."""
    defines = {k: v for k, v in ISAS[variant][1].items() if k == "SX_PORTABLE"}
    lib = build(NAIVE, defines=defines)
    out = np.empty((window.n, window.o or window.c, *window.out), np.float32)
    values = window.fields() | {
        "c": window.c,
        "o": window.o or window.c,
        "groups": window.groups,
        "order": order,
        "pad_bottom": window.pads[2],
        "pad_right": window.pads[3],
    }
    packed = (ctypes.c_int64 * len(NAIVE_FIELDS))(*(values[name] for name in NAIVE_FIELDS))
    head = [] if kind is None else [ctypes.c_int64(kind)]
    contiguous = [np.ascontiguousarray(array, np.float32) for array in arrays]
    getattr(lib, function_name)(packed, *head, *(ctypes.c_void_p(pointer(a)) for a in [*contiguous, out]))
    return out


def conv_float64(window: Window, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The output [N, O, OH, OW] in float64: matrix products over a padded copy."""
    (sh, sw), (dh, dw), (kh, kw), (oh, ow) = window.stride, window.dilation, window.kernel, window.out
    top, left, bottom, right = window.pads
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    n, g = window.n, window.groups
    x = x.reshape(n, g, window.c // g, *x.shape[2:])
    w = w.astype(np.float64).reshape(g, window.o // g, window.c // g, kh, kw)
    y = np.zeros((n, g, window.o // g, oh, ow))
    for i in range(kh):
        for j in range(kw):
            tap = x[..., i * dh : i * dh + (oh - 1) * sh + 1 : sh, j * dw : j * dw + (ow - 1) * sw + 1 : sw]
            y += np.einsum("ngchw,goc->ngohw", tap, w[..., i, j])
    return y.reshape(n, window.o, oh, ow)


def assert_same_bits(actual: np.ndarray, expected: np.ndarray) -> None:
    """Equal bit for bit, except that any NaN is as good as another."""
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(actual), nan)
    different = (actual.view(np.uint32) != expected.view(np.uint32)) & ~nan
    assert not different.any(), f"{different.sum()} of {nan.size} differ, first at {np.argwhere(different)[0]}"


def assert_close_to_float64(window: Window, actual: np.ndarray, x: np.ndarray, w: np.ndarray) -> None:
    """Within the error bound of a sum in fp32: terms * 2^-24 * sum of magnitudes."""
    terms = w[0].size
    bound = conv_float64(window, np.abs(x), np.abs(w)) * terms * 2.0**-24 + 1e-30
    assert (np.abs(actual - conv_float64(window, x, w)) <= bound).all()


def spaced(images: np.ndarray) -> tuple[np.ndarray, int]:
    """The images with NaNs between them, up to the end of a page; and the distance from image to image."""
    batch = images[0].size + GAP
    memory = np.full((len(images), batch), np.nan, np.float32)
    memory[:, : images[0].size] = images.reshape(len(images), -1)
    memory = at_page_end(memory.ravel()[: len(images) * batch - GAP])
    return memory, batch


def random_splits(tasks: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """A cut of the tasks into ranges, in random order."""
    cuts = sorted({0, tasks, *rng.integers(0, tasks + 1, 4).tolist()})
    ranges = list(itertools.pairwise(cuts))
    rng.shuffle(ranges)
    return [(int(lo), int(hi)) for lo, hi in ranges]


def run_kernel(
    name: str,
    window: Window,
    x: np.ndarray,
    w: np.ndarray | None,
    *,
    variant: str = "v3",
    defines: Mapping[str, object] | None = None,
    blocked: bool = True,
    fields: Mapping[str, int] | None = None,
) -> np.ndarray:
    """Runs a kernel whole, in ranges, and with an epilogue, and checks that all three agree.

    Args:
        name: The kernel, whose file has the same name.
        window: What it computes.
        x: Input [N, C, H, W].
        w: Packed weights.
        variant: A key of `ISAS`.
        defines: Tunables.
        blocked: Whether the kernel reads NCHW16c.
        fields: More members of its arguments.

    Returns:
        The output [N, blocks * 16, OH, OW], all lanes.
    """
    isa, macros = ISAS[variant]
    lib = build(f"{name}.c", NAIVE, isa=isa, defines=macros | dict(defines or {}))
    memory, x_batch = spaced(nchw_to_nchw16c(x) if blocked else x)
    weights = None if w is None else at_page_end(w)
    blocks, positions = -(-(window.o or window.c) // 16), window.out[0] * window.out[1]
    image = blocks * positions * 16
    y_batch = image + GAP
    values = window.fields() | dict(fields or {}) | {"x_batch": x_batch, "y_batch": y_batch, "x": pointer(memory)}
    if weights is not None:
        values["w"] = pointer(weights)
    arguments = struct(f"{name}.h", f"{name}_args")

    def call(splits: list[tuple[int, int]] | None = None, **more: object) -> tuple[np.ndarray, int]:
        y = at_page_end(np.full(window.n * y_batch - GAP, 7, np.float32))
        if "operands" in more:
            operands = (ctypes.c_void_p * 3)(pointer(y), *more["operands"])  # type: ignore[misc]
            more["operands"] = ctypes.addressof(operands)
        tasks = run(lib, name, arguments(y=pointer(y), **values, **more), splits=splits)
        rows = np.append(y, np.full(GAP, 7, np.float32)).reshape(window.n, y_batch)
        assert (rows[:, image:] == 7).all(), "wrote between the images"
        return rows[:, :image].reshape(window.n, blocks, *window.out, 16), tasks

    y, tasks = call()
    assert_same_bits(call(random_splits(tasks, np.random.default_rng(tasks)))[0], y)

    copy, count = np.zeros(window.n * y_batch, np.float32), np.zeros(window.n * y_batch, np.int32)
    dims = np.array([blocks, positions, y_batch])
    after, _ = call(epilogue=function(lib, "record"), operands=(pointer(copy), pointer(count)), dims=pointer(dims))
    assert (after == 42).all(), "wrote after the epilogue"
    assert (count.reshape(window.n, y_batch)[:, :image] == 1).all(), "epilogue not once for each element"
    assert_same_bits(copy.reshape(window.n, y_batch)[:, :image].reshape(y.shape), y)
    return nchw16c_to_nchw(y, blocks * 16)

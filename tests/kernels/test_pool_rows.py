"""Max and average pooling of planes in rows, in three dimensions, against numpy tap by tap."""

from __future__ import annotations

import ctypes
import dataclasses
import itertools

import numpy as np
import pytest
from kernels.harness import ISA_PARAMS, at_page_end, build, function, pointer, run, struct

MAX, AVERAGE, AVERAGE_PADDED = range(3)
GAP = 5  # elements between images that are nobody's
RECORD = """
#include "sardonyx.h"
// operands: y, copy, count; dims: channels, pixels, image. Keeps each element and wipes it, to see what comes after.
void record(void *const *o, const int64_t *d, int64_t i0, int64_t i1, int64_t lo2, int64_t hi2, int64_t lo3,
            int64_t hi3) {
    float *y = o[0], *copy = o[1];
    int32_t *count = o[2];
    for (int64_t c = lo2; c < hi2; c++)
        for (int64_t p = lo3; p < hi3; p++) {
            int64_t at = i0 * d[2] + (i1 * d[0] + c) * d[1] + p;
            copy[at] = y[at], y[at] = 42, count[at]++;
        }
}
"""
Triple = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Window:
    """One pooling, depth, height and width."""

    size: Triple
    kernel: Triple
    stride: Triple = (1, 1, 1)
    dilation: Triple = (1, 1, 1)
    before: Triple = (0, 0, 0)
    after: Triple = (0, 0, 0)
    n: int = 1
    c: int = 3
    extra: int = 0  # outputs more than the padding gives, along each axis with a stride

    @property
    def out(self) -> Triple:
        axes = zip(self.size, self.before, self.after, self.kernel, self.dilation, self.stride, strict=True)
        return tuple((i + b + e - d * (k - 1) - 1) // s + 1 + (self.extra if s > 1 else 0) for i, b, e, k, d, s in axes)


CASES = [
    Window((1, 1, 1), (1, 1, 1)),
    Window((1, 13, 37), (1, 3, 3), before=(0, 1, 1), after=(0, 1, 1), n=2),
    Window((1, 19, 67), (1, 3, 3), (1, 2, 2), before=(0, 1, 1), after=(0, 1, 1)),
    Window((1, 6, 61), (1, 2, 2), (1, 2, 2), c=7),
    Window((1, 1, 331), (1, 1, 4), (1, 1, 4)),
    Window((5, 7, 34), (3, 3, 3), (2, 2, 2), before=(1, 1, 1), after=(1, 1, 1), n=2),
    Window((4, 6, 16), (2, 2, 2), (2, 2, 2)),
    Window((6, 9, 31), (3, 2, 3), (1, 1, 3), (2, 2, 3), (1, 2, 0), (2, 0, 5)),
    Window((1, 9, 18), (1, 3, 3), (1, 2, 2), extra=1),
    Window((3, 10, 22), (2, 3, 3), (2, 3, 3), after=(1, 1, 1), extra=1),
    Window((1, 4, 3), (1, 5, 5), before=(0, 4, 4), after=(0, 4, 4)),
    Window((1, 70, 66), (1, 3, 3), before=(0, 1, 1), after=(0, 1, 1)),
    Window((1, 3, 5), (1, 2, 2), before=(0, 1, 1), after=(0, 1, 1), c=101),
]


def taps_of(window: Window, x: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each tap in order: what each output sees there, and whether that is 2 inside, 1 in the padding, 0 beyond."""
    grids = []
    for axis in range(3):
        first = np.arange(window.out[axis]) * window.stride[axis] - window.before[axis]
        grids.append([first + k * window.dilation[axis] for k in range(window.kernel[axis])])
    found = []
    for places in itertools.product(*grids):
        inside, padded = np.ones(window.out, bool), np.ones(window.out, bool)
        clipped = []
        for axis, place in enumerate(places):
            shape = [-1 if a == axis else 1 for a in range(3)]
            inside &= ((place >= 0) & (place < window.size[axis])).reshape(shape)
            padded &= (place < window.size[axis] + window.after[axis]).reshape(shape)
            clipped.append(np.clip(place, 0, window.size[axis] - 1))
        found.append((x[:, :, *np.ix_(*clipped)], inside.astype(int) + padded))
    return found


def expected(kind: int, window: Window, x: np.ndarray) -> np.ndarray:
    """Taps added up in order, in float32."""
    taps = taps_of(window, x)
    shape = (window.n, window.c, *window.out)
    with np.errstate(invalid="ignore"):
        if kind == MAX:
            seen = [np.where(where == 2, tap, -np.inf) for tap, where in taps]
            return np.max(seen, axis=0).astype(np.float32)
        total, count = np.zeros(shape, np.float32), np.zeros(window.out, np.float32)
        for tap, where in taps:
            total += np.where(where == 2, tap, np.float32(0))
            count += where == 2 if kind == AVERAGE else where >= 1
        return total / count


def pool(kind: int, window: Window, x: np.ndarray, isa: str = "x86_64_v3", *, epilogue: bool = False) -> np.ndarray:
    lib = build("pool_rows_f32.c", isa=isa, source=RECORD)
    image = window.c * int(np.prod(window.out))
    y = at_page_end(np.full(window.n * (image + GAP) - GAP, 7, np.float32))
    names = ("size", "i"), ("out", "o"), ("kernel", "k"), ("stride", "stride_"), ("dilation", "dilation_")
    fields = {prefix + axis: getattr(window, name)[a] for name, prefix in names for a, axis in enumerate("dhw")}
    fields |= dict(zip(("pad_front", "pad_top", "pad_left"), window.before, strict=True))
    fields |= dict(zip(("pad_back", "pad_bottom", "pad_right"), window.after, strict=True))
    copy, count = np.zeros(y.size, np.float32), np.zeros(y.size, np.int32)
    operands = (ctypes.c_void_p * 3)(*(pointer(a) for a in (y, copy, count)))
    dims = np.array([window.c, int(np.prod(window.out)), image + GAP])
    if epilogue:
        fields |= {"epilogue": function(lib, "record"), "operands": ctypes.addressof(operands), "dims": pointer(dims)}
    source = at_page_end(x)
    arguments = struct("pool_rows_f32.h", "pool_rows_f32_args")(
        x=pointer(source), y=pointer(y), kind=kind, n=window.n, c=window.c, y_batch=image + GAP, **fields
    )
    tasks = run(lib, "pool_rows_f32", arguments, splits=())
    run(lib, "pool_rows_f32", arguments, splits=[(t, t + 1) for t in reversed(range(tasks))])
    whole = lambda a: np.append(a, np.full(GAP, 7, np.float32)).reshape(window.n, image + GAP)  # noqa: E731
    assert (whole(y)[:, image:] == 7).all(), "wrote between the images"
    if epilogue:
        assert (whole(y)[:, :image] == 42).all(), "wrote after the epilogue"
        assert (whole(count)[:, :image] == 1).all(), "the epilogue comes once for each element"
    return whole(copy if epilogue else y)[:, :image].reshape(window.n, window.c, *window.out)


@pytest.mark.parametrize("isa", ISA_PARAMS)
@pytest.mark.parametrize("kind", [MAX, AVERAGE, AVERAGE_PADDED])
def test_every_window_equals_its_taps_in_order(kind, isa):
    for i, window in enumerate(CASES):
        x = np.random.default_rng(i).standard_normal((window.n, window.c, *window.size), dtype=np.float32)
        np.testing.assert_array_equal(pool(kind, window, x, isa), expected(kind, window, x), str(window))
        np.testing.assert_array_equal(pool(kind, window, x, isa, epilogue=True), expected(kind, window, x), str(window))


@pytest.mark.parametrize("isa", ISA_PARAMS)
@pytest.mark.parametrize("kind", [MAX, AVERAGE])
def test_nan_infinities_and_zeros_pass_through(kind, isa):
    window = Window((1, 8, 33), (1, 3, 3), before=(0, 1, 1), after=(0, 1, 1), c=5)
    x = np.random.default_rng(2).standard_normal((1, 5, 1, 8, 33), dtype=np.float32)
    x[0, 0, 0, 0, 0], x[0, 1, 0, 4, 20], x[0, 1, 0, 7, 32] = np.nan, -np.nan, np.inf
    x[0, 2], x[0, 3, 0, 3] = -np.inf, np.inf
    x[0, 4] = -0.0
    np.testing.assert_array_equal(pool(kind, window, x, isa), expected(kind, window, x))


def test_an_empty_window_has_no_maximum_and_no_mean():
    window = Window((1, 2, 17), (1, 1, 1), before=(0, 1, 1), after=(0, 1, 1))
    x = np.ones((1, 3, 1, 2, 17), np.float32)
    assert (pool(MAX, window, x)[..., 0, :] == -np.inf).all()
    assert np.isnan(pool(AVERAGE, window, x)[..., 0, :]).all()
    assert (pool(AVERAGE_PADDED, window, x)[..., 0, :] == 0).all()

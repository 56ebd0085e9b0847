"""fft_f32 and fft_f64 against numpy.fft in double: lengths of all kinds, strides, frames, halves, special values."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from kernels import harness

from sardonyx.ops.signal import points_of, roots

Args = harness.struct("fft.h", "fft_args")
LENGTHS = [1, 2, 3, 4, 5, 6, 7, 8, 11, 16, 30, 31, 37, 62, 97, 100, 194, 360, 961, 1024, 2310, 4096, 4099]
UNITS = {np.float32: 1.2e-7, np.float64: 2.3e-16}


@pytest.fixture(
    scope="module",
    params=harness.ISA_PARAMS,
)
def lib(request):
    return library(request.param)


def library(isa):
    defines = {"SX_PORTABLE": None} if isa == "x86_64_v2" else {}
    return harness.build("fft_f32.c", "fft_f64.c", "fft_points.c", "builtins.c", isa=isa, defines=defines)


def transform(lib, x, length, bins, *, window=None, inverse=False, mirrored=False, real=False, splits=None):
    """Bins [outer, frames, bins, inner] of `x` [outer, frames, given, inner, parts]; any strides but the last two."""
    dtype, (outer, frames, given, inner, parts) = x.dtype.type, x.shape
    assert x.strides[3:] == (parts * x.itemsize, x.itemsize)
    size = length // 2 if parts == 1 and length % 2 == 0 and not mirrored else length
    points, j = points_of(size), np.arange(size)
    tables = [roots(np.arange(points), points), roots(j * j, 2 * size), roots(j, length)] if length else []
    tables = [harness.at_page_end(table.astype(dtype)) for table in tables]
    window = None if window is None else harness.at_page_end(window.astype(dtype))
    y = harness.at_page_end(np.full((outer, frames, bins, inner, 1 if real else 2), 7, dtype))
    steps = [stride // x.itemsize for stride in x.strides]
    args = Args(
        x=harness.pointer(x), window=harness.pointer(window), y=harness.pointer(y),
        **{name: harness.pointer(table) for name, table in zip(("turn", "chirp", "unpack"), tables, strict=False)},
        outer=outer, frames=frames, inner=inner, x_outer=steps[0], x_frame=steps[1], x_step=steps[2],
        length=length, given=given, size=size, points=points, bins=bins, parts=parts, y_parts=y.shape[-1],
        inverse=inverse, mirrored=mirrored,
    )  # fmt: skip
    harness.run(lib, "fft_f64" if dtype is np.float64 else "fft_f32", args, splits=splits)
    return y[..., 0] if real else y[..., 0] + 1j * y[..., 1].astype(np.result_type(dtype, 1j))


def signals(*shape, dtype=np.float32):
    return harness.at_page_end(np.random.default_rng(0).standard_normal(shape).astype(dtype))


def as_complex(x):
    x = x.astype(np.float64)
    return x[..., 0] + 1j * x[..., 1] if x.shape[-1] == 2 else x[..., 0]


def assert_near(have, want, dtype=np.float32):
    """Within 4 units of the largest number, and of all in the mean."""
    error = np.abs(have - want)
    assert error.max(initial=0) <= 4 * UNITS[dtype] * np.abs(want).max(initial=0)
    assert np.linalg.norm(error) <= 4 * UNITS[dtype] * np.linalg.norm(want)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("length", LENGTHS)
def test_transforms_of_one_signal_and_of_many(lib, length, dtype):
    for outer, inner in ((1, 1), (3, 3), (2, 10)):
        for parts in (1, 2):
            x = signals(outer, 1, length, inner, parts, dtype=dtype)
            wanted = np.fft.fft(as_complex(x), axis=2)
            assert_near(transform(lib, x, length, length), wanted, dtype)
            assert_near(transform(lib, x, length, length // 2 + 1), wanted[:, :, : length // 2 + 1], dtype)
            back = transform(lib, x, length, length, inverse=True)
            assert_near(back, np.fft.ifft(as_complex(x), axis=2), dtype)


@pytest.mark.parametrize("length", [1, 2, 7, 16, 97, 360])
def test_the_inverse_of_half_a_spectrum_is_real(lib, length):
    for given in {length // 2 + 1, max(length // 3, 1)}:
        x = signals(3, 1, given, 5, 2)
        wanted = np.fft.irfft(as_complex(x), length, axis=2)
        have = transform(lib, x, length, length, inverse=True, mirrored=True, real=True)
        assert_near(have, wanted)


@pytest.mark.parametrize("length", [5, 12, 41, 74])
def test_signals_that_are_shorter_or_longer_than_the_transform(lib, length):
    for given in (0, 1, 3, 4, 99):
        for parts in (1, 2):
            x = signals(9, 1, given, 1, parts)
            assert_near(transform(lib, x, length, length), np.fft.fft(as_complex(x), length, axis=2))


@pytest.mark.parametrize("length", [9, 16, 37, 400])
def test_frames_overlap_and_are_weighed_by_the_window(lib, length):
    whole, window, hop = signals(2, 3 * length, 1, 2), np.hanning(length), length // 3
    for parts in (1, 2):
        x = np.lib.stride_tricks.sliding_window_view(whole[..., :parts], length, axis=1)[:, ::hop].transpose(
            0, 1, 4, 2, 3
        )
        wanted = np.fft.fft(as_complex(x) * window[:, None], axis=2)
        flat = harness.at_page_end(np.ascontiguousarray(whole[..., :parts]))
        strides = (flat.strides[0], hop * flat.strides[1], *flat.strides[1:])
        view = np.lib.stride_tricks.as_strided(flat, x.shape, strides)
        assert_near(transform(lib, view, length, length, window=window), wanted)


@pytest.mark.parametrize("length", [16, 37])
def test_a_nan_stays_in_its_signal(lib, length):
    x = signals(1, 1, length, 20, 1)
    x[:, :, 3, 7] = np.nan
    have = transform(lib, x, length, length)
    assert np.isnan(have[..., 7]).all()
    assert np.isfinite(np.delete(have, 7, axis=-1)).all()


def test_real_signals_have_real_bins_in_the_middle(lib):
    for length in (2, 10, 360, 4096):
        have = transform(lib, signals(1, 1, length, 1, 1), length, length)[0, 0, :, 0]
        assert have[0].imag == have[length // 2].imag == 0
        np.testing.assert_array_equal(have[1:], have[:0:-1].conj())


def test_nothing_has_a_sum_of_zero(lib):
    assert transform(lib, signals(3, 1, 0, 1, 2), 0, 1).tolist() == [[[[0]]]] * 3
    assert transform(lib, signals(0, 1, 8, 1, 2), 8, 8).size == 0


@pytest.mark.isa("avx512_vnni")
@pytest.mark.parametrize(("length", "tasks"), [(16, 3), (97, 40), (360, 3), (1001, 40)])
def test_neither_processor_nor_split_changes_a_bit(length, tasks):
    x = signals(40, 1, length, 1, 2)
    wanted = transform(library("x86_64_v3"), x, length, length)
    splits = [(task, task + 1) for task in reversed(range(tasks))]
    np.testing.assert_array_equal(transform(library("icelake_server"), x, length, length, splits=splits), wanted)


def test_lengths_become_what_the_compiler_expects(lib):
    sizes = harness.struct("fft_points.h", "fft_points_args")
    lib.fft_points.restype = ctypes.c_int64
    for n in [*range(200), 961, 1369, 4093, 99991, 1 << 20]:
        assert lib.fft_points(ctypes.byref(sizes(n=n)), None) == points_of(n)


def test_factors_are_exact_where_they_are_simple():
    np.testing.assert_array_equal(roots(np.arange(4), 4), [[1, 0], [0, -1], [-1, 0], [0, 1]])
    steps = np.arange(4099)
    exact = np.exp(-2j * np.arccos(np.longdouble(-1)) * steps / 4099)
    assert np.abs(roots(steps, 4099) @ [1, 1j] - exact).max() < 2e-16

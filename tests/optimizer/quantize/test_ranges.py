"""Observers and the choice of ranges."""

from __future__ import annotations

import numpy as np
import pytest

from sardonyx.errors import InputError
from sardonyx.optimizer.quantize.numbers import channel_scales, fit, round_weight
from sardonyx.optimizer.quantize.observers import BINS, Histogram, Range
from sardonyx.optimizer.quantize.ranges import choose


def seen(*parts: np.ndarray, kind: type[Range] = Histogram) -> Range:
    found = kind("x")
    for part in parts:
        found.update(part.astype(np.float32))
    return found


@pytest.mark.parametrize(
    ("low", "high"), [(-1, 3), (0, 5), (-2, 0), (1, 4), (-4, -1), (0, 0), (-1e-45, 0), (-3e38, 3e38)]
)
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_a_grid_holds_zero_and_its_ends(low: float, high: float, dtype: str, symmetric: bool) -> None:
    grid = fit(low, high, dtype, symmetric)
    assert np.isfinite(grid.scale)
    assert grid.scale >= np.finfo(np.float32).tiny
    assert grid.rounded(np.float32(0)) == 0
    for end in (low, high):
        if abs(end) > 1e-30:
            assert abs(float(grid.rounded(np.float32(end))) - end) <= float(grid.scale) * 0.51
    if symmetric:
        assert grid.zero == (128 if dtype == "uint8" else 0)


def test_a_histogram_counts_what_numpy_counts_whatever_the_order() -> None:
    rng = np.random.default_rng(3)
    parts = [rng.standard_normal(1001) * scale for scale in (0.01, 1, 37)] + [np.zeros(13)]
    forth, back = seen(*parts), seen(*parts[::-1])
    np.testing.assert_array_equal(forth.counts, back.counts)
    assert forth.width == back.width
    values = np.concatenate(parts[:3]).astype(np.float32)
    edges = (np.arange(2 * BINS + 1) - BINS) * forth.width
    np.testing.assert_array_equal(forth.counts, np.histogram(values.astype(np.float64), edges)[0])
    assert forth.zeros == 13
    assert forth.total == 3016
    assert forth.counts.nbytes == 2 * BINS * 8


def test_min_and_max_are_exact() -> None:
    found = seen(np.array([3.0, -1.5]), np.array([]), np.array([7.25]), kind=Range)
    assert (found.low, found.high) == (-1.5, 7.25)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(value: float) -> None:
    with pytest.raises(InputError, match="'x' is NaN or infinite"):
        seen(np.array([1.0, value]))


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
@pytest.mark.parametrize(
    "values", [np.zeros(5), np.full(5, 3.0), np.full(5, -2.0), np.array([1e-40]), np.array([3e38, -3e38]), np.array([])]
)
def test_odd_values_give_a_usable_grid(method: str, values: np.ndarray) -> None:
    grid = choose(seen(values), method, 99.9, "uint8", False)
    assert np.isfinite(grid.scale)
    assert grid.scale > 0
    if values.size and np.abs(values).max() in (3.0, 2.0):
        np.testing.assert_allclose(grid.rounded(values.astype(np.float32)), values, rtol=1e-3)


def squared_error(values: np.ndarray, grid) -> float:
    return float(np.sum((grid.rounded(values) - values) ** 2))


@pytest.mark.parametrize("symmetric", [False, True])
def test_mse_has_the_least_squared_error_of_all_methods(symmetric: bool) -> None:
    values = np.random.default_rng(8).laplace(0.5, 1, 200_001).astype(np.float32)
    errors = {
        method: squared_error(values, choose(seen(values), method, 99.9, "int8", symmetric))
        for method in ("minmax", "percentile", "entropy", "mse")
    }
    assert errors["mse"] < 0.8 * errors["minmax"]
    assert errors["mse"] <= min(errors.values()) * 1.01


def test_percentile_keeps_that_part_of_the_values() -> None:
    values = np.concatenate([np.linspace(-1, 4, 100_000), [1000.0]]).astype(np.float32)
    grid = choose(seen(values), "percentile", 99.0, "uint8", False)
    low, high = -grid.zero * float(grid.scale), (255 - grid.zero) * float(grid.scale)
    np.testing.assert_allclose([low, high], np.percentile(values, [1, 99]), atol=0.7 * 1024 / BINS + 0.02)


def test_entropy_cuts_off_a_long_tail_and_keeps_an_even_range() -> None:
    rng = np.random.default_rng(2)
    tail = choose(seen(np.concatenate([np.abs(rng.standard_normal(100_000)), [80.0]])), "entropy", 99, "uint8", False)
    assert 255 * float(tail.scale) < 40
    even = choose(seen(rng.uniform(0, 1, 100_000)), "entropy", 99, "uint8", False)
    assert 255 * float(even.scale) > 0.9


def test_scales_of_weights() -> None:
    w = np.array([[1, -4, 2], [0, 0, 0], [1e-3, 2e-3, 0]], np.float32)
    np.testing.assert_allclose(channel_scales(w, 0), np.array([4, 0, 2e-3]) / 127, rtol=1e-6)
    np.testing.assert_allclose(channel_scales(w, None), 4 / 127, rtol=1e-6)
    np.testing.assert_array_equal(round_weight(w, np.array([4 / 127, 1, 1], np.float32), 0)[0], [32, -127, 64])


def test_searched_scales_have_a_smaller_squared_error() -> None:
    w = np.random.default_rng(1).laplace(0, 1, (5, 3001)).astype(np.float32)
    errors = []
    for search in (False, True):
        scale = channel_scales(w, 0, limit=7, search=search)
        errors.append(np.sum((round_weight(w, scale, 0, 7) * scale[:, None] - w) ** 2, axis=1))
    assert (errors[1] < errors[0] * 0.7).all()

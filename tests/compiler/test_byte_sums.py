"""Sums of quantised tensors by two factors: equal for all pairs of bytes, or not offered."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from sardonyx.compiler.byte_sums import Factors, equal_factors

F32 = np.float32


def fused(x: int, factor: float, addend: float) -> float:
    """``x * factor + addend`` in exact arithmetic, rounded once to float32."""
    exact = Fraction(x) * Fraction(factor) + Fraction(addend)
    near = F32(float(exact))
    around = [np.nextafter(near, F32(-np.inf)), near, np.nextafter(near, F32(np.inf))]
    gaps = [abs(Fraction(float(each)) - exact) for each in around]
    best = [float(each) for each, gap in zip(around, gaps, strict=True) if gap == min(gaps)]
    return next((each for each in best if int(F32(each).view(np.int32)) % 2 == 0), best[0])  # ties to even


def by_factors(found: Factors, own: int, other: int) -> int:
    return int(np.rint(F32(fused(own, found.own_factor, fused(other, found.other_factor, found.offset)))))


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_factors_round_as_the_quotient_does(dtype):
    rng, info = np.random.default_rng(11), np.iinfo(dtype)
    for _ in range(3):
        own_scale, other_scale, divisor = (float(F32(s)) for s in rng.uniform(0.01, 0.05, 3))
        own_zero, other_zero, zero = (int(z) for z in rng.integers(info.min, info.max + 1, 3))
        found = equal_factors((own_zero, own_scale), (other_zero, other_scale), divisor, zero, dtype)
        assert found is not None
        for own, other in rng.integers(info.min, info.max + 1, (1500, 2)):
            terms = F32(own - own_zero) * F32(own_scale) + F32(other - other_zero) * F32(other_scale)
            want = int(np.rint(terms / F32(divisor)))
            have = by_factors(found, int(own) - own_zero, int(other))
            assert np.clip(have + zero, info.min, info.max) == np.clip(want + zero, info.min, info.max)


def test_no_factors_where_ties_hang_on_the_rounding_of_each_step():
    assert equal_factors((3, float(F32(0.3))), (5, float(F32(0.3))), float(F32(0.6)), 12, "uint8") is None


def test_no_factors_for_scales_that_are_far_apart():
    assert equal_factors((0, 1e-4), (0, 0.1), 0.1, 0, "uint8") is None

"""Quantisation in fewer operations has the same bits."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from kernels import harness

from sardonyx.compiler import expr as ex
from sardonyx.compiler.program import Buffer
from sardonyx.compiler.rounding import bound, rounded_bytes

SOURCE = """
#include "simd.h"
#include "convert.h"
void quotients(const float *x, float c, float *y, int64_t n) {
    const float inverse = 1.0f / c;
    for (int64_t i = 0; i < n; i++) y[i] = quotient_f32(x[i], c, inverse);
}
void quantized(const float *x, float zero, uint8_t *u, int8_t *s, int64_t n) {
    for (int64_t i = 0; i < n; i++) u[i] = quantize_u8(x[i], zero), s[i] = quantize_i8(x[i], zero);
}
"""


def library(isa: str = "x86_64_v3", **defines) -> ctypes.CDLL:
    return harness.build("builtins.c", isa=isa, source=SOURCE, defines=defines)


@pytest.mark.isa("avx2")
def test_a_known_divisor_divides_exactly_without_a_division():
    rng = np.random.default_rng(1)
    divisors = [*rng.uniform(1e-4, 2, 40), 1.0, 3.0, 1 / 3, 0.1, np.nextafter(np.float32(2), np.float32(0)),
                np.nextafter(np.float32(1), np.float32(2)), 2.0**-50, 2.0**50]  # fmt: skip
    lib = library()
    for divisor in np.float32(divisors):
        numbers = np.arange(-600, 601, dtype=np.float32)[:, None] + np.float32([0, 0.5, -0.5])
        near = (numbers.reshape(-1, 1) * divisor).view(np.int32) + np.arange(-4, 5, dtype=np.int32)  # around the ties
        more = (rng.standard_normal(20000) * 300 * divisor).astype(np.float32)
        x = np.concatenate([near.view(np.float32).reshape(-1), more])
        x = x[np.isfinite(x) & (np.abs(x) < 2.0**60) & ((x == 0) | (np.abs(x) > 2.0**-80))]
        y = np.empty_like(x)
        lib.quotients(ctypes.c_void_p(x.ctypes.data), ctypes.c_float(divisor),
                      ctypes.c_void_p(y.ctypes.data), ctypes.c_int64(x.size))  # fmt: skip
        np.testing.assert_array_equal(y, x / divisor)


@pytest.mark.parametrize("isa", ["x86_64_v2", pytest.param("x86_64_v3", marks=pytest.mark.isa("avx2"))])
def test_rounding_by_an_addition_is_to_even_and_saturates(isa):
    lib = library(isa, SX_PORTABLE=None) if isa == "x86_64_v2" else library(isa)
    x = np.concatenate([np.arange(-700, 700, 0.25), [1e9, -1e9, np.inf, -np.inf, -0.0, 2.0**31]]).astype(np.float32)
    for zero in (-128, -1, 0, 3, 127, 255):
        u, s = np.empty(x.size, np.uint8), np.empty(x.size, np.int8)
        lib.quantized(ctypes.c_void_p(x.ctypes.data), ctypes.c_float(zero), ctypes.c_void_p(u.ctypes.data),
                      ctypes.c_void_p(s.ctypes.data), ctypes.c_int64(x.size))  # fmt: skip
        value = np.rint(x) + np.float32(zero)
        np.testing.assert_array_equal(u, np.clip(value, 0, 255).astype(np.uint8), err_msg=str(zero))
        np.testing.assert_array_equal(s, np.clip(value, -128, 127).astype(np.int8), err_msg=str(zero))


def quantized(value: ex.Expr, zero: float = 3.0, dtype: str = "uint8") -> ex.Expr:
    return ex.cast(ex.unary("round_even", value) + ex.constant(zero, "float32"), dtype)


def byte(dtype: str = "uint8") -> ex.Expr:
    return ex.cast(ex.load(Buffer("b", dtype, 8), 0), "float32")


def operations(value: ex.Expr) -> set[str]:
    return {node.op for node in ex.walk(value)}


def test_bytes_from_bytes_need_neither_division_nor_rounding():
    value = rounded_bytes(quantized(byte() * 0.25 / 0.1))
    assert {"quantize", "quotient"} <= operations(value)
    assert not {"div", "round_even"} & operations(value)


def test_floats_of_any_size_are_still_divided():
    x = ex.load(Buffer("x", "float32", 8), 0)
    assert "div" in operations(rounded_bytes(quantized(x / 0.1)))
    assert "quantize" in operations(rounded_bytes(quantized(x / 0.1))), "NaN becomes 0 either way"
    assert "quantize" not in operations(rounded_bytes(quantized(x / 0.1, dtype="int8"))), "NaN would become -128"


@pytest.mark.parametrize("divisor", [2.0**-70, 2.0**70])
def test_extreme_divisors_are_left_alone(divisor):
    assert "div" in operations(rounded_bytes(quantized(byte() / divisor)))


def test_a_zero_point_that_is_no_integer_is_left_alone():
    assert "quantize" not in operations(rounded_bytes(quantized(byte(), zero=0.5)))


def test_what_is_bounded():
    assert bound(byte() - 3.0) == 258
    assert bound((byte("int8") * 2.0 + byte()) * 0.5) == 382.5
    assert bound(ex.load(Buffer("x", "float32", 8), 0)) is None
    assert bound(byte() / byte()) is None
    assert bound(byte() * 1e30) is None

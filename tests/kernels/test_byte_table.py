"""Bytes looked up in a table of 256."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from kernels import harness

SOURCE = """
#include "byte_table.h"
void look_up(const uint8_t *table, const uint8_t *x, uint8_t *y, int64_t n) {
    const byte_table t = byte_table_of(table);
    look_up_bytes(&t, x, y, n);
}
int way(void) { return SX_LOOKUP; }
"""
ISAS = ["x86_64_v2", pytest.param("x86_64_v3", marks=pytest.mark.isa("avx2")),
        pytest.param("icelake_server", marks=pytest.mark.isa("avx512vbmi"))]  # fmt: skip
TABLE = np.random.default_rng(5).permutation(256).astype(np.uint8)


def look_up(lib: ctypes.CDLL, x: np.ndarray, y: np.ndarray) -> None:
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (TABLE, x, y)]
    lib.look_up(*pointers, ctypes.c_int64(x.size))


@pytest.mark.parametrize("isa", ISAS)
def test_each_byte_finds_its_own_whatever_the_length_and_nothing_else_is_touched(isa):
    lib = harness.build("builtins.c", isa=isa, source=SOURCE)
    rng = np.random.default_rng(1)
    for n in (*range(201), 8191):
        x = harness.at_page_end(rng.integers(0, 256, n, np.uint8))
        y = np.full(n + 64, 99, np.uint8)
        look_up(lib, x, y)
        np.testing.assert_array_equal(y[:n], TABLE[x], err_msg=f"{n} bytes")
        assert (y[n:] == 99).all(), f"{n} bytes"
        at_end = harness.at_page_end(np.zeros(n, np.uint8))
        look_up(lib, x, at_end)
        np.testing.assert_array_equal(at_end, TABLE[x])


@pytest.mark.parametrize("isa", ISAS)
def test_all_256_values_may_be_replaced_where_they_lie(isa):
    lib = harness.build("builtins.c", isa=isa, source=SOURCE)
    x = np.resize(np.arange(256, dtype=np.uint8), 773)
    given = x.copy()
    look_up(lib, x, x)
    np.testing.assert_array_equal(x, TABLE[given])


@pytest.mark.isa("avx512vbmi")
def test_the_table_is_in_registers_only_where_bytes_can_be_permuted():
    builds = [("x86_64_v3", {}), ("icelake_server", {}), ("icelake_server", {"SX_LOOKUP_FALLBACK": None})]
    ways = [harness.build("builtins.c", isa=isa, source=SOURCE, defines=defines).way() for isa, defines in builds]
    assert ways == [0, 1, 0]

"""matmul_nbits_f32 against matmul_f32 on the same weights as floats: the same bits."""

from __future__ import annotations

import ctypes
import itertools

import numpy as np
import pytest
from kernels import harness

from sardonyx.kernels.packing import pack_panels
from sardonyx.kernels.packing_bits import pack_bits, pack_rows

Args = harness.struct("matmul_nbits_f32.h", "matmul_nbits_f32_args")
Plain = harness.struct("matmul_f32.h", "matmul_f32_args")
GUARD = np.float32(12345.0)
SOURCE = """
#include "simd.h"
void nibbles(const int32_t *x, float *fast, float *plain) {
    v_store(fast, v_signed_nibble(vi_load(x)));
    v_store(plain, v_signed_nibble_plain(vi_load(x)));
}
int64_t lanes(void) { return VL; }
"""
ISAS = [
    pytest.param("x86_64_v3", marks=pytest.mark.isa("avx2")),
    pytest.param("icelake_server", marks=pytest.mark.isa("avx512_vnni")),
]


@pytest.fixture(scope="module", params=ISAS)
def isa(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def lib(isa) -> ctypes.CDLL:
    return harness.build("matmul_nbits_f32.c", isa=isa, source=SOURCE)


@pytest.fixture(scope="module")
def plain(isa) -> ctypes.CDLL:
    return harness.build("matmul_f32.c", isa=isa)


def expected(plain, a, w) -> np.ndarray:
    c = np.empty((a.shape[0], w.shape[1]), np.float32)
    packed = pack_panels(w)
    args = Plain(
        a=harness.pointer(a), a_row=a.shape[1], a_col=1, b=harness.pointer(packed), b_packed=1, b_row=16, b_col=1
    )
    args.c, args.c_row, args.batch0, args.batch1 = harness.pointer(c), c.shape[1], 1, 1
    args.m, args.n, args.k = *c.shape, a.shape[1]
    harness.run(plain, "matmul_f32", args)
    return c


def check(lib, plain, m, n, k, *, bits, block, with_zeros, pad=0) -> None:
    rng = np.random.default_rng(m * n + k)
    blocks = -(-k // block)
    q = rng.integers(0, 1 << bits, (k, n)).astype(np.uint8)
    scales = rng.uniform(0.01, 0.1, (blocks, n)).astype(np.float32)
    zeros = rng.integers(0, 1 << bits, (blocks, n)).astype(np.float32) if with_zeros else None
    middle = np.float32(1 << (bits - 1))
    of = np.arange(k) // block
    w = (q.astype(np.float32) - (middle if zeros is None else zeros[of])) * scales[of]
    a = harness.at_page_end(rng.standard_normal((m, k)).astype(np.float32))
    packed, rows = (harness.at_page_end(x) for x in (pack_bits(q, bits), pack_rows(scales)))
    offsets = None if zeros is None else harness.at_page_end(pack_rows(zeros - middle))
    memory = np.full((m + 2, n + pad), GUARD, np.float32)
    args = Args(a=harness.pointer(a), a_row=k, b=harness.pointer(packed), bits=bits, scales=harness.pointer(rows))
    args.zeros, args.block = harness.pointer(offsets), block
    args.c, args.c_row, args.m, args.n, args.k = harness.pointer(memory[1:]), n + pad, m, n, k
    harness.run(lib, "matmul_nbits_f32", args)
    want = np.full_like(memory, GUARD)
    want[1 : m + 1, :n] = expected(plain, a, w)
    np.testing.assert_array_equal(memory, want, err_msg=f"{m=} {n=} {k=} {bits=} {block=} {with_zeros=}")


@pytest.mark.parametrize("with_zeros", [False, True], ids=["symmetric", "zeros"])
@pytest.mark.parametrize("bits", [4, 8])
def test_it_gives_the_bits_of_the_product_of_floats(lib, plain, bits, with_zeros):
    for m, n in itertools.product((1, 2, 3, 4, 5, 15), (1, 16, 17, 65, 130)):
        k = (7, 8, 33, 64, 100)[(m + n) % 5]
        check(lib, plain, m, n, k, bits=bits, block=(8, 16, 32)[m % 3], with_zeros=with_zeros, pad=n % 3)


@pytest.mark.parametrize("bits", [4, 8])
def test_many_rows_chunks_and_blocks_as_long_as_the_depth(lib, plain, bits):
    check(lib, plain, 600, 70, 50, bits=bits, block=16, with_zeros=True)
    check(lib, plain, 9, 100, 700, bits=bits, block=704, with_zeros=True, pad=1)
    check(lib, plain, 1, 300, 1000, bits=bits, block=128, with_zeros=False)
    check(lib, plain, 20, 33, 513, bits=bits, block=32, with_zeros=False)


@pytest.mark.parametrize(("m", "n", "k"), [(0, 5, 8), (5, 0, 8), (3, 5, 0), (9, 5, 0)])
def test_empty_products(lib, plain, m, n, k):
    check(lib, plain, m, n, k, bits=4, block=8, with_zeros=False)


def test_the_look_up_of_nibbles_equals_its_plain_version(lib):
    lib.lanes.restype = ctypes.c_int64
    x = np.random.default_rng(0).integers(-(1 << 31), 1 << 31, lib.lanes()).astype(np.int32)
    fast, slow = np.empty(x.size, np.float32), np.empty(x.size, np.float32)
    lib.nibbles(*(ctypes.c_void_p(harness.pointer(v)) for v in (x, fast, slow)))
    np.testing.assert_array_equal(fast, slow)
    np.testing.assert_array_equal(fast, ((x & 15) ^ 8) - 8)

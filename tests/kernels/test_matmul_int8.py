"""matmul_int8 against numpy's int64: equal over signs, layouts, tails, splits and both engines."""

from __future__ import annotations

import ctypes
import itertools
import re

import numpy as np
import pytest
from kernels import harness

from sardonyx.kernels.packing_int8 import pack_quads

Args = harness.struct("matmul_int8.h", "matmul_int8_args")
GUARD = 0x5A5A5A5A
SOURCE = """
#include "simd.h"
#include "matmul_int8.h"
void dots(const int32_t *sum, const int32_t *x, const int32_t *y, int32_t *fast, int32_t *plain) {
    vi_store(fast, vi_dot(vi_load(sum), vi_load(x), vi_load(y)));
#if SX_DOT_GROUP == 4
    vi_store(plain, vi_dot4_plain(vi_load(sum), vi_load(x), vi_load(y), SX_DOT_A_UNSIGNED));
#else
    vi_store(plain, vi_dot2_plain(vi_load(sum), vi_load(x), vi_load(y)));
#endif
}
int64_t lanes(void) { return VL; }
void add_row_and_count(void *const *operands, const int64_t *dims, int64_t i0, int64_t i1, int64_t lo2, int64_t hi2,
                       int64_t lo3, int64_t hi3) {
    int32_t *seen = operands[0];
    const int32_t *c = operands[1];
    for (int64_t i = lo2; i < hi2; i++)
        for (int64_t j = lo3; j < hi3; j++)
            seen[((i0 + i1) * dims[0] + i) * dims[1] + j] += c[(i1 * dims[0] + i) * dims[1] + j] + 1;
}
void add_own_row(void *const *operands, const int64_t *dims, int64_t i0, int64_t i1, int64_t lo2, int64_t hi2,
                 int64_t lo3, int64_t hi3) {
    int32_t *seen = operands[0];
    const int32_t *own = operands[1];
    for (int64_t i = lo2; i < hi2; i++)
        for (int64_t j = lo3; j < hi3; j++)
            seen[((i0 + i1) * dims[0] + i) * dims[1] + j] += own[i * dims[2] + j] + 1;
}
"""
TRAPS = ["-fsanitize=undefined", "-fsanitize-trap=undefined"]
BYTES = {"SX_DOT_GROUP": 4, "SX_DOT_FALLBACK": None}
ENGINES = [
    pytest.param({"isa": "x86_64_v3"}, id="avx2", marks=pytest.mark.isa("avx2")),
    pytest.param({"isa": "x86_64_v2"}, id="sse", marks=pytest.mark.isa("sse4_2")),
    pytest.param({"isa": "icelake_server"}, id="vnni", marks=pytest.mark.isa("avx512_vnni")),
    pytest.param({"isa": "sapphirerapids"}, id="tiles", marks=pytest.mark.isa("amx_int8")),
    pytest.param({"isa": "x86_64_v3", "defines": {"SX_DOT_FALLBACK": None}, "flags": TRAPS}, id="plain",
                 marks=pytest.mark.isa("avx2")),
    pytest.param({"isa": "x86_64_v3", "defines": {**BYTES, "SX_DOT_A_UNSIGNED": 1, "__AVX512F__": 1}, "flags": TRAPS},
                 id="bytes-wide", marks=pytest.mark.isa("avx2")),
    pytest.param({"isa": "x86_64_v3", "defines": {**BYTES, "SX_DOT_A_UNSIGNED": 0}, "flags": TRAPS}, id="signed-bytes",
                 marks=pytest.mark.isa("avx2")),
]  # fmt: skip


@pytest.fixture(scope="module", params=ENGINES)
def lib(request) -> ctypes.CDLL:
    return harness.build("matmul_int8.c", source=SOURCE, **request.param)


def draw(rng, shape, dtype) -> np.ndarray:
    """Any bytes, the extremes often."""
    info = np.iinfo(dtype)
    values = rng.integers(info.min, info.max + 1, shape)
    return np.where(rng.random(shape) < 0.2, rng.choice([info.min, info.max], shape), values).astype(dtype)


def arguments(a, b, c, *, a_zero=None, b_zero=None, packed=False) -> ctypes.Structure:
    """`a` [batch, M, K], `b` [batch or 1, K, N], `c` [batch, M, N]."""
    args = Args(a=harness.pointer(a), a_signed=a.dtype == np.int8, a_batch=a.strides[0], a_row=a.strides[1])
    args.b_signed = b.dtype == np.int8
    args.memory = (a, b, c, a_zero, b_zero)
    if packed:
        quads, sums = map(harness.at_page_end, pack_quads(b[0]))
        args.b, args.b_packed, args.b_sums = harness.pointer(quads), 1, harness.pointer(sums)
        args.memory += (quads, sums)
    else:
        args.b = harness.pointer(b)
        args.b_batch = b.strides[0] if b.shape[0] > 1 else 0
        args.b_row, args.b_col = b.strides[1:]
    for name, zero in (("a", a_zero), ("b", b_zero)):
        setattr(args, f"{name}_zero", harness.pointer(zero))
        setattr(args, f"{name}_zero_step", int(zero is not None and zero.size > 1))
    args.c, args.c_batch, args.c_row = harness.pointer(c), c.strides[0] // 4, c.strides[1] // 4
    args.batch, args.m, args.n = c.shape
    args.k = a.shape[-1]
    return args


def oracle(a, b, a_zero, b_zero) -> np.ndarray:
    left = a.astype(np.int64) - (0 if a_zero is None else a_zero.astype(np.int64).reshape(-1, 1))
    right = b.astype(np.int64) - (0 if b_zero is None else b_zero.astype(np.int64))
    return (left @ right).astype(np.int32)


def check(
    lib,
    rng,
    m,
    n,
    k,
    *,
    types=(np.uint8, np.int8),
    zeros=(1, 1),
    packed=True,
    batch=1,
    transposed=False,
    pad=0,
):
    a = harness.at_page_end(draw(rng, (batch, m, k), types[0]))
    b = draw(
        rng,
        (1 if packed else batch, n, k) if transposed else (1 if packed else batch, k, n),
        types[1],
    )
    b = harness.at_page_end(b)
    b = b.swapaxes(1, 2) if transposed else b
    a_zero, b_zero = (
        draw(rng, size, kind) if size else None
        for size, kind in zip(
            (zeros[0] and (m if zeros[0] > 1 else 1), zeros[1] and (n if zeros[1] > 1 else 1)),
            types,
            strict=True,
        )
    )
    memory = np.full((batch, m + 2, n + pad), GUARD, np.int32)
    c = memory[:, 1 : m + 1, :n]
    harness.run(lib, "matmul_int8", arguments(a, b, c, a_zero=a_zero, b_zero=b_zero, packed=packed))
    expected = np.full_like(memory, GUARD)
    expected[:, 1 : m + 1, :n] = oracle(a, b, a_zero, b_zero)
    np.testing.assert_array_equal(memory, expected, err_msg=f"{m=} {n=} {k=} {types=} {zeros=} {packed=} {transposed=}")


SIGNS = list(itertools.product((np.uint8, np.int8), repeat=2))


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "unpacked"])
@pytest.mark.parametrize("types", SIGNS, ids=lambda t: "-".join(x.__name__ for x in t))
def test_tails_signs_and_zero_points(lib, types, packed):
    rng = np.random.default_rng(1)
    rows, columns = (1, 2, 5, 6, 7, 13, 14, 15, 29), (1, 15, 16, 17, 31, 33, 48, 65)
    for number, (m, n) in enumerate(itertools.product(rows, columns)):
        zeros = ((0, 0), (1, 1), (2, 2), (1, 0), (0, 2))[number % 5]
        k = (1, 3, 4, 6, 9)[number % 5 - 1]
        check(lib, rng, m, n, k, types=types, zeros=zeros, packed=packed, pad=number % 3)
        if not packed:
            check(lib, rng, m, n, k, types=types, zeros=zeros, packed=False, batch=2, transposed=True)


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "unpacked"])
def test_chunks_of_k_and_many_blocks(lib, packed):
    rng = np.random.default_rng(2)
    few, many = (
        ((3, 20, 511), (7, 33, 512), (6, 16, 513), (5, 17, 1025), (2, 50, 2051)),
        ((130, 300, 70), (250, 40, 600)),
    )
    for m, n, k in (*few, *many):
        check(lib, rng, m, n, k, types=SIGNS[k % 4], zeros=(1, 2), packed=packed, pad=k % 3)


def test_extremes_do_not_saturate(lib):
    for types, (x, y, za, zb) in itertools.product(SIGNS, itertools.product((0, 255), repeat=4)):
        a, b = (
            np.full((1, 7, 600), x, np.uint8).view(types[0]),
            np.full((1, 600, 18), y, np.uint8).view(types[1]),
        )
        zeros = [np.array([z], np.uint8).view(kind) for z, kind in zip((za, zb), types, strict=True)]
        c = np.empty((1, 7, 18), np.int32)
        harness.run(lib, "matmul_int8", arguments(a, b, c, a_zero=zeros[0], b_zero=zeros[1], packed=True))
        np.testing.assert_array_equal(c, oracle(a, b, *zeros))


@pytest.mark.parametrize(("m", "n", "k", "batch"), [(0, 5, 3, 1), (5, 0, 3, 1), (5, 5, 3, 0)])
def test_empty_outputs_have_no_tasks(lib, m, n, k, batch):
    a, b = np.ones((batch, m, k), np.uint8), np.ones((batch or 1, k, n), np.uint8)
    assert harness.run(lib, "matmul_int8", arguments(a, b, np.empty((batch, m, n), np.int32))) == 0


def test_an_empty_sum_is_zero(lib):
    check(lib, np.random.default_rng(0), 7, 20, 0, packed=False)


def test_any_split_visits_each_element_once_after_its_sum(lib):
    rng = np.random.default_rng(3)
    a, b = draw(rng, (1, 500, 300), np.uint8), draw(rng, (1, 300, 1700), np.int8)
    zero = np.array([7], np.uint8)
    c, seen = np.empty((1, 500, 1700), np.int32), np.zeros((1, 500, 1700), np.int32)
    args = arguments(a, b, c, a_zero=zero, packed=True)
    operands = (ctypes.c_void_p * 2)(harness.pointer(seen), harness.pointer(c))
    dims = (ctypes.c_int64 * 2)(500, 1700)
    args.epilogue = harness.function(lib, "add_row_and_count")
    args.operands, args.dims = ctypes.addressof(operands), ctypes.addressof(dims)
    lib.matmul_int8_tasks.restype = ctypes.c_int64
    tasks = lib.matmul_int8_tasks(ctypes.byref(args))
    assert tasks > 4, tasks
    harness.run(lib, "matmul_int8", args, splits=[(t, t + 1) for t in reversed(range(tasks))])
    expected = oracle(a, b, zero, None)
    np.testing.assert_array_equal(c, expected)
    np.testing.assert_array_equal(seen, expected + 1)


def test_the_dot_primitive_equals_its_plain_version(lib):
    rng = np.random.default_rng(4)
    lib.lanes.restype = ctypes.c_int64
    lanes = lib.lanes()
    for _ in range(200):
        total, x, y = (draw(rng, lanes * 4, np.uint8).view(np.int32).copy() for _ in range(3))
        fast, plain = np.empty(lanes, np.int32), np.empty(lanes, np.int32)
        lib.dots(*(ctypes.c_void_p(harness.pointer(v)) for v in (total, x, y, fast, plain)))
        np.testing.assert_array_equal(fast, plain)


@pytest.mark.parametrize("isa", ["x86_64_v3", "icelake_server", "aarch64", "riscv64_v"])
def test_it_compiles_for_other_targets_without_spills_in_the_hot_loops(isa):
    lines = harness.compile_kernels("matmul_int8.c", isa=isa, kind="s").read_text().splitlines()
    labels = {line.split(":")[0]: i for i, line in enumerate(lines) if re.match(r"\.L\w+:", line)}
    loops = 0
    for end, line in enumerate(lines):
        jump = re.match(r"\s+(?:j\w+|b\.\w+|cbn?z)\s.*?(\.L\w+)$", line)
        if jump is None or labels.get(jump[1], end) >= end:
            continue
        body = [step for step in lines[labels[jump[1]] : end] if re.match(r"\t\w", step)]
        if not any(re.search(r"vpdpbusd|vpmaddwd|smull", step) for step in body):
            continue
        loops += 1
        assert not [step for step in body if re.search(r"%rsp|%rbp\)|\[sp", step)], isa
    assert loops >= 5 or isa == "riscv64_v"


@pytest.mark.parametrize(("m", "n", "k", "batch"), [(200, 500, 70, 1), (5, 33, 9, 3), (67, 130, 1100, 1)])
def test_sums_that_the_epilogue_alone_wants_are_kept_in_scratch(lib, m, n, k, batch):
    rng = np.random.default_rng(5)
    a, b = draw(rng, (batch, m, k), np.uint8), draw(rng, (batch, k, n), np.int8)
    zero = np.array([7], np.uint8)
    seen = np.zeros((batch, m, n), np.int32)
    args = arguments(a, b, np.empty((batch, m, n), np.int32), a_zero=zero, packed=batch == 1)
    operands = (ctypes.c_void_p * 2)(harness.pointer(seen), 0)
    lib.matmul_int8_own_row.argtypes, lib.matmul_int8_own_row.restype = [ctypes.c_int64], ctypes.c_int64
    args.c_batch, args.c_row = 0, lib.matmul_int8_own_row(n)
    dims = (ctypes.c_int64 * 3)(m, n, args.c_row)
    args.epilogue = harness.function(lib, "add_own_row")
    args.operands, args.dims = ctypes.addressof(operands), ctypes.addressof(dims)
    args.c, args.own, args.operand_count = None, 1, 2
    harness.run(lib, "matmul_int8", args)
    np.testing.assert_array_equal(seen, oracle(a, b, zero, None) + 1)

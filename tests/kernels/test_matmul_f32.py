"""matmul_f32 against a k-sequential fma loop: equal bits over shapes, layouts, batches, splits and instruction sets."""

from __future__ import annotations

import ctypes
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from kernels import harness

from sardonyx.kernels.packing import pack_panels

ORACLE = """
#include "matmul_f32.h"
#include "simd.h"

void oracle(const matmul_f32_args *g) {
    for (int64_t b0 = 0; b0 < g->batch0; b0++)
        for (int64_t b1 = 0; b1 < g->batch1; b1++)
            for (int64_t i = 0; i < g->m; i++)
                for (int64_t j = 0; j < g->n; j++) {
                    const float *a = g->a + b0 * g->a_batch0 + b1 * g->a_batch1 + i * g->a_row;
                    const float *b = g->b + b0 * g->b_batch0 + b1 * g->b_batch1 + j * g->b_col;
                    float sum = 0;
                    for (int64_t k = 0; k < g->k; k++) sum = fma1(a[k * g->a_col], b[k * g->b_row], sum);
                    g->c[b0 * g->c_batch0 + b1 * g->c_batch1 + i * g->c_row + j] = sum;
                }
}

// Counts its visits of each element in operands[0], and moves the sums it finds (operands[1], strides in dims) to
// operands[2]: [batch0][batch1][m][n] with the dims[0..3] of the output.
void count_visits(void *const *operands, const int64_t *dims, int64_t i0, int64_t i1, int64_t lo2, int64_t hi2,
                  int64_t lo3, int64_t hi3) {
    int32_t *visits = operands[0];
    const float *sums = operands[1];
    float *seen = operands[2];
    for (int64_t i = lo2; i < hi2; i++)
        for (int64_t j = lo3; j < hi3; j++) {
            const int64_t at = ((i0 * dims[1] + i1) * dims[2] + i) * dims[3] + j;
            visits[at]++;
            seen[at] = sums[i0 * dims[4] + i1 * dims[5] + i * dims[6] + j];
        }
}
"""
Args = harness.struct("matmul_f32.h", "matmul_f32_args")
GUARD = np.float32(12345.75)
KS = (0, 1, 2, 7, 64, 257, 384, 385, 768, 769, 1550)


PORTABLE = {"SX_PORTABLE": None}  # x86_64_v2 has no fma
TRAPS = ["-fsanitize=undefined", "-fsanitize-trap=undefined"]


def libraries() -> list:
    """The instruction sets that this CPU can run.

    `wide` is AVX-512's tiles made of AVX2's registers, and traps where behaviour is undefined.
    """
    flags = set(re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)[1].split())
    rows = [
        ("x86_64_v2", "x86_64_v2", PORTABLE, [], "sse4_2"),
        ("x86_64_v3", "x86_64_v3", {}, [], "fma"),
        ("wide", "x86_64_v3", {"__AVX512F__": 1}, TRAPS, "fma"),
        ("icelake_server", "icelake_server", {}, [], "avx512_vbmi2"),
    ]
    return [
        pytest.param(
            {"isa": isa, "defines": defines, "flags": options},
            id=name,
            marks=pytest.mark.skipif(flag not in flags, reason=f"the CPU lacks {flag}"),
        )
        for name, isa, defines, options, flag in rows
    ]


@pytest.fixture(scope="module", params=libraries())
def lib(request) -> ctypes.CDLL:
    return harness.build("matmul_f32.c", source=ORACLE, **request.param)


def stored(rng, batch: tuple[int, int], rows: int, cols: int, *, transposed: bool = False, pad: int = 0) -> np.ndarray:
    """Random [batch, rows, cols] as a view of padded rows (or columns), at the end of readable memory.

    A batch of -n stands for n batches that share their memory (stride 0).
    """
    real = [1 if size < 0 else size for size in batch]
    inner, outer = (rows, cols) if transposed else (cols, rows)
    size = int(np.prod(real)) * outer * (inner + pad)
    data = rng.standard_normal(size, dtype=np.float32)
    data = harness.at_page_end(data[: max(size - pad, 0)])  # the last row's padding lies beyond the page
    strides = [4 * int(np.prod(real[i + 1 :])) * outer * (inner + pad) if n > 0 else 0 for i, n in enumerate(batch)]
    strides += [4, 4 * (inner + pad)] if transposed else [4 * (inner + pad), 4]
    shape = [*map(abs, batch), rows, cols]
    return np.lib.stride_tricks.as_strided(data, shape, strides)


def output(batch: tuple[int, int], m: int, n: int, *, pad: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(memory full of guards, the [batch, m, n] view inside it)."""
    memory = np.full((*map(abs, batch), m + 2, n + pad), GUARD, np.float32)
    return memory, memory[..., 1 : m + 1, :n]


def arguments(a: np.ndarray, b: np.ndarray, c: np.ndarray, packed: np.ndarray | None = None) -> ctypes.Structure:
    steps = {
        f"{name}_{part}": stride // 4
        for name, x in (("a", a), ("b", b), ("c", c))
        for part, stride in zip(("batch0", "batch1", "row", "col"), x.strides, strict=True)
        if (name, part) != ("c", "col")
    }
    args = Args(a=harness.pointer(a), b=harness.pointer(b), c=harness.pointer(c), **steps)
    args.memory = (a, b, c, packed)  # lives as long as the addresses do
    args.batch0, args.batch1, args.m, args.n = c.shape
    args.k = a.shape[-1]
    if packed is not None:
        args.b, args.b_packed = harness.pointer(packed), 1
        args.b_row = args.b_col = 0
        args.b_batch0, args.b_batch1 = (stride // 4 for stride in packed.strides[:2])
    return args


def oracle(lib: ctypes.CDLL, a: np.ndarray, b: np.ndarray, batch: tuple[int, int]) -> np.ndarray:
    c = np.empty((*map(abs, batch), a.shape[-2], b.shape[-1]), np.float32)
    lib.oracle(ctypes.byref(arguments(a, b, c)))
    return c


def pack(b: np.ndarray) -> np.ndarray:
    """pack_panels at the end of readable memory, keeping shared batches shared."""
    index = tuple(slice(0, 1) if b.strides[i] == 0 else slice(None) for i in (0, 1))
    panels = harness.at_page_end(pack_panels(b[index]))
    return np.broadcast_to(panels, (*b.shape[:2], *panels.shape[2:]))


def check(
    lib: ctypes.CDLL,
    rng,
    m: int,
    n: int,
    k: int,
    *,
    batch=(1, 1),
    a_batch=None,
    b_batch=None,
    a_transposed=False,
    b_transposed=False,
    packed=False,
    pad=0,
) -> None:
    """One product: bits as the oracle's, nothing written beyond it, no unreadable memory touched."""
    a = stored(rng, a_batch or batch, m, k, transposed=a_transposed, pad=pad)
    b = stored(rng, b_batch or batch, k, n, transposed=b_transposed, pad=pad)
    memory, c = output(batch, m, n, pad=pad)
    harness.run(lib, "matmul_f32", arguments(a, b, c, pack(b) if packed else None))
    expected = np.full_like(memory, GUARD)
    expected[..., 1 : m + 1, :n] = oracle(lib, a, b, batch)
    case = f"{m=} {n=} {k=} {batch=} {a_transposed=} {b_transposed=} {packed=} {pad=}"
    np.testing.assert_array_equal(memory.view(np.uint32), expected.view(np.uint32), err_msg=case)


LAYOUTS = [
    {"a_transposed": x, **y}
    for x in (False, True)
    for y in ({"b_transposed": False}, {"b_transposed": True}, {"packed": True})
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda x: "-".join(f"{k}={int(v)}" for k, v in x.items()))
def test_every_tail_of_rows_and_columns_has_the_bits_of_the_oracle(lib, layout):
    rng = np.random.default_rng(1)
    columns = (1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129)
    rows = (*range(1, 17), 20, 27, 28, 29)
    for m, n in itertools.product(rows, columns):
        check(lib, rng, m, n, (7, 5, 2, 1)[(m + n) % 4], pad=(m * n) % 4, **layout)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda x: "-".join(f"{k}={int(v)}" for k, v in x.items()))
def test_every_length_of_k(lib, layout):
    rng = np.random.default_rng(2)
    for k, (m, n) in itertools.product(KS, ((1, 17), (5, 40), (6, 16), (13, 33), (29, 150))):
        check(lib, rng, m, n, k, pad=k % 3, **layout)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda x: "-".join(f"{k}={int(v)}" for k, v in x.items()))
def test_many_blocks(lib, layout):
    rng = np.random.default_rng(3)
    for m, n, k in ((131, 70, 300), (250, 33, 64), (2, 1000, 513), (40, 530, 70), (300, 300, 30)):
        check(lib, rng, m, n, k, pad=5, **layout)


def test_batches_and_shared_operands(lib):
    rng = np.random.default_rng(4)
    for layout in LAYOUTS:
        check(lib, rng, 9, 20, 11, batch=(2, 3), **layout)
        check(lib, rng, 9, 20, 11, batch=(2, 3), b_batch=(-2, 3), pad=3, **layout)
        check(lib, rng, 9, 20, 11, batch=(2, 3), a_batch=(2, -3), b_batch=(-2, -3), **layout)
    check(lib, rng, 50, 64, 40, batch=(7, 12), b_transposed=True)


def test_strided_heads_of_one_tensor(lib):
    """Attention's views: head h of [tokens, heads * width] starts at column h * width."""
    rng = np.random.default_rng(5)
    tokens, heads, width = 37, 4, 24
    query, key, value = rng.standard_normal((3, 2, tokens, heads, width), dtype=np.float32).transpose(0, 1, 3, 2, 4)
    scores = np.empty((2, heads, tokens, tokens), np.float32)
    harness.run(lib, "matmul_f32", arguments(query, key.swapaxes(-1, -2), scores))
    assert scores.tobytes() == oracle(lib, query, key.swapaxes(-1, -2), (2, heads)).tobytes()
    mixed = np.empty((2, tokens, heads, width), np.float32).transpose(0, 2, 1, 3)
    harness.run(lib, "matmul_f32", arguments(scores, value, mixed))
    assert mixed.tobytes() == oracle(lib, scores, value, (2, heads)).tobytes()


def test_neither_operand_contiguous(lib):
    rng = np.random.default_rng(6)
    a = rng.standard_normal((1, 1, 40, 2 * 90), dtype=np.float32)[..., ::2].swapaxes(2, 3)
    b = rng.standard_normal((1, 1, 40, 3 * 100), dtype=np.float32)[:, :, ::-1, ::3]
    c = np.empty((1, 1, 90, 100), np.float32)
    harness.run(lib, "matmul_f32", arguments(a, b, c))
    assert c.tobytes() == oracle(lib, a, b, (1, 1)).tobytes()


@pytest.mark.parametrize(("m", "n", "batch"), [(0, 5, (1, 1)), (5, 0, (1, 1)), (5, 5, (0, 2)), (5, 5, (2, 0))])
def test_empty_outputs_have_no_tasks(lib, m, n, batch):
    k = 3
    a, b = np.ones((*batch, m, k), np.float32), np.ones((*batch, k, n), np.float32)
    assert harness.run(lib, "matmul_f32", arguments(a, b, np.empty((*batch, m, n), np.float32))) == 0


@pytest.mark.parametrize("packed", [False, True])
def test_special_values_pass_through(lib, packed):
    """NaN and infinity reach exactly the elements that they should, also where the other factor is 0."""
    rng = np.random.default_rng(7)
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 3e38, -3e38, 1e-40], np.float32)
    for m, n, k in ((1, 40, 5), (7, 17, 3), (20, 50, 4)):
        a, b = (
            np.where(rng.random(shape) < 0.3, rng.choice(special, shape), rng.standard_normal(shape)).astype(np.float32)
            for shape in ((1, 1, m, k), (1, 1, k, n))
        )
        c = np.empty((1, 1, m, n), np.float32)
        harness.run(lib, "matmul_f32", arguments(a, b, c, pack(b) if packed else None))
        expected = oracle(lib, a, b, (1, 1))
        np.testing.assert_array_equal(c, expected)
        assert (np.signbit(c) == np.signbit(expected))[~np.isnan(expected)].all()


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda x: "-".join(f"{k}={int(v)}" for k, v in x.items()))
def test_any_split_of_the_tasks_gives_the_same_bits_and_visits_each_element_once(lib, layout):
    rng = np.random.default_rng(8)
    shapes = ((200, 600, 400, (1, 1)), (31, 90, 257, (5, 3)), (1, 3000, 600, (1, 1)), (3000, 16, 20, (1, 2)))
    for m, n, k, batch in shapes:
        a = stored(rng, batch, m, k, transposed=layout["a_transposed"])
        b = stored(rng, batch, k, n, transposed=layout.get("b_transposed", False))
        _, c = output(batch, m, n, pad=3)
        args = arguments(a, b, c, pack(b) if layout.get("packed") else None)
        visits, seen = np.zeros(c.shape, np.int32), np.zeros(c.shape, np.float32)
        operands = (ctypes.c_void_p * 3)(*map(harness.pointer, (visits, c, seen)))
        dims = (ctypes.c_int64 * 7)(*c.shape, *(stride // 4 for stride in c.strides[:3]))
        args.epilogue = harness.function(lib, "count_visits")
        args.operands, args.dims = ctypes.addressof(operands), ctypes.addressof(dims)
        tasks = harness.run(lib, "matmul_f32", args)
        whole = c.tobytes()
        assert whole == oracle(lib, a, b, batch).tobytes()
        cuts = sorted({0, tasks, *rng.integers(0, tasks + 1, 5).tolist()})
        some = [(lo, hi) for lo, hi in itertools.pairwise(cuts)]
        for splits in ([(t, t + 1) for t in reversed(range(tasks))], some[::-1]):
            c[...] = GUARD
            visits[...] = 0
            harness.run(lib, "matmul_f32", args, splits=splits)
            assert c.tobytes() == whole
            assert seen.tobytes() == whole
            assert (visits == 1).all()


def test_work_is_cut_finer_than_threads_but_not_needlessly(lib):
    def tasks(m: int, n: int, k: int, batch0: int = 1) -> int:
        lib.matmul_f32_tasks.restype = ctypes.c_int64
        return lib.matmul_f32_tasks(ctypes.byref(Args(m=m, n=n, k=k, batch0=batch0, batch1=1, a_col=1, b_packed=1)))

    assert tasks(8, 64, 64) == 1
    assert tasks(4, 4, 4, batch0=2000) == 1
    for shape in ((128, 768, 768), (3136, 64, 576), (1, 4096, 4096), (49, 512, 2048), (128, 128, 64, 96)):
        assert 16 <= tasks(*shape) <= 512, shape


def test_packed_panels_are_documented_by_their_index():
    b = np.arange(2 * 3 * 21, dtype=np.float32).reshape(2, 3, 21)
    packed = pack_panels(b)
    assert packed.shape == (2, 2, 3, 16)
    for i, k, j in np.ndindex(b.shape):
        assert packed[i, j // 16, k, j % 16] == b[i, k, j]
    assert (packed[:, 1, :, 5:] == 0).all()
    assert pack_panels(b.swapaxes(1, 2).copy().swapaxes(1, 2)).tobytes() == packed.tobytes()


@pytest.mark.parametrize("isa", ["x86_64_v2", "x86_64_v3", "icelake_server", "aarch64"])
def test_hot_loops_keep_everything_in_registers(isa):
    """No loop that multiplies touches the stack."""
    defines = PORTABLE if isa == "x86_64_v2" else {}
    lines = harness.compile_kernels("matmul_f32.c", isa=isa, defines=defines, kind="s").read_text().splitlines()
    labels = {line.split(":")[0]: i for i, line in enumerate(lines) if re.match(r"\.L\w+:", line)}
    loops = 0
    for end, line in enumerate(lines):
        jump = re.match(r"\s+(?:j\w+|b\.\w+|cbn?z)\s.*?(\.L\w+)$", line)
        if jump is None or labels.get(jump[1], end) >= end:
            continue
        body = [step for step in lines[labels[jump[1]] : end] if re.match(r"\t\w", step)]
        if not any(re.search(r"fmadd|fmla|mulps", step) for step in body):
            continue
        loops += 1
        assert not [step for step in body if re.search(r"%rsp|%rbp\)|\[sp", step)]
    assert loops >= (2 if isa == "x86_64_v2" else 6)

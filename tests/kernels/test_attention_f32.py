"""attention_f32: equal bits over splits and instruction sets, no access beyond its operands, right numbers."""

from __future__ import annotations

import numpy as np
import pytest
from kernels import harness

Args = harness.struct("attention_f32.h", "attention_f32_args")
SIZES = [(1, 1, 1, 1), (5, 3, 2, 7), (17, 33, 16, 16), (70, 64, 8, 20), (3, 700, 64, 48), (131, 129, 5, 33)]
# `wide` is AVX-512's tiles made of AVX2's registers.
BUILDS = {"avx2": [], "wide": ["-D__AVX512F__", "-Wno-builtin-macro-redefined"]}


def library(build: str):
    return harness.build("attention_f32.c", "builtins.c", isa="x86_64_v3", flags=BUILDS[build])


def operands(queries: int, keys: int, depth: int, width: int, heads: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(queries + keys)
    shapes = {"q": (queries, heads, depth), "k": (keys, 1, depth), "v": (keys, 1, width), "mask": (queries, keys)}
    return {name: harness.at_page_end(rng.standard_normal(shape).astype(np.float32)) for name, shape in shapes.items()}


def run(lib, x: dict[str, np.ndarray], splits=None, **fields) -> np.ndarray:
    queries, heads, depth = x["q"].shape
    keys, _, width = x["v"].shape
    out = harness.at_page_end(np.full((queries, heads, width), np.nan, np.float32))
    scale = np.array([0.5], np.float32)
    p = harness.pointer
    values = {
        "q": p(x["q"]), "q_head": depth, "q_row": heads * depth, "q_col": 1,
        "k": p(x["k"]), "k_row": depth, "k_col": 1, "v": p(x["v"]), "v_row": width, "v_col": 1,
        "mask": p(x["mask"]), "mask_row": keys, "mask_col": 1, "scale": p(scale), "before": -1, "after": -1,
        "out": p(out), "out_head": width, "out_row": heads * width, "batch": 1, "heads": heads, "kv_heads": 1,
        "queries": queries, "keys": keys, "depth": depth, "width": width,
    }  # fmt: skip
    args = Args(**(values | fields))
    if splits is not None:
        count = harness.run(lib, "attention_f32", args, splits=[])
        splits = [(i, i + 1) for i in reversed(range(count))]
    harness.run(lib, "attention_f32", args, splits=splits)
    return out


def expected(x: dict[str, np.ndarray], mask: np.ndarray) -> np.ndarray:
    q, k, v = (x[name].astype(np.float64) for name in "qkv")
    scores = np.einsum("ihd,jd->hij", q, k[:, 0]) * 0.5 + mask
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hij,je->ihe", powers / powers.sum(-1, keepdims=True), v[:, 0])


@pytest.mark.parametrize("size", SIZES)
def test_the_numbers_are_right_and_the_bits_the_same_for_every_tile_and_split(size) -> None:
    x = operands(*size)
    result = run(library("avx2"), x)
    np.testing.assert_allclose(result, expected(x, x["mask"]), rtol=1e-4, atol=2e-6)
    assert (run(library("avx2"), x, splits="one by one") == result).all()
    assert (run(library("wide"), x) == result).all()


def test_what_a_query_does_not_see_has_no_influence() -> None:
    x = operands(9, 21, 8, 16)
    i, j = np.indices((9, 21))
    unseen = np.where((j < i + 4 - 2) | (j > i + 4 + 1), -np.inf, 0)
    result = run(library("avx2"), x, before=2, after=1, offset=4)
    np.testing.assert_allclose(result, expected(x, x["mask"] + unseen), rtol=1e-4, atol=2e-6)


def test_a_query_that_sees_nothing_gives_zero_or_nan() -> None:
    x = operands(4, 6, 8, 16)
    x["mask"][2] = -np.inf
    assert np.isnan(run(library("avx2"), x)[2]).all()
    result = run(library("avx2"), x, zero_unseen=1)
    assert (result[2] == 0).all()
    assert np.isfinite(result).all()


@pytest.mark.parametrize("build", BUILDS)
def test_rows_side_by_side_have_the_bits_of_single_rows(build) -> None:
    x = operands(23, 37, 8, 64)  # groups of rows, rows that are left, and lanes beyond the keys
    x["mask"][3, 5] = -np.inf
    together = run(library(build), x)
    for i in range(23):
        one = {name: harness.at_page_end(x[name][i : i + 1] if name in ("q", "mask") else x[name]) for name in x}
        assert (run(library(build), one)[0] == together[i]).all()


@pytest.mark.parametrize("build", BUILDS)
def test_numbers_that_are_not_finite_stay_in_their_row(build) -> None:
    x = operands(19, 21, 8, 16)
    clean = run(library(build), x, zero_unseen=1)
    x["mask"][2, 20] = np.nan
    x["mask"][4], x["mask"][4, 7] = -np.inf, np.nan  # not a row that sees nothing
    x["mask"][5, 0] = np.inf
    x["mask"][17, 3] = np.nan
    x["mask"][18] = -np.inf
    result = run(library(build), x, zero_unseen=1)
    assert np.isnan(result[[2, 4, 5, 17]]).all()
    assert (result[18] == 0).all()
    others = np.setdiff1d(np.arange(19), [2, 4, 5, 17, 18])
    assert (result[others] == clean[others]).all()

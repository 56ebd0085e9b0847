"""Decision trees: packing and kernel against a walk node by node, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from kernels.harness import build, pointer, run, struct

from sardonyx.kernels import packing_trees as pt

SUM, MIN, MAX = range(3)
RNG = np.random.default_rng(7)


def random_forest(depths: list[int], features: int, modes: list[int], entries: str, targets: int) -> pt.Forest:
    """Trees with thresholds and values from a small range, so that equality happens."""
    rows: list[list] = []  # mode, feature, value, missing, true, false, entries

    def grow(depth: int, narrow: bool) -> int:
        number = len(rows)
        rows.append([])
        if depth == 0 or RNG.random() < 0.1:
            some = {"one": [int(RNG.integers(targets))], "all": range(targets)}
            chosen = some.get(entries) or RNG.permutation(targets)[: RNG.integers(0, targets + 1)].tolist()
            rows[number] = [-1, 0, 0.0, 0, 0, 0, [(k, RNG.normal()) for k in chosen]]
            return number
        true, false = grow(depth - 1, narrow), grow(0 if narrow else depth - 1, narrow)
        mode, feature, missing = int(RNG.choice(modes)), int(RNG.integers(features)), int(RNG.integers(2))
        rows[number] = [mode, feature, float(RNG.integers(-3, 4)), missing, true, false, []]
        return number

    roots = [grow(depth, depth > 12) for depth in depths]
    columns = [np.asarray(column) for column in zip(*(row[:6] for row in rows), strict=True)]
    counts = np.asarray([len(row[6]) for row in rows])
    flat = [entry for row in rows for entry in row[6]]
    return pt.Forest(
        np.asarray(roots), *columns, np.cumsum(counts) - counts, counts,
        np.asarray([k for k, _ in flat], np.int64), np.asarray([w for _, w in flat], np.float64),
        {i: RNG.integers(-4, 5, 3).astype(np.float64) for i, row in enumerate(rows) if row[0] == pt.MEMBER},
    )  # fmt: skip


def naive(forest: pt.Forest, x: np.ndarray, targets: int, aggregate: int) -> np.ndarray:
    most = np.finfo(x.dtype).max
    y = np.full((len(x), targets), {SUM: 0, MIN: most, MAX: -most}[aggregate], x.dtype)
    weights = forest.entry_weight.astype(x.dtype)
    for r, row in enumerate(x):
        for root in forest.roots:
            node = root
            while forest.mode[node] >= 0:
                node = (forest.true if _holds(forest, node, row[forest.feature[node]]) else forest.false)[node]
            start = forest.entry_start[node]
            for e in range(start, start + forest.entry_count[node]):
                k, w = forest.entry_target[e], weights[e]
                y[r, k] = {SUM: lambda a, b: a + b, MIN: min, MAX: max}[aggregate](y[r, k], w)
    return y


def _holds(forest: pt.Forest, node: int, value: np.floating) -> bool:
    limit, mode = value.dtype.type(forest.value[node]), forest.mode[node]
    if np.isnan(value) and (forest.missing[node] or mode == pt.NEQ):
        return True
    tests = {pt.LEQ: value <= limit, pt.LT: value < limit, pt.GTE: value >= limit, pt.GT: value > limit,
             pt.EQ: value == limit, pt.NEQ: value != limit}  # fmt: skip
    return bool(tests[mode]) if mode != pt.MEMBER else bool(value in forest.members[node])


def samples(rows: int, features: int, dtype: type) -> np.ndarray:
    x = RNG.integers(-4, 5, (rows, features)).astype(dtype)
    for value in (np.nan, np.inf, -np.inf, -0.0, 1e-45):
        x[RNG.random(x.shape) < 0.06] = value
    return x


def call(
    forest: pt.Forest,
    x: np.ndarray,
    targets: int,
    aggregate: int,
    isa: str,
    *,
    backwards: bool,
    macros: dict[str, object] | None = None,
) -> np.ndarray:
    suffix = "f32" if x.dtype == np.float32 else "f64"
    p = pt.pack_forest(forest, x.dtype, targets)
    assert p is not None
    y = np.full((len(x), targets), np.nan, x.dtype)
    leaves = np.zeros((min(len(x), pt.FEW_ROWS), len(p.depths)), p.nodes.dtype if x.dtype == np.float64 else np.uint32)
    args = struct("tree_ensemble.h", "tree_ensemble_args")(
        x=pointer(x), y=pointer(y), rows=len(x), features=x.shape[1], targets=targets, trees=len(p.depths),
        columns=p.columns, nodes=pointer(p.nodes), roots=pointer(p.roots), depths=pointer(p.depths),
        sources=pointer(p.sources), tests=len(p.members), members=pointer(p.members),
        member_keys=pointer(p.member_keys), leaf=p.leaf, aggregate=aggregate, weights=pointer(p.weights),
        starts=pointer(p.starts), targets_of=pointer(p.targets_of), steps=p.steps, leaves=pointer(leaves),
    )  # fmt: skip
    for name in (f"tree_leaves_{suffix}", f"tree_ensemble_{suffix}"):
        lib = build(f"{name}.c", isa=isa, defines=macros if suffix == "f32" else None)
        tasks = run(lib, name, args)
        if backwards:
            y[:] = np.nan
            run(lib, name, args, splits=[(t, t + 1) for t in reversed(range(tasks))])
    return y


# An ISA, and the macros that choose the walk: by gathers, in plain C where an ISA has none.
WIDE = {"TREE_WIDE": 1}
BUILDS = [
    pytest.param("x86_64_v2", {}, id="v2"),
    pytest.param("x86_64_v3", {}, id="v3"),
    pytest.param("x86_64_v3", WIDE, id="v3-wide"),
    pytest.param("icelake_server", {}, id="avx512", marks=pytest.mark.isa("avx512dq")),
    pytest.param(
        "icelake_server", WIDE | {"SX_GATHER_FALLBACK": 1}, id="avx512-plain", marks=pytest.mark.isa("avx512dq")
    ),
]


@pytest.mark.parametrize(("isa", "macros"), BUILDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("modes", "entries", "targets", "aggregate"),
    [([pt.LEQ], "one", 1, SUM), (list(range(7)), "one", 1, MIN), ([pt.LT, pt.GTE, pt.GT], "all", 3, SUM),
     ([pt.LEQ, pt.EQ, pt.MEMBER], "some", 4, SUM), ([pt.NEQ, pt.LT], "one", 2, MAX)],
)  # fmt: skip
def test_every_row_falls_to_the_right_leaves(isa, macros, dtype, modes, entries, targets, aggregate) -> None:
    forest = random_forest([4, 0, 7, 1, 3, 40, 5, 6, 2, 5, 13], 6, modes, entries, targets)
    for rows in (0, 1, 7, 8, 9, 137):
        x = samples(rows, 6, dtype)
        got = call(forest, x, targets, aggregate, isa, backwards=rows in (8, 137), macros=macros)
        np.testing.assert_array_equal(got, naive(forest, x, targets, aggregate), err_msg=f"{rows} rows")


def test_tasks_do_not_change_a_bit() -> None:
    forest = random_forest([9] * 40, 5, [pt.LEQ], "one", 1)
    x = samples(1500, 5, np.float32)
    whole = call(forest, x, 1, SUM, "x86_64_v3", backwards=True)
    single = np.concatenate([call(forest, x[i : i + 1], 1, SUM, "x86_64_v3", backwards=False) for i in range(20)])
    np.testing.assert_array_equal(whole[:20], single)


def test_keys_have_the_order_of_the_floats() -> None:
    values = np.asarray([-np.inf, -3.5, -1e-45, -0.0, 0.0, 1e-45, 2.0, np.inf], np.float32)
    keys = pt.keys_of(values).astype(np.int64)
    assert (np.diff(keys) >= 0).all()
    assert keys[3] == keys[4]


def full_tree(depth: int, features: int) -> pt.Forest:
    """A complete tree whose inner nodes read one feature after the other."""
    inner = 2**depth - 1
    number = np.arange(2 * inner + 1)
    mode, leaf = np.where(number < inner, pt.LEQ, -1), (number >= inner).astype(np.int64)
    child = np.where(mode >= 0, 2 * number + 1, 0)
    return pt.Forest(
        np.zeros(1, np.int64), mode, number % features * (mode >= 0), number * 0.0, number * 0, child, child + 1,
        np.cumsum(leaf) - leaf, leaf, np.zeros(inner + 1, np.int64), np.arange(inner + 1.0),
    )  # fmt: skip


def test_nodes_with_two_parents_are_refused() -> None:
    forest = full_tree(3, 2)
    forest.true[6] = 0
    with pytest.raises(pt.MalformedForest):
        pt.pack_forest(forest, np.dtype(np.float32), 1)


def test_forests_that_compact_nodes_cannot_hold_are_left_to_the_wide_ones() -> None:
    forest = full_tree(15, pt.NARROW_COLUMNS + 1)
    assert pt.pack_forest(forest, np.dtype(np.float32), 1) is None
    x = RNG.normal(size=(9, pt.NARROW_COLUMNS + 1))
    np.testing.assert_array_equal(call(forest, x, 1, SUM, "x86_64_v3", backwards=False), naive(forest, x, 1, SUM))

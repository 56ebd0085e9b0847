"""Decision trees in the layout that `kernels/c/tree_ensemble.h` describes, in numpy."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

MODES = range(7)
LEQ, LT, GTE, GT, EQ, NEQ, MEMBER = MODES
LEAF_VALUE, LEAF_ROW, LEAF_LIST = range(3)
NARROW_COLUMNS = 1 << 14  # of tree_ensemble_f32: 16 bits hold four times the column's number
NARROW_OFFSETS = 1 << 16
LINE_BYTES = 64
FEW_ROWS = 8  # TREE_FEW_ROWS of tree_ensemble.h


class MalformedForest(ValueError):
    """The nodes do not make up trees."""


@dataclass
class Forest:
    """Trees as one array of nodes, inner ones and leaves alike.

    Attributes:
        roots: node number of each tree's root, in the order in which trees add up.
        mode: of each node, LEQ .. MEMBER; -1 at a leaf.
        feature, value, missing: of each node: column of x, threshold, True where NaN makes the test true.
        true, false: of each inner node: node numbers of its children.
        entry_start, entry_count: of each node: its weights, if it is a leaf, in `entry_target` and `entry_weight`.
        members: for each MEMBER node, the values that pass.
    """

    roots: np.ndarray
    mode: np.ndarray
    feature: np.ndarray
    value: np.ndarray
    missing: np.ndarray
    true: np.ndarray
    false: np.ndarray
    entry_start: np.ndarray
    entry_count: np.ndarray
    entry_target: np.ndarray
    entry_weight: np.ndarray
    members: dict[int, np.ndarray] = field(default_factory=dict)


@dataclass
class PackedForest:
    """What the kernel reads; see `tree_ensemble_args` for each array. ``nodes`` of float64 are [nodes, 2] of uint64."""

    nodes: np.ndarray
    roots: np.ndarray
    depths: np.ndarray
    sources: np.ndarray
    members: np.ndarray
    member_keys: np.ndarray
    leaf: int
    weights: np.ndarray
    starts: np.ndarray
    targets_of: np.ndarray

    @property
    def columns(self) -> int:
        """Columns of keys that a row is turned into."""
        return len(self.sources) + len(self.members) + 1

    @property
    def steps(self) -> int:
        """Nodes that a row passes, at most."""
        return int(self.depths.sum())


def keys_of(values: np.ndarray) -> np.ndarray:
    """Floats as unsigned integers of the same order: -0 counts as +0; NaN is not handled."""
    unsigned = np.dtype(f"u{values.dtype.itemsize}")
    bits = np.ascontiguousarray(values + values.dtype.type(0)).view(unsigned)
    top = unsigned.type(1 << (8 * unsigned.itemsize - 1))
    return np.where(bits & top, ~bits, bits | top)


def pack_forest(forest: Forest, dtype: np.dtype, targets: int) -> PackedForest | None:
    """Pack trees for `tree_ensemble_f32` or `_f64`.

    Args:
        forest: the trees.
        dtype: float32 or float64, what values and weights are rounded to.
        targets: sums of each row.

    Returns:
        The arrays, or None where nodes of float32 are too compact for this forest.

    Raises:
        MalformedForest: a node has two parents, or is its own ancestor.
    """
    order, tree, depths = _breadth_first(forest)
    mode, dtype = forest.mode[order], np.dtype(dtype)
    leaves = mode < 0
    columns, keys, sources, members, member_keys = _columns(forest, order, mode, dtype)
    children = _children(~leaves, tree)
    places, size = _placed(children, tree, LINE_BYTES // (2 * dtype.itemsize))
    offsets = _offsets(children, places)
    if dtype == np.float32 and offsets.max(initial=0) >= NARROW_OFFSETS:
        places, size = _placed(children, tree, 2)  # without gaps, and level after level
        offsets = _offsets(children, places)
    if dtype == np.float32 and max(columns.max(initial=0) // NARROW_COLUMNS, offsets.max(initial=0) // NARROW_OFFSETS):
        return None
    keys[leaves], leaf, weights, starts, targets_of = _leaves(forest, order[leaves], dtype, targets)
    packed = _nodes(keys, offsets, columns)
    nodes = np.zeros((size, *packed.shape[1:]), np.uint64)
    nodes[places] = packed
    first = np.searchsorted(tree, np.arange(len(forest.roots)))
    roots = np.append(places[first], size).astype(np.int32)
    return PackedForest(nodes, roots, depths, sources, members, member_keys, leaf, weights, starts, targets_of)


def _breadth_first(forest: Forest) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Node numbers tree after tree, level by level, children beside each other; their trees; each tree's depth."""
    nodes, trees = np.asarray(forest.roots, np.int64), np.arange(len(forest.roots))
    # These tests hold for the larger values (NEQ: for what is no member), so their children change places.
    turned = np.isin(forest.mode, (GTE, GT, NEQ))
    left, right = np.where(turned, forest.false, forest.true), np.where(turned, forest.true, forest.false)
    seen_nodes, seen_trees, inner_nodes = [nodes], [trees], 0
    depths = np.zeros(len(trees), np.int32)
    most = int((forest.mode >= 0).sum())
    for level in range(1, most + 2):
        inner = forest.mode[nodes] >= 0
        inner_nodes += int(inner.sum())
        if inner_nodes > most:
            raise MalformedForest("a node is reached twice")
        if not inner.any():
            break
        parents, trees = nodes[inner], np.repeat(trees[inner], 2)
        nodes = np.stack([left[parents], right[parents]], axis=1).reshape(-1)
        depths[trees] = level
        seen_nodes.append(nodes)
        seen_trees.append(trees)
    order, tree = np.concatenate(seen_nodes), np.concatenate(seen_trees)
    sort = np.argsort(tree, kind="stable")
    order, tree = order[sort], tree[sort]
    parents = order[forest.mode[order] >= 0]
    if len(np.unique(parents)) != len(parents):
        raise MalformedForest("a node is reached twice")
    return order, tree, depths


def _children(inner: np.ndarray, tree: np.ndarray) -> np.ndarray:
    """Each node's first child, 0 for leaves: a tree's n-th inner node has its nodes 2n + 1 and 2n + 2 as children."""
    begin = np.searchsorted(tree, tree)
    rank = np.cumsum(inner) - inner
    rank -= rank[begin]
    return np.where(inner, begin + 2 * rank + 1, 0)


def _offsets(children: np.ndarray, places: np.ndarray) -> np.ndarray:
    """How far on the first child of each node lies; 0 for leaves."""
    return np.where(children > 0, places[children] - places, 0)


def _placed(children: np.ndarray, tree: np.ndarray, line: int) -> tuple[np.ndarray, int]:
    """Where each node goes so that a walk meets few cache lines of `line` nodes, and the number of places.

    The two children of a node stay beside each other. A tree's first line holds a gap, the root and the pairs nearest
    below it; other groups are a pair and the pairs nearest below it, at most a line. Small groups share a line.
    """
    roots = np.flatnonzero(np.diff(tree, prepend=-1))
    groups, owners = [], []
    heads, room = children[roots], line // 2 - 1
    below = _pairs_near(heads[:, None], children, room)
    groups.append(np.pad(below[0], [(0, 0), (0, line // 2 - below[0].shape[1])]))
    owners.append(tree[roots])
    while (waiting := below[1]).any():
        row, column = np.nonzero(waiting)
        owners.append(owners[-1][row])
        below = _pairs_near(waiting[row, column][:, None], children, line // 2)
        groups.append(below[0])
    order = np.argsort(np.concatenate(owners), kind="stable")
    pairs = np.concatenate(groups)[order]
    sizes = 2 * np.count_nonzero(pairs, axis=1)
    begins, end = _begins(sizes, order < len(roots), line)
    places = np.zeros(len(children), np.int64)
    places[roots] = begins[order < len(roots)] + 1
    begins[order < len(roots)] += 2
    row, column = np.nonzero(pairs)
    for side in range(2):
        places[pairs[row, column] + side] = begins[row] + 2 * column + side
    return places, end


def _pairs_near(heads: np.ndarray, children: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """For each row of waiting pairs (0: none) the first `most` met level by level, and what waits after that."""
    taken = np.zeros((len(heads), most), np.int64)
    waiting = heads
    for number in range(most):
        pair = waiting[:, 0]
        taken[:, number] = pair
        further = [np.where(pair > 0, children[pair + side], 0)[:, None] for side in range(2)]
        waiting = np.concatenate([waiting[:, 1:], *further], axis=1)
        waiting = np.take_along_axis(waiting, np.argsort(waiting == 0, axis=1, kind="stable"), axis=1)
    return taken, waiting


def _begins(sizes: np.ndarray, starts_tree: np.ndarray, line: int) -> tuple[np.ndarray, int]:
    """The place where each group begins, none across the end of a line, and the end of the last line."""
    begins, place = [], 0
    for size, first in zip(sizes.tolist(), starts_tree.tolist(), strict=True):
        size += 2 * first
        left = -place % line
        place += left if first or size > left else 0
        begins.append(place)
        place += size
    return np.asarray(begins, np.int64), place + -place % line


def _columns(forest: Forest, order: np.ndarray, mode: np.ndarray, dtype: np.dtype) -> tuple:
    """Each node's column and threshold key; the tables of columns."""
    inner, unsigned = mode >= 0, np.dtype(f"u{dtype.itemsize}")
    ordered = inner & (mode <= GT)
    value, missing = forest.value[order].astype(dtype), forest.missing[order].astype(bool)
    # x >= t and x > t are x < t and x <= t with the children in the other order, so NaN takes the other side as well.
    upper = (mode == GTE) | (mode == GT)
    left = missing ^ upper
    unknown = np.isnan(value)
    keys = keys_of(np.where(unknown, dtype.type(0), value)) - ((mode == LT) | (mode == GTE)).astype(unsigned)
    keys[unknown] = np.where(upper[unknown], unsigned.type(np.iinfo(unsigned).max - 1), unsigned.type(0))
    pairs = 2 * forest.feature[order] + left
    sources, column_of = np.unique(pairs[ordered], return_inverse=True)
    columns = np.zeros(len(order), np.int64)
    columns[ordered] = column_of
    tests: dict[tuple, int] = {}
    for i in np.flatnonzero(inner & ~ordered):
        test = _test(forest, int(order[i]), int(mode[i]), value[i], bool(missing[i]))
        columns[i] = len(sources) + tests.setdefault(test, len(tests))
    keys[inner & ~ordered] = 0
    columns[~inner] = len(sources) + len(tests)
    table = np.stack([sources // 2, sources % 2], axis=1).astype(np.int32)
    return columns, keys, table, *_test_tables(tests, dtype)


def _test(forest: Forest, node: int, mode: int, value: np.floating, missing: bool) -> tuple:
    """A membership test as ``(feature, NaN passes, values that pass)``. NaN is unequal to everything."""
    passing = forest.members[int(node)].astype(value.dtype) if mode == MEMBER else np.asarray([value])
    values = tuple(np.unique(passing[~np.isnan(passing)] + value.dtype.type(0)).tolist())
    return int(forest.feature[node]), missing and mode != NEQ, values


def _test_tables(tests: dict[tuple, int], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    rows: list[tuple[int, int, int, bool]] = []
    values: list[float] = []
    for feature, missing, passing in tests:
        rows.append((feature, len(values), len(values) + len(passing), missing))
        values += passing
    return np.asarray(rows, np.int32).reshape(-1, 4), keys_of(np.asarray(values, dtype))


def _leaves(forest: Forest, leaves: np.ndarray, dtype: np.dtype, targets: int) -> tuple:
    """Each leaf's key, the kind of payload, weights, starts and targets."""
    start, count = forest.entry_start[leaves], forest.entry_count[leaves]
    weight, target = forest.entry_weight.astype(dtype), forest.entry_target
    unsigned = np.dtype(f"u{dtype.itemsize}")
    none = np.zeros(0, np.int32)
    if targets == 1 and (count == 1).all():
        return weight[start].view(unsigned), LEAF_VALUE, np.zeros(0, dtype), none, none
    places = np.repeat(start - np.concatenate([[0], np.cumsum(count)[:-1]]), count) + np.arange(count.sum())
    if (count == targets).all() and (target[places].reshape(-1, targets) == np.arange(targets)).all():
        return np.arange(len(leaves)), LEAF_ROW, weight[places], none, none
    starts = np.concatenate([[0], np.cumsum(count)]).astype(np.int32)
    return np.arange(len(leaves)), LEAF_LIST, weight[places], starts, target[places].astype(np.int32)


def _nodes(keys: np.ndarray, offsets: np.ndarray, columns: np.ndarray) -> np.ndarray:
    if keys.dtype == np.uint64:
        return np.stack([keys, offsets.astype(np.uint64) | columns.astype(np.uint64) << np.uint64(32)], axis=1)
    wide = keys.astype(np.uint64) << np.uint64(16)
    return wide | (4 * columns).astype(np.uint64) | offsets.astype(np.uint64) << np.uint64(48)

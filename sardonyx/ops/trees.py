"""Decision trees (ai.onnx.ml): the attributes become a `Forest`, which is packed once for the kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sardonyx import errors
from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.lower import Lowering
from sardonyx.compiler.program import Kernel, Pointer
from sardonyx.compiler.tensor import Tensor
from sardonyx.kernels import packing_trees as pt
from sardonyx.ops import scores as sc
from sardonyx.ops.node import Node
from sardonyx.ops.registry import operator

if TYPE_CHECKING:
    from sardonyx.compiler.graph import GraphLowering

DOMAIN = "ai.onnx.ml"
MODES = {"BRANCH_LEQ": pt.LEQ, "BRANCH_LT": pt.LT, "BRANCH_GTE": pt.GTE, "BRANCH_GT": pt.GT, "BRANCH_EQ": pt.EQ,
         "BRANCH_NEQ": pt.NEQ, "LEAF": -1}  # fmt: skip
NODE_ATTRIBUTES = ("nodes_treeids", "nodes_nodeids", "nodes_featureids", "nodes_truenodeids", "nodes_falsenodeids")
AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")  # by the numbers that TreeEnsemble gives them
KERNEL_AGGREGATES = {"AVERAGE": 0, "SUM": 0, "MIN": 1, "MAX": 2}


@operator("TreeEnsembleRegressor", domain=DOMAIN)
def tree_ensemble_regressor(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """Sums, averages or extremes of the weights at the leaves that each row falls to."""
    targets = _positive(ctx, node.attr("n_targets", 1), "n_targets")
    forest, dtype = _listed_forest(ctx, node, "target", targets)
    aggregate = node.attr("aggregate_function", "SUM")
    total = _aggregate(ctx, x, forest, dtype, targets, aggregate)
    base = _numbers(node, "base_values")
    if len(base):
        total = _plus(ctx, total, _sized(ctx, base, (targets,), "base_values"))
    return sc.to_dtype(ctx, sc.post_transform(ctx, total, node.attr("post_transform", "NONE")), "float32")


@operator("TreeEnsemble", since=5, domain=DOMAIN)
def tree_ensemble(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """Sums, averages or extremes of the weights at the leaves that each row falls to; leaves are listed apart."""
    targets = _positive(ctx, node.attr("n_targets", 1), "n_targets")
    forest = _split_forest(ctx, node, targets)
    wide = node.attr("leaf_weights").dtype == np.float64 or x.dtype == "float64"
    aggregate = _choice(ctx, AGGREGATES, node.attr("aggregate_function", 1), "aggregate_function")
    total = _aggregate(ctx, x, forest, "float64" if wide else "float32", targets, aggregate)
    transform = _choice(ctx, sc.TRANSFORMS, node.attr("post_transform", 0), "post_transform")
    return sc.to_dtype(ctx, sc.post_transform(ctx, total, transform), x.dtype)


@operator("TreeEnsembleClassifier", domain=DOMAIN)
def tree_ensemble_classifier(ctx: GraphLowering, node: Node, x: Tensor) -> tuple[Tensor | None, Tensor]:
    """The label with the highest sum of weights, and the sums.

    Where all weights are for one class of two, or there is only one class, the sum decides by its sign, or by 0.5 if no
    weight is negative; the score of the other class follows from it.
    """
    labels = node.attr("classlabels_int64s") or node.attr("classlabels_strings")
    if not labels:
        raise errors.ModelError("there are no class labels", node=ctx.node, operator=ctx.operator)
    ids = sorted(set(node.attr("class_ids", [])))
    single = len(labels) <= 2 and len(ids) == 1 and 0 <= ids[0] < len(labels)
    count = 1 if single else len(labels)
    forest, dtype = _listed_forest(ctx, node, "class", len(labels))
    if single:
        forest.entry_target = np.zeros_like(forest.entry_target)
    total = _aggregate(ctx, x, forest, dtype, count, "SUM")
    base = _numbers(node, "base_values")
    if len(base):
        base = _sized(ctx, base, (1, 2) if single else (count,), "base_values")
        total = _plus(ctx, total, base[ids[0] :][:1] if single and len(base) == 2 else base)
    transform = node.attr("post_transform", "NONE")
    if single:
        label, scores = _two_classes(ctx, total, labels, ids[0], transform, bool((forest.entry_weight >= 0).all()))
    else:
        index = sc.best_class(ctx, total)
        label, scores = index, sc.post_transform(ctx, total, transform)
    scores = sc.to_dtype(ctx, scores, "float32")
    if not node.wants(0):
        return None, scores
    # One label: 0 and 1 say whether it holds.
    known = labels if len(labels) > 1 else [0, 1] if isinstance(labels[0], int) else ["", labels[0]]
    return sc.label_of(ctx, node, label, known), scores


def _two_classes(ctx: Lowering, total: Tensor, labels: list, only: int, transform: str, positive: bool) -> tuple:
    """Which of two classes holds, and the scores, where only class `only` has weights."""
    ctx.cheap(total)
    rows, dtype = total.shape[0], total.dtype
    level = 0.5 if positive and len(labels) == 2 else 0.0
    index = ctx.lazy("int64", (rows,), lambda i: ex.cast(total.at((i[0], 0)) > level, "int64"), sources=[total], cost=2)
    if len(labels) == 1:
        return index, sc.post_transform(ctx, total, transform) if transform == "PROBIT" else total

    def other(value: ex.Expr) -> ex.Expr:
        if only == 1:
            return ex.constant(0, dtype)
        return 1.0 - value if transform == "PROBIT" or (positive and transform == "NONE") else -value

    rest = ctx.lazy(dtype, (rows, 1), lambda i: other(total.at(i)), sources=[total], cost=1)
    return index, sc.post_transform(ctx, sc.stacked(ctx, [rest, total]), transform)


# The kernel.


def _aggregate(ctx: Lowering, x: Tensor, forest: pt.Forest, dtype: str, targets: int, aggregate: str) -> Tensor:
    """What the trees make of each row of `x`: [rows, targets] of float32 or float64.

    float32 features meet thresholds and weights of float32; all others are computed in float64.
    """
    if aggregate not in AGGREGATES:
        raise errors.ModelError(f"aggregate_function '{aggregate}'", node=ctx.node, operator=ctx.operator)
    x = sc.as_matrix(ctx, x)
    _check_features(ctx, x, forest)
    forest.value, forest.entry_weight = forest.value.astype(dtype), forest.entry_weight.astype(dtype)
    narrow = dtype == "float32" and x.dtype in ("float32", "float16", "bfloat16")
    try:
        packed = pt.pack_forest(forest, np.dtype(np.float32), targets) if narrow else None
        kind = "float32" if packed is not None else "float64"
        packed = packed or pt.pack_forest(forest, np.dtype(np.float64), targets)
    except pt.MalformedForest as problem:
        raise _wrong(ctx, str(problem)) from None
    assert packed is not None
    buffer = ctx.temporary(kind, x.shape[0] * targets)
    fields: dict[str, Any] = {"x": ctx.pointer(sc.to_dtype(ctx, x, kind)), "y": Pointer(buffer)}
    fields |= {"rows": x.shape[0], "features": x.shape[1], "targets": targets}
    fields |= {"aggregate": KERNEL_AGGREGATES[aggregate], **_tables(ctx, packed)}
    few = ix.imin(x.shape[0], pt.FEW_ROWS)
    leaves = ctx.temporary("uint32" if kind == "float32" else "uint64", few * max(len(packed.depths), 1))
    fields |= {"leaves": Pointer(leaves)}
    suffix = "f32" if kind == "float32" else "f64"
    ctx.emit(Kernel(f"tree_leaves_{suffix}", fields, (leaves,)))
    ctx.emit(Kernel(f"tree_ensemble_{suffix}", fields, (buffer,)))
    total = ctx.in_memory(buffer, (x.shape[0], targets))
    if aggregate == "AVERAGE" and len(forest.roots):
        count = len(forest.roots)
        mean = ctx.lazy(kind, total.shape, lambda i: total.at(i) / float(count), sources=[total], cost=1)
        return sc.to_dtype(ctx, mean, dtype)
    return sc.to_dtype(ctx, total, dtype)


def _tables(ctx: Lowering, packed: pt.PackedForest) -> dict[str, Any]:
    """The fields of the kernel's arguments that the forest alone determines."""
    arrays = {"nodes": packed.nodes, "roots": packed.roots, "depths": packed.depths, "sources": packed.sources,
              "members": packed.members, "member_keys": packed.member_keys, "weights": packed.weights,
              "starts": packed.starts, "targets_of": packed.targets_of}  # fmt: skip
    fields: dict[str, Any] = {name: _constant(ctx, array) for name, array in arrays.items()}
    sizes = {"trees": len(packed.depths), "columns": packed.columns, "tests": len(packed.members), "leaf": packed.leaf,
             "steps": packed.steps}  # fmt: skip
    return fields | sizes


def _constant(ctx: Lowering, array: np.ndarray) -> Pointer | None:
    return Pointer(ctx.constant_buffer(array, str(array.dtype))) if array.size else None


def _check_features(ctx: Lowering, x: Tensor, forest: pt.Forest) -> None:
    inner = forest.feature[forest.mode >= 0]
    if inner.min(initial=0) < 0:
        raise _wrong(ctx, "a feature number is negative")
    most = int(inner.max(initial=-1))
    ctx.check(ex.index(x.shape[1]) > most, "shape", f"a tree reads feature {most}, which the input does not have")


def _plus(ctx: Lowering, total: Tensor, base: np.ndarray) -> Tensor:
    added = ctx.constant(base.astype(total.dtype))
    return ctx.lazy(total.dtype, total.shape, lambda i: total.at(i) + added.at((i[1],)), sources=[total], cost=1)


# Attributes.


def _wrong(ctx: Lowering, problem: str) -> errors.ModelError:
    return errors.ModelError(problem, node=ctx.node, operator=ctx.operator, hint="check the node's attributes")


def _positive(ctx: Lowering, value: int, name: str) -> int:
    if value < 1:
        raise _wrong(ctx, f"{name} is {value}")
    return value


def _choice(ctx: Lowering, names: tuple[str, ...], number: int, attribute: str) -> str:
    if not 0 <= number < len(names):
        raise _wrong(ctx, f"{attribute} is {number}")
    return names[number]


def _sized(ctx: Lowering, values: np.ndarray, sizes: tuple[int, ...], name: str) -> np.ndarray:
    if len(values) not in sizes:
        raise _wrong(ctx, f"{name} has {len(values)} elements, expected {' or '.join(map(str, sizes))}")
    return values


def _numbers(node: Node, name: str) -> np.ndarray:
    """A list of floats, or the tensor attribute that stands for it."""
    values = node.attr(f"{name}_as_tensor")
    if values is not None and values.size:
        return np.asarray(values).reshape(-1)
    return np.asarray(node.attr(name) or [], np.float32)


def _same_length(ctx: Lowering, arrays: dict[str, np.ndarray]) -> None:
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise _wrong(ctx, f"attributes of different lengths: {lengths}")


def _flags(node: Node, name: str, count: int) -> np.ndarray:
    """0 or 1 for each node; the attribute may be left out."""
    values = node.attr(name)
    given = np.asarray([] if values is None else values, np.int64)
    return given if len(given) else np.zeros(count, np.int64)


def _listed_forest(ctx: Lowering, node: Node, leaf: str, targets: int) -> tuple[pt.Forest, str]:
    """The forest of TreeEnsembleClassifier (`leaf` is "class") and -Regressor ("target"), and its dtype."""
    ids = {name: np.asarray(node.attr(name) or [], np.int64) for name in NODE_ATTRIBUTES}
    values, modes = _numbers(node, "nodes_values"), _modes(ctx, node.attr("nodes_modes") or [])
    missing = _flags(node, "nodes_missing_value_tracks_true", len(modes))
    _same_length(ctx, ids | {"nodes_values": values, "nodes_modes": modes, "nodes_missing_value_tracks_true": missing})
    trees, roots, tree = np.unique(ids["nodes_treeids"], return_index=True, return_inverse=True)
    known, number = np.unique(ids["nodes_nodeids"], return_inverse=True)
    find = _Finder(ctx, tree * len(known) + number)
    inner = modes >= 0
    children = [np.zeros(len(modes), np.int64) for _ in range(2)]
    for child, name in zip(children, ("nodes_truenodeids", "nodes_falsenodeids"), strict=True):
        child[inner] = find(tree[inner] * len(known) + _ranks(ctx, known, ids[name][inner]))
    entry_ids = {name: np.asarray(node.attr(name) or [], np.int64)
                 for name in (f"{leaf}_treeids", f"{leaf}_nodeids", f"{leaf}_ids")}  # fmt: skip
    weights = _numbers(node, f"{leaf}_weights")
    _same_length(ctx, entry_ids | {f"{leaf}_weights": weights})
    target = entry_ids[f"{leaf}_ids"]
    if len(target) and not (target.min() >= 0 and target.max() < targets):
        raise _wrong(ctx, f"{leaf}_ids are not within 0 .. {targets - 1}")
    owner = find(_ranks(ctx, trees, entry_ids[f"{leaf}_treeids"]) * len(known)
                 + _ranks(ctx, known, entry_ids[f"{leaf}_nodeids"]))  # fmt: skip
    order = np.argsort(owner, kind="stable")
    count = np.bincount(owner, minlength=len(modes))
    forest = pt.Forest(
        roots=roots, mode=modes, feature=ids["nodes_featureids"], value=values, missing=missing,
        true=children[0], false=children[1], entry_start=np.cumsum(count) - count, entry_count=count,
        entry_target=target[order], entry_weight=weights[order],
    )  # fmt: skip
    wide = any(array.dtype == np.float64 for array in (values, weights, _numbers(node, "base_values")))
    return forest, "float64" if wide else "float32"


def _modes(ctx: Lowering, names: list[str]) -> np.ndarray:
    try:
        return np.asarray([MODES[name] for name in names], np.int8)
    except KeyError as unknown:
        raise _wrong(ctx, f"there is no node mode {unknown}") from None


class _Finder:
    """Positions of keys in a list of distinct ones."""

    def __init__(self, ctx: Lowering, keys: np.ndarray):
        self.ctx = ctx
        self.order = np.argsort(keys, kind="stable")
        self.sorted = keys[self.order]
        if (self.sorted[1:] == self.sorted[:-1]).any():
            raise _wrong(ctx, "two nodes of a tree have one number")

    def __call__(self, keys: np.ndarray) -> np.ndarray:
        return self.order[_ranks(self.ctx, self.sorted, keys)]


def _ranks(ctx: Lowering, known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Positions in the sorted array `known`; ModelError where one is missing."""
    if not len(known) and len(wanted):
        raise _wrong(ctx, "a tree refers to a node that it does not have")
    found = np.minimum(np.searchsorted(known, wanted), max(len(known) - 1, 0))
    if len(wanted) and (known[found] != wanted).any():
        raise _wrong(ctx, "a tree refers to a node that it does not have")
    return found


def _split_forest(ctx: Lowering, node: Node, targets: int) -> pt.Forest:
    """The forest of TreeEnsemble, whose leaves are numbered behind its inner nodes."""
    features = np.asarray(node.attr("nodes_featureids") or [], np.int64)
    count = len(features)
    modes, splits = np.asarray(node.attr("nodes_modes")), np.asarray(node.attr("nodes_splits"))
    weights, target = node.attr("leaf_weights"), np.asarray(node.attr("leaf_targetids") or [], np.int64)
    children = {}
    for side in ("true", "false"):
        ids, is_leaf = (np.asarray(node.attr(f"nodes_{side}{what}") or [], np.int64) for what in ("nodeids", "leafs"))
        _same_length(ctx, {"nodes_featureids": features, f"nodes_{side}nodeids": ids, f"nodes_{side}leafs": is_leaf})
        _within(ctx, ids[is_leaf == 0], count, f"nodes_{side}nodeids")
        _within(ctx, ids[is_leaf != 0], len(weights), f"nodes_{side}nodeids")
        children[side] = np.concatenate([ids + count * (is_leaf != 0), np.zeros(len(weights), np.int64)])
    missing = _flags(node, "nodes_missing_value_tracks_true", count)
    _same_length(ctx, {"nodes_featureids": features, "nodes_modes": modes, "nodes_splits": splits, "missing": missing})
    _same_length(ctx, {"leaf_targetids": target, "leaf_weights": weights})
    roots = np.asarray(node.attr("tree_roots") or [], np.int64)
    _within(ctx, modes, len(pt.MODES), "nodes_modes")
    _within(ctx, roots, count, "tree_roots")
    _within(ctx, target, targets, "leaf_targetids")

    def padded(array: np.ndarray, fill: int = 0) -> np.ndarray:
        return np.concatenate([array, np.full(len(weights), fill, array.dtype)])

    leaf = np.arange(count + len(weights)) >= count
    return pt.Forest(
        roots=roots, mode=padded(modes.astype(np.int8), -1), feature=padded(features), value=padded(splits),
        missing=padded(missing), true=children["true"], false=children["false"],
        entry_start=np.where(leaf, np.arange(len(leaf)) - count, 0), entry_count=leaf.astype(np.int64),
        entry_target=target, entry_weight=np.asarray(weights), members=_members(ctx, node, modes),
    )  # fmt: skip


def _within(ctx: Lowering, values: np.ndarray, size: int, name: str) -> None:
    if len(values) and not (values.min() >= 0 and values.max() < size):
        raise _wrong(ctx, f"{name} are not within 0 .. {size - 1}")


def _members(ctx: Lowering, node: Node, modes: np.ndarray) -> dict[int, np.ndarray]:
    """The set of each membership node: the parts of `membership_values` between NaNs, in the order of the nodes."""
    owners = np.flatnonzero(modes == pt.MEMBER)
    values = np.asarray(node.attr("membership_values", np.zeros(0, np.float32)))
    ends = np.flatnonzero(np.isnan(values))
    if len(ends) < len(owners):
        raise _wrong(ctx, f"{len(owners)} membership nodes, but membership_values ends {len(ends)} sets")
    starts = np.concatenate([[0], ends + 1])
    return {int(owner): values[starts[i] : ends[i]] for i, owner in enumerate(owners)}

"""What operators do with axes: which index of an input belongs to which index of an output.

A rule says by `Flow.tie` which axes correspond. An axis that it does not name is one that the operator works along, and
keeps its size. Operators that are not in the table keep all sizes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from sardonyx.model.schemas import version_of
from sardonyx.ops.node import Node
from sardonyx.optimizer.prune.flow import Flow, Rule
from sardonyx.optimizer.prune.sizes import is_size_only

__all__ = ["RULES", "attribute", "known", "sliced"]

RULES: dict[str, Rule] = {}
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Enter a rule for operators of the standard's domain."""

    def enter(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, function))
        return function

    return enter


def attribute(node: ir.Node, name: str, default: object = None) -> object:
    """An attribute as a Python value."""
    return Node(node, 0).attr(name, default)


def number(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute."""
    value = attribute(node, name, default)
    assert isinstance(value, int)
    return value


def known(flow: Flow, node: ir.Node, position: int, name: str | None = None) -> np.ndarray | None:
    """Input `position` if its value is known, or else the attribute that older versions have in its place."""
    if position < len(node.inputs) and node.inputs[position] is not None:
        value = node.inputs[position]
        return None if value is None else flow.shapes.known.get(value)
    written = attribute(node, name) if name is not None else None
    return None if written is None else np.asarray(written)


def rank(flow: Flow, value: ir.Value | None) -> int:
    shape = flow.shape(value)
    return 0 if shape is None else len(shape)


def same(flow: Flow, x: ir.Value | None, y: ir.Value, *, but: set[int] | None = None) -> None:
    """The axes of x and y are the same, aligned at the last one, except those of y in `but`."""
    shift = rank(flow, y) - rank(flow, x)
    for axis in range(max(shift, 0), rank(flow, y)):
        if but is None or axis not in but:
            flow.tie(x, axis - shift, y, axis)


UNARY = """
    Abs Acos Acosh Asin Asinh Atan Atanh Cast Ceil Celu Clip Cos Cosh Dropout Elu Erf Exp Floor Gelu HardSigmoid
    HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh
    Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu
"""
BROADCAST = """
    Add And BitShift Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or PRelu Pow Sub Sum
    Where Xor
"""


@rule(*UNARY.split(), *BROADCAST.split())
def elementwise(flow: Flow, node: ir.Node) -> None:
    """Operands are broadcast; bounds and the like are scalars and have no axes."""
    for value in node.inputs:
        same(flow, value, node.outputs[0])


@rule("Expand")
def expand(flow: Flow, node: ir.Node) -> None:
    """As an element-wise operator; the shape is rewritten afterwards."""
    same(flow, node.inputs[0], node.outputs[0])


# Products.


@rule("Conv")
def conv(flow: Flow, node: ir.Node) -> None:
    """Output channels are the first axis of the weights; inputs the second, within their group."""
    x, w, *bias = node.inputs
    y, groups, shape = node.outputs[0], number(node, "group", 1), flow.shape(w)
    assert w is not None
    assert shape is not None
    flow.tie(w, 0, y, 1)
    flow.tie(x, 0, y, 0)
    if bias:
        flow.tie(bias[0], 0, w, 0)
    outputs, inner = shape[:2]
    each = outputs // groups
    if groups == 1:
        flow.tie(w, 1, x, 1)
    elif groups >= inner and x is not None:  # many small groups (depthwise): whole groups go
        flow.tie(x, 1, w, 0, np.arange(outputs) // each * inner)
        flow.merge(x, 1, np.arange(groups * inner) // inner)
        flow.merge(w, 0, np.arange(outputs) // each)
    else:  # few large ones: the same channel of every group
        flow.merge(w, 0, np.arange(outputs) % each)
        flow.tie(w, 1, x, 1, np.arange(groups * inner) % inner)


@rule("ConvTranspose")
def conv_transpose(flow: Flow, node: ir.Node) -> None:
    """Weights are [inputs, outputs of a group, ...]; of the grouped ones, depthwise is known."""
    x, w, *bias = node.inputs
    y, groups, shape = node.outputs[0], number(node, "group", 1), flow.shape(w)
    assert shape is not None
    if groups == 1:
        flow.tie(w, 1, y, 1)
    elif shape[0] == groups and shape[1] == 1:
        flow.tie(w, 0, y, 1)
    else:
        return
    flow.tie(x, 0, y, 0)
    flow.tie(w, 0, x, 1)
    if bias:
        flow.tie(bias[0], 0, y, 1)


@rule("Gemm")
def gemm(flow: Flow, node: ir.Node) -> None:
    """Rows of A are rows of Y, columns of B its columns, and what is summed over goes together."""
    a, b, *c = node.inputs
    y, ta, tb = node.outputs[0], number(node, "transA", 0), number(node, "transB", 0)
    flow.tie(a, 0 if ta else 1, b, 1 if tb else 0)
    flow.tie(a, 1 if ta else 0, y, 0)
    flow.tie(b, 0 if tb else 1, y, 1)
    if c:
        same(flow, c[0], y)


@rule("MatMul")
def matmul(flow: Flow, node: ir.Node) -> None:
    """The same for stacks of matrices."""
    a, b = node.inputs
    y = node.outputs[0]
    if rank(flow, a) < 2 or rank(flow, b) < 2:
        return
    flow.tie(a, -1, b, -2)
    flow.tie(a, -2, y, -2)
    flow.tie(b, -1, y, -1)
    last = {rank(flow, y) - 1, rank(flow, y) - 2}
    same(flow, a, y, but=last)
    same(flow, b, y, but=last)


@rule("Einsum")
def einsum(flow: Flow, node: ir.Node) -> None:
    """Axes with the same letter are the same."""
    equation = str(attribute(node, "equation")).replace(" ", "")
    left, arrow, right = equation.partition("->")
    if not arrow or "." in equation:
        return
    first: dict[str, tuple[ir.Value | None, int]] = {}
    for value, letters in zip([*node.inputs, node.outputs[0]], [*left.split(","), right], strict=True):
        for axis, letter in enumerate(letters):
            flow.tie(*first.setdefault(letter, (value, axis)), value, axis)


@rule("LSTM", "GRU", "RNN")
def recurrent(flow: Flow, node: ir.Node) -> None:
    """A hidden unit is a row of every gate, a column of the recurrent weights and an entry of the state."""
    x, w, r, b, _, *states = [*node.inputs, *[None] * 8][:8]
    shape = flow.shape(r)
    assert shape is not None
    hidden = shape[2]
    rows = np.arange(GATES[node.op_type] * hidden) % hidden
    flow.tie(x, 2, w, 2)
    flow.tie(r, 2, w, 1, rows)
    flow.tie(r, 2, r, 1, rows)
    flow.tie(r, 2, b, 1, np.tile(rows, 2))
    for state in states[:2]:
        flow.tie(r, 2, state, 2)
    flow.tie(r, 2, states[2], 1, np.arange(3 * hidden) % hidden)
    for output in node.outputs:
        if output.name:
            flow.tie(r, 2, output, -1)


# Normalisation, pooling, reduction.


@rule("BatchNormalization")
def batch_normalization(flow: Flow, node: ir.Node) -> None:
    """A number of each kind for each channel."""
    same(flow, node.inputs[0], node.outputs[0])
    for value in node.inputs[1:]:
        flow.tie(value, 0, node.outputs[0], 1)


@rule("InstanceNormalization")
def instance_normalization(flow: Flow, node: ir.Node) -> None:
    """Over the plane of each channel."""
    same(flow, node.inputs[0], node.outputs[0], but=set(range(2, rank(flow, node.outputs[0]))))
    for value in node.inputs[1:]:
        flow.tie(value, 0, node.outputs[0], 1)


@rule("LayerNormalization")
def layer_normalization(flow: Flow, node: ir.Node) -> None:
    """Over the last axes: whoever is removed there changes the mean and variance of the others."""
    x, y = node.inputs[0], node.outputs[0]
    if any(output.name and output.uses() for output in node.outputs[1:]):
        return
    axis = number(node, "axis", -1) % max(rank(flow, y), 1)
    over = set(range(axis, rank(flow, y)))
    if not flow.through_normalization:
        for each in over:
            flow.keep(x, each, f"node {node.name!r} normalises over this axis")
            flow.keep(y, each, f"node {node.name!r} normalises over this axis")
        same(flow, x, y, but=over)
        return
    for value in (x, *node.inputs[1:]):
        same(flow, value, y)


POOLS = "AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool"


@rule(*POOLS.split())
def pool(flow: Flow, node: ir.Node) -> None:
    """Channel by channel."""
    if not any(output.name and output.uses() for output in node.outputs[1:]):  # indices count channels, too
        for axis in (0, 1):
            flow.tie(node.inputs[0], axis, node.outputs[0], axis)


@rule("Softmax", "LogSoftmax", "Hardmax")
def softmax(flow: Flow, node: ir.Node) -> None:
    """Over one axis, or over all from that one on before opset 13."""
    y = node.outputs[0]
    modern = version_of(node, flow.model.opset_imports) >= 13
    axis = number(node, "axis", -1 if modern else 1) % max(rank(flow, y), 1)
    same(flow, node.inputs[0], y, but={axis} if modern else set(range(axis, rank(flow, y))))


@rule("LRN")
def lrn(flow: Flow, node: ir.Node) -> None:
    """Across channels."""
    same(flow, node.inputs[0], node.outputs[0], but={1})


REDUCE = "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare"


@rule(*(f"Reduce{name}" for name in REDUCE.split()))
def reduce(flow: Flow, node: ir.Node) -> None:
    """The axes that are left."""
    axes = known(flow, node, 1, "axes")
    _reduced(flow, node, [] if axes is None else axes.tolist())


@rule("ArgMax", "ArgMin")
def arg_reduce(flow: Flow, node: ir.Node) -> None:
    """The axes that are left."""
    _reduced(flow, node, [number(node, "axis", 0)])


def _reduced(flow: Flow, node: ir.Node, axes: list[int]) -> None:
    x, y = node.inputs[0], node.outputs[0]
    over = {axis % rank(flow, x) for axis in axes}
    left = [axis for axis in range(rank(flow, x)) if axis not in over]
    for number_, axis in enumerate(left if over else []):
        flow.tie(x, axis, y, axis if number(node, "keepdims", 1) else number_)


# Movement.


@rule("Transpose")
def transpose(flow: Flow, node: ir.Node) -> None:
    """Axes in another order."""
    x, y = node.inputs[0], node.outputs[0]
    perm = attribute(node, "perm", list(range(rank(flow, x)))[::-1])
    assert isinstance(perm, list)
    for j, i in enumerate(perm):
        flow.tie(x, i, y, j)


@rule("Concat")
def concat(flow: Flow, node: ir.Node) -> None:
    """Each input has its stretch of the joined axis."""
    y = node.outputs[0]
    axis, start = number(node, "axis", 0) % max(rank(flow, y), 1), 0
    size = (flow.shape(y) or ())[axis]
    for x in node.inputs:
        width = (flow.shape(x) or ())[axis]
        where = np.full(size, -1)
        where[start : start + width] = np.arange(width)
        flow.tie(x, axis, y, axis, where)
        same(flow, x, y, but={axis})
        start += width


@rule("Split")
def split(flow: Flow, node: ir.Node) -> None:
    """Each output has its stretch of the axis."""
    x, start = node.inputs[0], 0
    axis = number(node, "axis", 0) % max(rank(flow, x), 1)
    for y in node.outputs:
        width = (flow.shape(y) or ())[axis]
        flow.tie(x, axis, y, axis, start + np.arange(width))
        same(flow, x, y, but={axis})
        start += width


def sliced(flow: Flow, node: ir.Node) -> dict[int, range] | None:
    """For each axis that a Slice cuts, the indices that it takes; None: they depend on data."""
    shape = flow.shape(node.inputs[0])
    starts, ends = known(flow, node, 1, "starts"), known(flow, node, 2, "ends")
    if starts is None or ends is None or shape is None:
        return None
    axes, steps = known(flow, node, 3, "axes"), known(flow, node, 4)
    if (axes is None and len(node.inputs) > 3 and node.inputs[3] is not None) or (
        steps is None and len(node.inputs) > 4 and node.inputs[4] is not None
    ):
        return None
    axes = np.arange(len(starts)) if axes is None else axes
    steps = np.ones(len(starts), int) if steps is None else steps
    cuts: dict[int, range] = {}
    for start, end, axis, step in zip(starts.tolist(), ends.tolist(), axes.tolist(), steps.tolist(), strict=True):
        size = shape[axis % len(shape)]
        if step < 0 and end < -size:
            end = None
        cuts[axis % len(shape)] = range(size)[start:end:step]
    return cuts


@rule("Slice")
def slice_(flow: Flow, node: ir.Node) -> None:
    """A stretch of some axes; every second index, or backwards, is not followed."""
    x, y, cuts = node.inputs[0], node.outputs[0], sliced(flow, node)
    if cuts is None:
        return
    for axis, taken in cuts.items():
        if taken.step == 1:
            flow.tie(x, axis, y, axis, np.array(taken, int))
    same(flow, x, y, but=set(cuts))


@rule("Gather")
def gather(flow: Flow, node: ir.Node) -> None:
    """Indices that are a constant list may lose some; all other axes are as they were."""
    x, indices = node.inputs
    y = node.outputs[0]
    axis, more = number(node, "axis", 0) % max(rank(flow, x), 1), rank(flow, indices) - 1
    for i in range(rank(flow, x)):
        if i != axis:
            flow.tie(x, i, y, i if i < axis else i + more)
    values = known(flow, node, 1)
    if values is not None and values.ndim == 1:
        flow.tie(x, axis, y, axis, values % (flow.shape(x) or ())[axis])
        return
    for i in range(rank(flow, indices)):
        flow.tie(indices, i, y, axis + i)


@rule("Pad")
def pad(flow: Flow, node: ir.Node) -> None:
    """Axes that get nothing added."""
    x, y = node.inputs[0], node.outputs[0]
    pads, axes = known(flow, node, 1, "pads"), known(flow, node, 3)
    if pads is None:
        return
    axes = np.arange(rank(flow, x)) if axes is None else axes
    both = pads.reshape(2, -1)
    same(flow, x, y, but={int(axis) % rank(flow, x) for axis, more in zip(axes, both.T, strict=True) if more.any()})


@rule("Resize", "Upsample")
def resize(flow: Flow, node: ir.Node) -> None:
    """Axes that keep their size."""
    same(flow, node.inputs[0], node.outputs[0])


@rule("DepthToSpace", "SpaceToDepth")
def blocks(flow: Flow, node: ir.Node) -> None:
    """A channel of the wide planes is block² channels of the deep ones."""
    x, y = node.inputs[0], node.outputs[0]
    wide, deep = (y, x) if node.op_type == "DepthToSpace" else (x, y)
    channels, size = (flow.shape(wide) or ())[1], (flow.shape(deep) or ())[1]
    rows_first = node.op_type == "DepthToSpace" and attribute(node, "mode", "DCR") == "CRD"
    where = np.arange(size) // (size // channels) if rows_first else np.arange(size) % channels
    flow.tie(wide, 1, deep, 1, where)
    flow.tie(x, 0, y, 0)


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(flow: Flow, node: ir.Node) -> None:
    """Elements keep their order: axes that are joined or split go together block by block."""
    x, y = node.inputs[0], node.outputs[0]
    a, b = flow.shape(x), flow.shape(y)
    if x is None or a is None or b is None or 0 in a:
        return
    for left, right in _blocks(a, b):
        pairs = [(x, i, left, y, right) for i in flow.labelled(x) & set(left)]
        pairs += [(y, j, right, x, left) for j in flow.labelled(y) & set(right)]
        done: set[tuple[ir.Value, int]] = set()
        for u, i, mine, v, theirs in pairs:
            j, where = _followed(flow, u, i, mine, v, theirs)
            if where is not None:
                flow.tie(u, i, v, j, where)
                done |= {(u, i), (v, j)}
        for u, i, mine, v, theirs in pairs:
            if (u, i) not in done:
                _halve(flow, node, u, i, mine, v, theirs)


def _blocks(a: tuple[int, ...], b: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """The shortest runs of axes of both shapes that hold the same number of elements."""
    found, i, j = [], 0, 0
    while i < len(a) and j < len(b):
        left, right, m, n = [i], [j], a[i], b[j]
        i, j = i + 1, j + 1
        while m != n:
            if m < n:
                left, m, i = [*left, i], m * a[i], i + 1
            else:
                right, n, j = [*right, j], n * b[j], j + 1
        # Axes of size 1 join in, lest 768 -> 1, 768 ends with the 1.
        if j < len(b) and b[j] > 1 and i < len(a) and a[i] == 1:
            i += 1
        if i < len(a) and a[i] > 1 and j < len(b) and b[j] == 1:
            j += 1
        found.append((left, right))
    return found


def _followed(
    flow: Flow, u: ir.Value, i: int, mine: list[int], v: ir.Value, theirs: list[int]
) -> tuple[int, np.ndarray | None]:
    """The one axis of v along which the index of axis i of u changes, and that index; None: there are several."""
    coordinates = _coordinates(flow, u, i, mine).reshape([(flow.shape(v) or ())[j] for j in theirs])
    varies = [k for k in range(len(theirs)) if (np.diff(coordinates, axis=k) != 0).any()]
    if len(varies) > 1:
        return -1, None
    k = varies[0] if varies else 0
    return theirs[k], np.moveaxis(coordinates, k, 0).reshape(coordinates.shape[k], -1)[:, 0]


def _coordinates(flow: Flow, value: ir.Value, axis: int, block: list[int]) -> np.ndarray:
    """For each element of a block of axes its index along one of them."""
    sizes = [(flow.shape(value) or ())[k] for k in block]
    return np.broadcast_to(np.indices(sizes, sparse=True)[block.index(axis)], sizes)


def _halve(flow: Flow, node: ir.Node, u: ir.Value, i: int, mine: list[int], v: ir.Value, theirs: list[int]) -> None:
    """An axis is split into two: what is removed is an index of one of them (a head), in all of the other."""
    sizes = [(flow.shape(v) or ())[j] for j in theirs]
    wide = [j for j, size in zip(theirs, sizes, strict=True) if size > 1]
    j = wide[-1] if node.name in flow.inner else wide[0]
    mine_sizes = [(flow.shape(u) or ())[k] for k in mine]
    ids = _coordinates(flow, v, j, theirs).reshape(mine_sizes)
    ids = np.moveaxis(ids, mine.index(i), 0).reshape(mine_sizes[mine.index(i)], -1)
    if (ids != ids[:, :1]).any():
        return
    flow.splits[str(node.name)] = flow.units(u, i)
    flow.merge(u, i, ids[:, 0])
    flow.tie(v, j, u, i, ids[:, 0])


@rule("Shape")
def shape(flow: Flow, node: ir.Node) -> None:
    """A size that changes may be read as a size only: what is made with it is checked after the removal."""
    x, counted = node.inputs[0], flow.shapes.known.get(node.outputs[0])
    if x is None or counted is None:
        return
    axes = list(range(rank(flow, x)))[number(node, "start", 0) : number(node, "end", rank(flow, x))]
    for axis in flow.labelled(x):
        changed = np.array([each == axis for each in axes])
        if is_size_only(flow, node.outputs[0], changed):
            flow.tie(x, axis, x, axis)

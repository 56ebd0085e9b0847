"""Shapes, slices, joins, padding, and constants."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from sardonyx.converters.building import static_shape
from sardonyx.converters.mxnet_files import Node
from sardonyx.converters.mxnet_graph import Graph, axis_of, like, need_rank, operator, sizes
from sardonyx.converters.mxnet_ops.arithmetic import as_dtype

_FAR = np.iinfo(np.int64).max

# A size of a new shape: a number, -1, or the product of sizes of the old one over a number.
Size = int | tuple[tuple[int, ...], int]


@operator("Reshape", "reshape", "_np_reshape")
def reshape(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """With MXNet's codes: 0 the same, -1 what is left, -2 all that follow, -3 two as one, -4 one as two."""
    codes = node.ints("shape") or node.ints("newshape")
    if not codes:  # before version 0.9; 0 is what is left there
        codes = [-1 if size == 0 else size for size in node.ints("target_shape")]
        codes = [0, *codes[1:]] if node.flag("keep_highest") else codes
    dims = list(range(need_rank(node, x)))
    known = sizes(x)
    backwards = node.flag("reverse")
    if backwards:
        codes, dims = codes[::-1], dims[::-1]
    found = _decoded(node, codes, dims, known)
    return reshaped(c, x, found[::-1] if backwards else found)


def _decoded(node: Node, codes: Sequence[int], dims: Sequence[int], known: Sequence[int | None]) -> list[Size]:
    found: list[Size] = []
    at = i = 0
    try:
        while i < len(codes):
            code = codes[i]
            if code == 0:
                found.append(((dims[at],), 1))
                at += 1
            elif code == -2:
                found += [((dim,), 1) for dim in dims[at:]]
                at = len(dims)
            elif code == -3:
                found.append(((dims[at], dims[at + 1]), 1))
                at += 2
            elif code == -4:
                a, b = codes[i + 1], codes[i + 2]
                whole = dims[at]
                parts: list[Size] = [((whole,), b) if a == -1 else a, ((whole,), a) if b == -1 else b]
                found += parts
                at, i = at + 1, i + 2
            else:
                found.append(code)
                at += 1
            i += 1
    except IndexError:
        raise node.refuse(f"shape {list(codes)} does not fit {len(dims)} dimensions") from None
    return [_number(each, known) for each in found]


def _number(size: Size, known: Sequence[int | None]) -> Size:
    """A size as a number, where those that it is made of are known."""
    if isinstance(size, int):
        return size
    parts = [known[dim] for dim in size[0]]
    return size if None in parts else math.prod(part or 0 for part in parts) // max(1, size[1])


def reshaped(c: Graph, x: ir.Value, wanted: Sequence[Size]) -> ir.Value:
    """`x` in a shape; sizes that are not known are copied (0), inferred (-1) or computed."""
    numbers: list[int] = []
    for position, size in enumerate(wanted):
        if isinstance(size, int):
            numbers.append(size)
        elif size == ((position,), 1):
            numbers.append(0)
        elif -1 not in numbers and -1 not in wanted[position:]:
            numbers.append(-1)
        else:
            return c.b.op("Reshape", x, _computed(c, x, wanted))
    return c.b.op("Reshape", x, np.array(numbers, np.int64))


def _computed(c: Graph, x: ir.Value, wanted: Sequence[Size]) -> ir.Value:
    shape, parts = c.b.op("Shape", x), []
    for size in wanted:
        if isinstance(size, int):
            parts.append(c.b.constant(np.array([size], np.int64)))
            continue
        part = c.b.op("ReduceProd", c.b.op("Gather", shape, np.array(size[0], np.int64)), keepdims=1)
        parts.append(part if size[1] == 1 else c.b.op("Div", part, np.array([size[1]], np.int64)))
    return c.b.op("Concat", *parts, axis=0)


@operator("reshape_like")
def reshape_like(c: Graph, node: Node, x: ir.Value, other: ir.Value) -> ir.Value:
    """In the shape of another tensor."""
    if node.parsed("lhs_begin") is not None or node.parsed("rhs_begin") is not None:
        raise node.refuse("only some of the dimensions are taken over")
    return c.b.op("Reshape", x, c.b.op("Shape", other))


@operator("Flatten", "flatten", "_npx_batch_flatten")
def flatten(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """All but the first dimension as one."""
    return c.b.op("Flatten", x, axis=1)


@operator("transpose", "_np_transpose")
def transpose(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """Axes in another order, backwards if none is given."""
    axes = node.ints("axes")
    return c.b.op("Transpose", x, perm=axes or [*range(need_rank(node, x))][::-1])


@operator("SwapAxis", "swapaxes")
def swap_axis(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """Two axes exchanged."""
    rank = need_rank(node, x)
    a, b = (axis_of(node, node.integer(name, 0), rank) for name in ("dim1", "dim2"))
    perm = [*range(rank)]
    perm[a], perm[b] = b, a
    return c.b.op("Transpose", x, perm=perm)


@operator("expand_dims")
def expand_dims(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """A dimension of 1."""
    return c.b.op("Unsqueeze", x, np.array([node.integer("axis")]))


@operator("squeeze", "_np_squeeze")
def squeeze(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """Without dimensions of 1."""
    axes = node.ints("axis") if node.parsed("axis") is not None else None
    return c.b.op("Squeeze", x, None if axes is None else np.array(axes))


@operator("Concat", "concat", "_rnn_param_concat", "_npi_concatenate")
def concat(c: Graph, node: Node, *x: ir.Value) -> ir.Value:
    """One after the other."""
    axis = node.integer("dim", node.integer("axis", 1))
    return c.b.op("Concat", *x, axis=axis) if len(x) > 1 else c.b.op("Identity", x[0])


@operator("stack")
def stack(c: Graph, node: Node, *x: ir.Value) -> ir.Value:
    """Side by side, along a new axis."""
    axis = axis_of(node, node.integer("axis", 0), need_rank(node, x[0]) + 1)
    return c.b.op("Concat", *(c.b.op("Unsqueeze", each, np.array([axis])) for each in x), axis=axis)


@operator("slice", "crop")
def slice_(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """Python's slices of the first dimensions; None leaves a bound open."""
    begin, end = node.parsed("begin", ()), node.parsed("end", ())
    begin, end = (each if isinstance(each, tuple) else (each,) for each in (begin, end))
    step = node.parsed("step", ()) or ()
    step = step if isinstance(step, tuple) else (step,)
    steps = [int(s) if s is not None else 1 for s in (*step, *[None] * (len(begin) - len(step)))]
    starts = [(0 if s > 0 else _FAR) if a is None else int(a) for a, s in zip(begin, steps)]
    ends = [(_FAR if s > 0 else -_FAR) if b is None else int(b) for b, s in zip(end, steps)]
    return c.b.op("Slice", x, *(np.array(each, np.int64) for each in (starts, ends, range(len(starts)), steps)))


@operator("slice_axis")
def slice_axis(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """A slice along one axis."""
    end = node.parsed("end")
    bounds = node.integer("begin"), _FAR if end is None else int(end), node.integer("axis")
    return c.b.op("Slice", x, *(np.array([each], np.int64) for each in bounds))


@operator("slice_like")
def slice_like(c: Graph, node: Node, x: ir.Value, other: ir.Value) -> ir.Value:
    """The beginning, as large as another tensor along some axes."""
    rank = need_rank(node, x)
    axes = [axis_of(node, axis, rank) for axis in node.ints("axes")] or [*range(rank)]
    ends = c.b.op("Gather", c.b.op("Shape", other), np.array(axes, np.int64))
    return c.b.op("Slice", x, np.zeros(len(axes), np.int64), ends, np.array(axes))


@operator("SliceChannel", "split")
def slice_channel(c: Graph, node: Node, x: ir.Value) -> list[ir.Value]:
    """Equal parts."""
    count, axis = node.integer("num_outputs"), node.integer("axis", 1)
    parts = c.b.many("Split", x, outputs=count, axis=axis, num_outputs=count) if count > 1 else [x]
    return [c.b.op("Squeeze", part, np.array([axis])) for part in parts] if node.flag("squeeze_axis") else parts


@operator("_split_v2")
def split_v2(c: Graph, node: Node, x: ir.Value) -> list[ir.Value]:
    """Equal parts, or parts that begin at given places."""
    axis, sections = node.integer("axis", 1), node.integer("sections", 0)
    if sections:
        parts = c.b.many("Split", x, outputs=sections, axis=axis, num_outputs=sections)
    else:
        starts = node.ints("indices")
        bounds = [(a, b) for a, b in zip(starts, [*starts[1:], _FAR])]
        parts = [c.b.op("Slice", x, *(np.array([each]) for each in (a, b, axis))) for a, b in bounds]
    return [c.b.op("Squeeze", part, np.array([axis])) for part in parts] if node.flag("squeeze_axis") else parts


@operator("tile", "_npi_tile")
def tile(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """Repeated along each axis."""
    times, rank = node.ints("reps"), need_rank(node, x)
    if len(times) > rank:
        x = c.b.op("Unsqueeze", x, np.arange(len(times) - rank))
    return c.b.op("Tile", x, np.array([1] * (rank - len(times)) + times, np.int64))


@operator("repeat")
def repeat(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """Each element several times."""
    times = node.integer("repeats")
    if node.parsed("axis") is None:
        x, axis = c.b.op("Reshape", x, np.array([-1])), 0
    else:
        axis = axis_of(node, node.integer("axis"), need_rank(node, x))
    rank, known = need_rank(node, x), sizes(x)
    wide = c.b.op("Unsqueeze", x, np.array([axis + 1]))
    reps = [1] * (rank + 1)
    reps[axis + 1] = times
    size = known[axis]
    merged: list[Size] = [((a,), 1) if known[a] is None else int(known[a] or 0) for a in range(rank)]
    merged[axis] = -1 if size is None else size * times
    return c.b.op("Reshape", c.b.op("Tile", wide, np.array(reps)), _shape(c, x, merged))


def _shape(c: Graph, x: ir.Value, wanted: Sequence[Size]) -> ir.Value:
    if all(isinstance(size, int) for size in wanted):
        return c.b.constant(np.array(wanted, np.int64))
    return _computed(c, x, wanted)


@operator("reverse", "flip")
def reverse(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """Backwards along axes."""
    axes = np.array(node.ints("axis"), np.int64)
    ones = np.ones_like(axes)
    return c.b.op("Slice", x, -ones, ones * -_FAR, axes, -ones)


@operator("Pad", "pad")
def pad(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """A border of a constant, of the edge, or mirrored."""
    widths = np.array(node.ints("pad_width"), np.int64).reshape(-1, 2)
    mode = node.text("mode", "constant")
    if mode not in ("constant", "edge", "reflect"):
        raise node.refuse(f"mode {mode!r} is unknown")
    value = like(x, node.number("constant_value", 0.0)) if mode == "constant" else None
    return c.b.op("Pad", x, widths.T.reshape(-1), value, mode=mode)


@operator("broadcast_to", "_npi_broadcast_to")
def broadcast_to(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """To a shape; 0 keeps a size."""
    return c.b.op("Expand", x, np.array([size or 1 for size in node.ints("shape")], np.int64))


@operator("broadcast_axis", "broadcast_axes")
def broadcast_axis(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """Axes of 1 repeated."""
    shape = [1] * need_rank(node, x)
    for axis, size in zip(node.ints("axis"), node.ints("size"), strict=True):
        shape[axis] = size
    return c.b.op("Expand", x, np.array(shape, np.int64))


@operator("broadcast_like")
def broadcast_like(c: Graph, node: Node, x: ir.Value, other: ir.Value) -> ir.Value:
    """Repeated as another tensor is large."""
    mine, theirs = node.ints("lhs_axes"), node.ints("rhs_axes")
    if not mine:
        return c.b.op("Expand", x, c.b.op("Shape", other))
    rank = need_rank(node, x)
    order = [-1] * rank
    for a, b in zip(mine, theirs, strict=True):
        order[axis_of(node, a, rank)] = axis_of(node, b, need_rank(node, other))
    shape = c.b.op("Shape", other)
    one = c.b.constant(np.array([1], np.int64))
    parts = [one if b < 0 else c.b.op("Gather", shape, np.array([b], np.int64)) for b in order]
    return c.b.op("Expand", x, c.b.op("Concat", *parts, axis=0))


@operator("depth_to_space")
def depth_to_space(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """Channels become blocks of the plane."""
    return c.b.op("DepthToSpace", x, blocksize=node.integer("block_size"), mode="DCR")


@operator("space_to_depth")
def space_to_depth(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """Blocks of the plane become channels."""
    return c.b.op("SpaceToDepth", x, blocksize=node.integer("block_size"))


@operator("shape_array")
def shape_array(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """The sizes of a tensor."""
    return c.b.op("Shape", x)


@operator("size_array")
def size_array(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """The number of elements."""
    return c.b.op("ReduceProd", c.b.op("Shape", x), keepdims=1)


@operator("_zeros", "_ones", "_full", "_npi_zeros", "_npi_ones")
def full(c: Graph, node: Node) -> ir.Value:
    """One number everywhere; sizes of 0 are not known yet, which recurrent layers take as no state."""
    number = node.number("value") if node.op == "_full" else float("ones" in node.op)
    dtype = as_dtype(node.text("dtype", "float32"))
    return c.b.constant(np.full(node.ints("shape"), number, dtype.numpy()))


@operator("_arange", "_npi_arange")
def arange(c: Graph, node: Node) -> ir.Value:
    """Numbers at equal steps, each repeated."""
    start, stop = node.number("start", 0.0), node.parsed("stop")
    start, stop = (0.0, start) if stop is None else (start, float(stop))
    dtype = as_dtype(node.text("dtype", "float32")).numpy()
    numbers = np.arange(start, stop, node.number("step", 1.0)).astype(dtype)
    return c.b.constant(np.repeat(numbers, node.integer("repeat", 1)))


@operator("_contrib_arange_like")
def arange_like(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """Numbers at equal steps, as many as a tensor has, or as it is long along an axis."""
    start, step, times = node.number("start", 0.0), node.number("step", 1.0), node.integer("repeat", 1)
    rank = need_rank(node, x)
    axes = [*range(rank)] if node.parsed("axis") is None else [axis_of(node, node.integer("axis"), rank)]
    shape = c.b.op("Gather", c.b.op("Shape", x), np.array(axes, np.int64))
    count = c.b.op("ReduceProd", shape, keepdims=0)
    number = c.b.op("Range", np.int64(0), count, np.int64(1))
    number = number if times == 1 else c.b.op("Div", number, np.int64(times))
    number = c.b.op("Cast", number, to=ir.DataType.FLOAT)
    found = c.b.op("Add", c.b.op("Mul", number, np.float32(step)), np.float32(start))
    return found if len(axes) == 1 else c.b.op("Reshape", found, c.b.op("Shape", x))


@operator("diag")
def diag(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """A vector as a diagonal, or the diagonal of a matrix."""
    k = node.integer("k", 0)
    shape = static_shape(x)
    if shape is None or len(shape) > 2:
        raise node.refuse("only vectors and matrices of known sizes are covered")
    if len(shape) == 1:
        n = shape[0] + abs(k)
        rows, columns = np.arange(shape[0]) + max(0, -k), np.arange(shape[0]) + max(0, k)
        base = np.zeros((n, n), x.dtype.numpy() if x.dtype is not None else np.float32)
        return c.b.op("ScatterND", base, np.stack([rows, columns], 1), x)
    places = np.argwhere(np.eye(shape[0], shape[1], k=k))
    return c.b.op("GatherND", x, places)

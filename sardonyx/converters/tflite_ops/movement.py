"""Operators that move values and leave them as they are: shapes, slices, joins, padding."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx_ir as ir

from sardonyx.converters.building import data_type
from sardonyx.converters.tflite_graph import Node, Subgraph, Wire, operator, to_first
from sardonyx.converters.tflite_ops.arithmetic import scalar, type_of


def axis_of(node: Node, axis: int, rank: int) -> int:
    """An axis counted from the front."""
    if not -rank <= axis < rank:
        raise node.refuse(f"axis {axis} of {rank} dimensions", "The file is damaged.")
    return axis % rank


def in_layout(axis: int, rank: int, first: bool) -> int:
    """Where an axis is in the chosen layout."""
    return to_first(rank).index(axis) if first else axis


def ordered(values: np.ndarray, first: bool) -> np.ndarray:
    """One value per axis, in the order of the chosen layout."""
    return values[to_first(len(values))] if first else values


@operator("RESHAPE")
def reshape(c: Subgraph, node: Node) -> None:
    """The new shape is an input, or an option."""
    x, out = node.input(0), node.out
    wire = node.optional(1)
    if wire is not None and (wire.const is None or wire.rank == 1):
        shape = c.as_int64(wire)
    else:
        listed = node.options(c.model, "Reshape").new_shape
        sizes = [int(d) for d in listed] if listed is not None else [d if isinstance(d, int) else -1 for d in out.shape]
        shape = c.b.constant(np.array(sizes, np.int64))
    zero = any(d == 0 for d in out.shape)  # ONNX takes 0 as "the same" unless told otherwise
    c.move(node, lambda v: c.b.op("Reshape", v, shape, allowzero=1 if zero else None), x)


@operator("EXPAND_DIMS")
def expand_dims(c: Subgraph, node: Node) -> None:
    """A dimension of 1 at an axis."""
    axis = axis_of(node, int(c.known(node, 1, "its axis").reshape(-1)[0]), node.out.rank)
    c.move(node, lambda v: c.b.op("Unsqueeze", v, np.array([axis])), node.input(0))


@operator("SQUEEZE")
def squeeze(c: Subgraph, node: Node) -> None:
    """The dimensions that are listed, or all of 1."""
    x = node.input(0)
    listed = node.options(c.model, "Squeeze").squeeze_dims
    if listed is not None and len(listed):
        axes = [axis_of(node, int(axis), x.rank) for axis in listed]
    else:
        axes = [axis for axis, size in enumerate(x.shape) if size == 1]
    c.move(node, lambda v: c.b.op("Squeeze", v, np.array(axes)) if axes else c.b.op("Identity", v), x)


@operator("TRANSPOSE")
def transpose(c: Subgraph, node: Node) -> None:
    """Composed with the transposition that the layout may need."""
    x = node.input(0)
    perm = [int(axis) for axis in c.known(node, 1, "its permutation")]
    if sorted(perm) != list(range(x.rank)):
        raise node.refuse(f"permutation {perm} of {x.rank} dimensions", "The file is damaged.")
    first = c.has_first(x)
    now = [in_layout(axis, x.rank, first) for axis in perm]
    value = c.stored(x, first) if c.same_storage(node.out, x) else c.get(x, first)
    done = value if now == list(range(x.rank)) else c.b.op("Transpose", value, perm=now)
    done = c.b.op("Identity", done) if done is value else done
    (c.set_stored if c.same_storage(node.out, x) else c.set)(node.out, done)


@operator("CONCATENATION")
def concatenation(c: Subgraph, node: Node) -> None:
    """One after the other along an axis."""
    options = node.options(c.model, "Concatenation")
    wires = [wire for wire in node.ins if wire is not None]
    rank = node.out.rank
    first = c.has_first(*wires)
    axis = in_layout(axis_of(node, options.axis, rank), rank, first)
    if options.activation:
        joined = c.b.op("Concat", *(c.get(wire, first) for wire in wires), axis=axis)
        c.set(node.out, c.activated(joined, options.activation, node), first)
        return
    c.move(node, lambda *values: c.b.op("Concat", *values, axis=axis), *wires, first=first)


@operator("PACK")
def pack(c: Subgraph, node: Node) -> None:
    """Tensors side by side along a new axis."""
    axis = axis_of(node, node.options(c.model, "Pack").axis, node.out.rank)

    def joined(*values: ir.Value) -> ir.Value:
        return c.b.op("Concat", *(c.b.op("Unsqueeze", value, np.array([axis])) for value in values), axis=axis)

    c.move(node, joined, *(wire for wire in node.ins if wire is not None))


@operator("UNPACK")
def unpack(c: Subgraph, node: Node) -> None:
    """The slices along an axis."""
    x = node.input(0)
    axis = axis_of(node, node.options(c.model, "Unpack").axis, x.rank)
    for index, out in enumerate(node.outs):
        stored = c.same_storage(out, x)
        value = c.b.op("Gather", c.stored(x) if stored else c.get(x), np.array(index, np.int64), axis=axis)
        (c.set_stored if stored else c.set)(out, value)


@operator("SPLIT", "SPLIT_V")
def split(c: Subgraph, node: Node) -> None:
    """Equal parts, or parts of the given sizes (-1: the rest)."""
    equal = node.operator == "SPLIT"
    x = node.input(1 if equal else 0)
    axis = axis_of(node, int(c.known(node, 0 if equal else 2, "its axis").reshape(-1)[0]), x.rank)
    whole = x.size(axis)
    if equal:
        if whole is None or whole % len(node.outs):
            raise node.refuse(f"{whole} elements in {len(node.outs)} equal parts")
        sizes = np.full(len(node.outs), whole // len(node.outs))
    else:
        sizes = c.known(node, 1, "the list of sizes").astype(np.int64)
        if np.any(sizes < 0) and whole is not None:
            sizes = np.where(sizes < 0, whole - sizes[sizes >= 0].sum(), sizes)
    first = c.has_first(x)
    stored = all(c.same_storage(out, x) for out in node.outs)
    value = c.stored(x, first) if stored else c.get(x, first)
    place = in_layout(axis, x.rank, first)
    for out, part in zip(node.outs, c.b.many("Split", value, sizes, outputs=len(node.outs), axis=place)):
        (c.set_stored if stored else c.set)(out, part, first)


@operator("SLICE")
def slice_(c: Subgraph, node: Node) -> None:
    """From `begin`, as many as `size` says; -1: to the end."""
    x = node.input(0)
    begin, size = c.ints(node.input(1)), c.ints(node.input(2))
    if begin is not None and size is not None:
        ends = np.where(size < 0, np.iinfo(np.int64).max, begin.astype(np.int64) + size)
        first = c.has_first(x)
        a, b = (ordered(each.astype(np.int64), first) for each in (begin, ends))
        c.move(node, lambda v: c.b.op("Slice", v, a, b), x, first=first)
        return
    starts, sizes = c.as_int64(node.input(1)), c.as_int64(node.input(2))
    end = c.b.op("Add", starts, sizes)
    stop = c.b.op("Where", c.b.op("Less", sizes, np.int64(0)), np.iinfo(np.int64).max, end)
    c.move(node, lambda v: c.b.op("Slice", v, starts, stop), x)


@operator("STRIDED_SLICE")
def strided_slice(c: Subgraph, node: Node) -> None:
    """Python's slices; bits of masks say which bounds are open, which axes are new, and which are dropped."""
    o = node.options(c.model, "StridedSlice")
    x = node.input(0)
    begin, end, stride = (c.ints(node.input(number)) for number in (1, 2, 3))
    if o.ellipsis_mask:
        raise node.refuse("an ellipsis among the slices", "Write the slices out in the source model.")
    if begin is None or end is None or stride is None:
        _computed_slice(c, node, o)
        return
    cuts, new, dropped = _slices(node, o, x, np.stack([begin, end, stride], 1).tolist())
    first = c.has_first(x) and not new and not dropped

    def cut(value: ir.Value) -> ir.Value:
        if cuts:
            starts, ends, axes, steps = (np.array(each) for each in zip(*cuts))
            places = np.array([in_layout(int(axis), x.rank, first) for axis in axes])
            value = c.b.op("Slice", value, starts, ends, places, steps)
        if dropped:
            value = c.b.op("Squeeze", value, np.array(dropped))
        if new:
            value = c.b.op("Unsqueeze", value, np.array(new))
        return value if cuts or dropped or new else c.b.op("Identity", value)

    c.move(node, cut, x, first=first)


def _slices(
    node: Node, o: SimpleNamespace, x: Wire, bounds: list[list[int]]
) -> tuple[list[tuple[int, int, int, int]], list[int], list[int]]:
    """(start, end, axis, step) of what is cut; axes that are new in the result; axes that are dropped before."""
    far = int(np.iinfo(np.int64).max)
    cuts, axis = [], 0
    new: list[int] = []
    dropped: list[int] = []
    for bit, (a, b, step) in enumerate(bounds):
        if o.new_axis_mask >> bit & 1:
            new.append(bit - len(dropped))
            continue
        if step == 0 or axis >= x.rank:
            raise node.refuse(f"slice {bit} of {x.rank} dimensions, step {step}", "The file is damaged.")
        b = a + b if o.offset else b
        if o.shrink_axis_mask >> bit & 1:
            dropped.append(axis)
            b, step = a + 1 if a != -1 else far, 1
        else:
            a = (0 if step > 0 else far) if o.begin_mask >> bit & 1 else a
            b = (far if step > 0 else -far) if o.end_mask >> bit & 1 else b
        if not (a == 0 and step == 1 and b in (far, x.shape[axis])):
            cuts.append((a, b, axis, step))
        axis += 1
    return cuts, new, dropped


def _computed_slice(c: Subgraph, node: Node, o: SimpleNamespace) -> None:
    """Bounds that are computed while running: masks other than those of open bounds and of one index are refused."""
    masks = {name: getattr(o, name) for name in ("begin_mask", "end_mask", "new_axis_mask", "shrink_axis_mask")}
    if masks["new_axis_mask"] or getattr(o, "offset", False):
        raise node.refuse("new axes among slices whose bounds are computed")
    begin, end, stride = (c.as_int64(node.input(number)) for number in (1, 2, 3))
    count = node.input(1).size(0) or 0
    bits = np.arange(count)
    opened = {name: np.array([mask >> int(bit) & 1 for bit in bits], bool) for name, mask in masks.items()}
    far = np.iinfo(np.int64).max
    shrink = opened["shrink_axis_mask"]
    if shrink.any():
        next_ = c.b.op("Add", begin, np.int64(1))
        next_ = c.b.op("Where", c.b.op("Equal", next_, np.int64(0)), np.int64(far), next_)
        end = c.b.op("Where", shrink, next_, end)
    if opened["begin_mask"].any():
        begin = c.b.op("Where", opened["begin_mask"] & ~shrink, np.int64(0), begin)
    if opened["end_mask"].any():
        end = c.b.op("Where", opened["end_mask"] & ~shrink, np.int64(far), end)

    def cut(value: ir.Value) -> ir.Value:
        value = c.b.op("Slice", value, begin, end, np.arange(count), stride)
        return c.b.op("Squeeze", value, np.flatnonzero(shrink)) if shrink.any() else value

    c.move(node, cut, node.input(0))


@operator("PAD", "PADV2")
def pad(c: Subgraph, node: Node) -> None:
    """With 0, which is stored as the zero point, or with a given value."""
    x, out = node.input(0), node.out
    widths = c.known(node, 1, "its width").astype(np.int64).reshape(-1, 2)
    given = node.optional(2)
    first = c.has_first(x)
    pads = np.concatenate([ordered(widths[:, 0], first), ordered(widths[:, 1], first)])
    if out.real:
        value = c.b.constant(np.float32(0)) if given is None else scalar_real(c, given)
        c.set(out, c.b.op("Pad", c.get(x, first), pads, value), first)
    else:
        value = c.b.constant(np.zeros((), x.dtype)) if given is None else scalar(c, given)
        c.set_stored(out, c.b.op("Pad", c.stored(x, first), pads, value), first)


def scalar_real(c: Subgraph, wire: Wire) -> ir.Value:
    """The real number of a wire of one element."""
    value = c.get(wire)
    return value if wire.rank == 0 else c.b.op("Reshape", value, np.zeros(0, np.int64))


@operator("MIRROR_PAD")
def mirror_pad(c: Subgraph, node: Node) -> None:
    """The border mirrored, without its outermost element (0) or with it (1)."""
    x = node.input(0)
    widths = c.known(node, 1, "its width").astype(np.int64).reshape(-1, 2)
    first = c.has_first(x)
    before, after = (ordered(widths[:, side], first) for side in (0, 1))
    if node.options(c.model, "MirrorPad").mode == 0:
        pads = np.concatenate([before, after])
        c.move(node, lambda v: c.b.op("Pad", v, pads, mode="reflect"), x, first=first)
        return

    def mirrored(value: ir.Value) -> ir.Value:
        for axis in range(x.rank):
            parts = [value]
            if before[axis]:
                parts.insert(0, _reversed(c, value, axis, int(before[axis]) - 1))
            if after[axis]:
                parts.append(_reversed(c, value, axis, -1, -int(after[axis]) - 1))
            value = c.b.op("Concat", *parts, axis=axis) if len(parts) > 1 else value
        return value

    c.move(node, mirrored, x, first=first)


def _reversed(c: Subgraph, value: ir.Value, axis: int, start: int, end: int = -np.iinfo(np.int64).max) -> ir.Value:
    return c.b.op("Slice", value, *(np.array([number], np.int64) for number in (start, end, axis, -1)))


@operator("REVERSE_V2")
def reverse(c: Subgraph, node: Node) -> None:
    """Backwards along the given axes."""
    axes = c.known(node, 1, "its axis").reshape(-1).astype(np.int64)

    def turned(value: ir.Value) -> ir.Value:
        ones = np.ones_like(axes)
        return c.b.op("Slice", value, -ones, ones * -np.iinfo(np.int64).max, axes, -ones)

    c.move(node, turned, node.input(0))


@operator("REVERSE_SEQUENCE")
def reverse_sequence(c: Subgraph, node: Node) -> None:
    """The first elements of each sequence backwards."""
    o = node.options(c.model, "ReverseSequence")
    lengths = c.as_int64(node.input(1))
    rank = node.input(0).rank
    front = [o.batch_dim, o.seq_dim, *(axis for axis in range(rank) if axis not in (o.batch_dim, o.seq_dim))]
    if sorted(front) != list(range(rank)):
        raise node.refuse(f"axes {o.batch_dim} and {o.seq_dim} of {rank} dimensions")

    def turned(value: ir.Value) -> ir.Value:
        moved = c.b.op("Transpose", value, perm=front)
        done = c.b.op("ReverseSequence", moved, lengths, batch_axis=0, time_axis=1)
        return c.b.op("Transpose", done, perm=[int(axis) for axis in np.argsort(front)])

    c.move(node, turned, node.input(0))


@operator("TILE")
def tile(c: Subgraph, node: Node) -> None:
    """Repeated along each axis."""
    times = c.as_int64(node.input(1))
    c.move(node, lambda v: c.b.op("Tile", v, times), node.input(0))


@operator("BROADCAST_TO")
def broadcast_to(c: Subgraph, node: Node) -> None:
    """Repeated until it has the given shape."""
    shape = c.as_int64(node.input(1))
    c.move(node, lambda v: c.b.op("Expand", v, shape), node.input(0))


@operator("BROADCAST_ARGS")
def broadcast_args(c: Subgraph, node: Node) -> None:
    """The shape that two shapes have together."""
    shapes = [c.as_int64(node.input(number)) for number in (0, 1)]
    both = [c.b.op("Expand", np.zeros((), bool), shape) for shape in shapes]
    shape = c.b.op("Shape", c.b.op("Or", *both))
    c.set_stored(node.out, c.b.op("Cast", shape, to=data_type(node.out.dtype)))


@operator("SHAPE")
def shape_of(c: Subgraph, node: Node) -> None:
    """The sizes of a tensor."""
    value = c.b.op("Shape", c.stored(node.input(0)))
    kind = type_of(node.options(c.model, "Shape").out_type if node.out.dtype == "int64" else 2)
    c.set_stored(node.out, value if kind == ir.DataType.INT64 else c.b.op("Cast", value, to=kind))


@operator("RANK")
def rank(c: Subgraph, node: Node) -> None:
    """The number of dimensions."""
    c.set_stored(node.out, c.b.op("Identity", np.array(node.input(0).rank, node.out.dtype)))


@operator("FILL")
def fill(c: Subgraph, node: Node) -> None:
    """One value everywhere."""
    shape = c.as_int64(node.input(0))
    c.move(node, lambda v: c.b.op("Expand", v, shape), node.input(1))


@operator("RANGE")
def range_(c: Subgraph, node: Node) -> None:
    """Numbers from a start to a limit."""
    values = [scalar(c, node.input(number)) for number in (0, 1, 2)]
    c.set_stored(node.out, c.b.op("Range", *values))


@operator("SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND")
def space_and_batch(c: Subgraph, node: Node) -> None:
    """Blocks of the plane become the batch, or the other way round; by reshaping and transposing."""
    x, out = node.input(0), node.out
    blocks = [int(b) for b in c.known(node, 1, "its block")]
    borders = c.known(node, 2, "its border").astype(np.int64).reshape(-1, 2)
    m = len(blocks)
    if min(blocks, default=0) < 1 or len(borders) != m or x.rank < m + 1:
        raise node.refuse(f"blocks {blocks} of {x.rank} dimensions", "The file is damaged.")
    sizes = [size if isinstance(size, int) else None for size in x.shape]
    if None in sizes[1 : 1 + m] + sizes[1 + m :]:
        raise node.refuse("a size of its planes is open", "Give it a fixed size in the source.")
    rest = [int(size) for size in sizes[1 + m :] if size is not None]
    axes = range(1, 1 + m)
    if node.operator == "SPACE_TO_BATCH_ND":
        padded = [int(sizes[axis] or 0) + int(borders[axis - 1].sum()) for axis in axes]
        pads = np.zeros((2, x.rank), np.int64)
        pads[:, 1 : 1 + m] = borders.T
        value = c.get(x)
        if out.real:
            value = c.b.op("Pad", value, pads.reshape(-1), np.float32(0))
        elif borders.any():
            value = c.b.op("Pad", value, pads.reshape(-1))
        split = [n for size, block in zip(padded, blocks) for n in (size // block, block)]
        value = c.b.op("Reshape", value, np.array([-1, *split, *rest]))
        perm = [*(2 * i + 2 for i in range(m)), 0, *(2 * i + 1 for i in range(m)), *range(2 * m + 1, value_rank(value))]
        value = c.b.op("Transpose", value, perm=perm)
        value = c.b.op("Reshape", value, np.array([-1, *(s // b for s, b in zip(padded, blocks)), *rest]))
        c.set(out, value)
        return
    plane = [int(sizes[axis] or 0) for axis in axes]
    value = c.b.op("Reshape", c.get(x), np.array([*blocks, -1, *plane, *rest]))
    perm = [m, *(n for i in range(m) for n in (m + 1 + i, i)), *range(2 * m + 1, value_rank(value))]
    value = c.b.op("Transpose", value, perm=perm)
    value = c.b.op("Reshape", value, np.array([-1, *(s * b for s, b in zip(plane, blocks)), *rest]))
    ends = np.array([s * b for s, b in zip(plane, blocks)]) - borders[:, 1]
    if borders.any():
        value = c.b.op("Slice", value, borders[:, 0].copy(), ends, np.array([*axes]))
    c.set(out, value)


def value_rank(value: ir.Value) -> int:
    """Number of dimensions of a value that was just shaped."""
    assert value.shape is not None
    return len(value.shape)

"""Recurrent layers: LSTM, GRU and RNN.

The input projection of all steps, directions and gates is one matrix product, whose bias is its epilogue; the steps
run in the kernel `recurrent_f32` (`recurrent_f64`), one task for each direction and part of the batch. Half types
compute in float32. Gates are stored with `lanes` elements each: the hidden size rounded up to 16, the rest 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sardonyx import errors
from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.dtypes import numpy_dtype
from sardonyx.compiler.index import Dim
from sardonyx.compiler.lower import Lowering
from sardonyx.compiler.program import Buffer, Kernel, Pointer, Reduce, Store
from sardonyx.compiler.tensor import LANES, Plain, Tensor, variables
from sardonyx.ops.binary import map_elements
from sardonyx.ops.linalg import cast, product
from sardonyx.ops.node import Node
from sardonyx.ops.registry import operator

# Activation: number in recurrent_cell.h is the position here; default alpha, beta (None: takes none).
ACTIVATIONS: dict[str, tuple[float | None, float | None]] = {
    "relu": (None, None),
    "tanh": (None, None),
    "sigmoid": (None, None),
    "affine": (1.0, 0.0),
    "leakyrelu": (0.01, None),
    "thresholdedrelu": (1.0, None),
    "scaledtanh": (1.0, 1.0),
    "hardsigmoid": (0.2, 0.5),
    "elu": (1.0, None),
    "softsign": (None, None),
    "softplus": (None, None),
}
DIRECTIONS = {"forward": 0b00, "reverse": 0b01, "bidirectional": 0b10}  # which directions run backwards


@dataclass(frozen=True)
class Cell:
    """A kind of layer: its number in recurrent.h, gates, and default activations f, g, h."""

    number: int
    gates: int
    activations: tuple[str, ...]


@dataclass(frozen=True)
class Weights:
    """The weights of a layer, as its kernel has them.

    Attributes:
        kernel: its name.
        dtype: of the arithmetic.
        directions: their number.
        hidden: the hidden size.
        fields: arguments of the kernel that say where R lies.
        project: x W' of all directions and gates, [.., .., directions * gates * lanes].
    """

    kernel: str
    dtype: str
    directions: Dim
    hidden: Dim
    fields: dict
    project: Callable[[Tensor], Tensor]


RNN = Cell(0, 1, ("Tanh",))
GRU = Cell(1, 3, ("Sigmoid", "Tanh"))
LSTM = Cell(2, 4, ("Sigmoid", "Tanh", "Tanh"))


@operator("RNN", since=7)
def rnn(ctx: Lowering, node: Node, x: Tensor, w: Tensor, r: Tensor, *rest: Tensor | None) -> tuple[Tensor | None, ...]:
    """h = f(x W' + h R' + bias)."""
    bias, lengths, h0 = _optional(rest, 3)
    return layer(ctx, node, RNN, x, float_weights(ctx, RNN, x, w, r), bias, lengths, h0, None, None)[:2]


@operator("GRU", since=7)
def gru(ctx: Lowering, node: Node, x: Tensor, w: Tensor, r: Tensor, *rest: Tensor | None) -> tuple[Tensor | None, ...]:
    """h = (1 - z) g + z h with update gate z, reset gate r and candidate g."""
    bias, lengths, h0 = _optional(rest, 3)
    return layer(ctx, node, GRU, x, float_weights(ctx, GRU, x, w, r), bias, lengths, h0, None, None)[:2]


@operator("LSTM", since=7)
def lstm(ctx: Lowering, node: Node, x: Tensor, w: Tensor, r: Tensor, *rest: Tensor | None) -> tuple[Tensor | None, ...]:
    """c = f c + i g, h = o tanh(c) with gates i, o, f and candidate g."""
    return layer(ctx, node, LSTM, x, float_weights(ctx, LSTM, x, w, r), *_optional(rest, 5))


def _optional(inputs: Sequence[Tensor | None], count: int) -> list[Tensor | None]:
    return [*inputs, *[None] * (count - len(inputs))]


def weights_of(ctx: Lowering, cell: Cell, x: Tensor, w: Tensor, r: Tensor, kernel: str, fields: dict) -> Weights:
    """W as floats, in the precision of `x` but at least float32; R as `fields` of `kernel`."""
    ctx.native(x, w)
    wide = wide_dtype(x)
    w, hidden = _in_dtype(ctx, w, wide), r.shape[-1]
    for weight in (w, r):
        ctx.equal_dims(w.shape[0], weight.shape[0], "directions of weights differ")
        ctx.equal_dims(cell.gates * hidden, weight.shape[1], "gates of weights differ")

    def project(rows: Tensor) -> Tensor:
        return product(ctx, rows, by_input(ctx, w, cell.gates, hidden))

    return Weights(kernel, wide, w.shape[0], hidden, fields, project)


def float_weights(ctx: Lowering, cell: Cell, x: Tensor, w: Tensor, r: Tensor) -> Weights:
    """W and R as floats."""
    ctx.native(r)
    wide = wide_dtype(x)
    fields = {"recurrent": ctx.pointer(panels(ctx, _in_dtype(ctx, r, wide), cell.gates, r.shape[-1]))}
    return weights_of(ctx, cell, x, w, r, "recurrent_f64" if wide == "float64" else "recurrent_f32", fields)


def wide_dtype(x: Tensor) -> str:
    """What a layer computes in: halves become float32."""
    return "float64" if x.dtype == "float64" else "float32"


def layer(
    ctx: Lowering, node: Node, cell: Cell, x: Tensor, weights: Weights, bias: Tensor | None,
    lengths: Tensor | None, h0: Tensor | None, c0: Tensor | None, peephole: Tensor | None,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """A whole layer: the outputs Y, Y_h and Y_c, None where not wanted."""
    ctx.native(x, bias, lengths, h0, c0, peephole)
    dtype, wide, hidden = x.dtype, weights.dtype, weights.hidden
    bias, h0, c0, peephole = (None if t is None else _in_dtype(ctx, t, wide) for t in (bias, h0, c0, peephole))
    backwards = DIRECTIONS.get(node.attr("direction", "forward"))
    if backwards is None:
        raise errors.ModelError(f"direction '{node.attr('direction')}'", node=node.name, operator=node.op_type)
    directions, batch_first = 2 if backwards == 0b10 else 1, bool(node.attr("layout", 0))
    ctx.equal_dims(directions, weights.directions, "directions of weights differ")
    batch, time = x.shape[:2] if batch_first else (x.shape[1], x.shape[0])
    split = cell is GRU and bool(node.attr("linear_before_reset", 0))
    parts = None if bias is None else lane_groups(ctx, bias, 2 * cell.gates, hidden)
    projected = _projected(ctx, weights.project(_in_dtype(ctx, x, wide)), parts, directions, cell.gates, split)
    step, row = (projected.shape[2], time * projected.shape[2])
    if not batch_first:
        step, row = (batch * step, step)
    fields = weights.fields | {
        "projected": ctx.pointer(projected), "projected_time": step, "projected_batch": row,
        "projected_direction": ix.floordiv(projected.shape[2], directions),
        "rest": ctx.pointer(_part(ctx, parts, 5)) if split and parts is not None else None,
        "peephole": None if peephole is None else ctx.pointer(lane_groups(ctx, peephole, 3, hidden)),
        "functions": ctx.pointer(ctx.constant(_functions(node, cell, directions).astype(numpy_dtype(wide)))),
        "h0": None if h0 is None else ctx.pointer(h0), "c0": None if c0 is None else ctx.pointer(c0),
        "lengths": None if lengths is None else _checked_lengths(ctx, lengths, time),
        "state_batch": directions * hidden if batch_first else hidden,
        "state_direction": hidden if batch_first else batch * hidden,
        "time": time, "batch": batch, "directions": directions, "hidden": hidden, "cell": cell.number,
        "backwards": backwards, "linear_before_reset": split, "input_forget": bool(node.attr("input_forget", 0)),
        "clip": float(node.attr("clip", 0.0)) or float("inf"),
    }  # fmt: skip
    if split and parts is None:  # the candidate's own sum begins at 0 then, not with its projection
        zeros = np.zeros((directions, int(ix.const(_lanes(hidden)) or 0)), numpy_dtype(wide))
        ctx.requires(isinstance(hidden, int), "a hidden size that is not known")
        fields["rest"] = ctx.pointer(ctx.constant(zeros))
    outputs = _run(ctx, node, weights, fields, (time, batch, directions, hidden), batch_first)
    return tuple(None if y is None else _in_dtype(ctx, y, dtype) for y in outputs)


def _in_dtype(ctx: Lowering, x: Tensor, dtype: str) -> Tensor:
    return x if x.dtype == dtype else cast(ctx, x, dtype)


def _run(
    ctx: Lowering, node: Node, weights: Weights, fields: dict, sizes: tuple[Dim, ...], batch_first: bool
) -> list[Tensor | None]:
    """Call the kernel. Y lies in memory as [time][batch][direction][hidden], which is how the next layer reads it."""
    dtype, (time, batch, directions, hidden) = weights.dtype, sizes
    wanted = [node.wants(i) for i in range(3)]
    buffers = [
        ctx.temporary(dtype, ix.product(sizes) if i == 0 else batch * directions * hidden) if wanted[i] else None
        for i in range(3)
    ]
    row = directions * hidden
    steps = {"y_time": row, "y_batch": time * row} if batch_first else {"y_time": batch * row, "y_batch": row}
    fields = fields | steps | {"y_direction": hidden}
    for name, buffer in zip(("y", "y_last", "c_last"), buffers, strict=True):
        fields[name] = None if buffer is None else Pointer(buffer)
    made = tuple(buffer for buffer in buffers if buffer is not None)
    if made:
        ctx.emit(Kernel(weights.kernel, fields, made))
    y, y_last, c_last = buffers
    state = (batch, directions, hidden) if batch_first else (directions, batch, hidden)
    results = [None if b is None else ctx.in_memory(b, state) for b in (y_last, c_last)]
    return [None if y is None else _sequence(ctx, y, sizes, batch_first), *results]


def _sequence(ctx: Lowering, y: Buffer, sizes: tuple[Dim, ...], batch_first: bool) -> Tensor:
    time, batch, directions, hidden = sizes
    if batch_first:
        return ctx.in_memory(y, (batch, time, directions, hidden))
    if directions == 1:
        return ctx.in_memory(y, (time, directions, batch, hidden))
    whole = ctx.in_memory(y, (time, batch, directions, hidden))
    shape = (time, directions, batch, hidden)
    return ctx.lazy(y.dtype, shape, lambda i: whole.at((i[0], i[2], i[1], i[3])), sources=[whole])


# Weights in the layouts of the kernel.


def _lanes(hidden: Dim) -> Dim:
    return ix.ceildiv(hidden, LANES) * LANES


def lane_groups(ctx: Lowering, x: Tensor, groups: int, hidden: Dim) -> Tensor:
    """[D, groups * hidden, ...] as [D, groups, lanes, ...], lanes beyond the hidden size being 0."""
    ctx.equal_dims(groups * hidden, x.shape[1], "weights do not fit the hidden size")
    lanes = _lanes(hidden)
    shape = (x.shape[0], groups, lanes, *x.shape[2:])
    if x.array is not None:
        width = ix.known(hidden, "a hidden size")
        parts = x.array.reshape(x.array.shape[0], groups, width, *x.array.shape[2:])
        beyond = -width % LANES
        return ctx.constant(np.pad(parts, [(0, 0), (0, 0), (0, beyond), *[(0, 0)] * (x.rank - 2)]), x.dtype)

    def element(i: tuple[Dim, ...]) -> ex.Expr:
        inside = ex.compare("lt", ex.index(i[2]), ex.index(hidden))
        return ex.guard(inside, x.at((i[0], i[1] * hidden + i[2], *i[3:])), 0)

    ctx.cheap(x)
    return ctx.lazy(x.dtype, shape, element, sources=[x], cost=1)


def _rearranged(
    ctx: Lowering, x: Tensor, shape: tuple[Dim, ...], now: Callable[[np.ndarray], np.ndarray],
    at: Callable[[tuple[Dim, ...]], tuple[Dim, ...]],
) -> Tensor:  # fmt: skip
    """`x` in another order: `now` for a constant, else element by element from position `at`."""
    if x.array is not None:
        return ctx.constant(np.ascontiguousarray(now(x.array)), x.dtype)
    return ctx.lazy(x.dtype, shape, lambda i: x.at(at(i)), sources=[x], cost=1)


def panels(ctx: Lowering, r: Tensor, gates: int, hidden: Dim) -> Tensor:
    """[D, gates * hidden, K] as [D, gates, lanes / 16, K, 16]."""
    x = lane_groups(ctx, r, gates, hidden)
    directions, _, lanes, k = x.shape
    shape = (directions, gates, ix.floordiv(lanes, LANES), k, LANES)
    return _rearranged(
        ctx, x, shape, lambda a: a.reshape(*a.shape[:2], a.shape[2] // LANES, LANES, a.shape[3]).swapaxes(3, 4),
        lambda i: (i[0], i[1], i[2] * LANES + i[4], i[3]),
    )  # fmt: skip


def by_input(ctx: Lowering, w: Tensor, gates: int, hidden: Dim) -> Tensor:
    """[D, gates * hidden, K] as [K, D * gates * lanes]."""
    weights = lane_groups(ctx, w, gates, hidden)
    directions, _, lanes, inputs = weights.shape
    by_input = _rearranged(
        ctx, weights, (inputs, directions, gates, lanes), lambda a: np.moveaxis(a, 3, 0).reshape(a.shape[3], -1),
        lambda i: (i[1], i[2], i[3], i[0]),
    )  # fmt: skip
    if by_input.array is not None:
        return by_input
    columns = directions * gates * lanes
    return ctx.in_memory(ctx.materialize(by_input, Plain(by_input.shape)), (inputs, columns))


def _projected(ctx: Lowering, result: Tensor, parts: Tensor | None, directions: int, gates: int, split: bool) -> Tensor:
    """x W' plus the bias, for all directions and gates: [.., .., D * gates * lanes] in memory."""
    if parts is None:
        return ctx.plain(result)
    kept = gates - 1 if split else gates  # gates that take both biases here
    total = [(d, g) for d in range(directions) for g in range(gates)]
    if parts.array is not None:
        a = parts.array
        rows = [a[d, g] + a[d, gates + g] if g < kept else a[d, g] for d, g in total]
        return ctx.plain(map_elements(ctx, lambda p, b: p + b, result, ctx.constant(np.concatenate(rows))))

    def element(i: tuple[Dim, ...]) -> ex.Expr:
        own = parts.at((i[0], i[1], i[2]))
        other = parts.at((i[0], i[1] + gates, i[2]))
        both = ex.compare("lt", ex.index(i[1]), ex.index(kept))
        return ex.select(both, own + other, own)

    sums = ctx.lazy(parts.dtype, (directions, gates, parts.shape[2]), element, sources=[parts], cost=2)
    stored = ctx.in_memory(ctx.materialize(sums, Plain(sums.shape)), (result.shape[-1],))
    return ctx.plain(map_elements(ctx, lambda p, b: p + b, result, stored))


def _part(ctx: Lowering, parts: Tensor, number: int) -> Tensor:
    """Group `number` of each direction."""
    shape = (parts.shape[0], parts.shape[2])
    return _rearranged(ctx, parts, shape, lambda a: a[:, number], lambda i: (i[0], number, i[1]))


# Attributes and lengths.


def _functions(node: Node, cell: Cell, directions: int) -> np.ndarray:
    """[directions, 3, 3]: kind, alpha and beta of each activation.

    A value of activation_alpha belongs to the activation in its place if there are as many, else to the next one that
    takes an alpha; the same with beta.
    """
    count = len(cell.activations)
    names = node.attr("activations") or list(cell.activations) * directions
    if len(names) != count * directions or any(name.lower() not in ACTIVATIONS for name in names):
        raise errors.ModelError(f"activations {names}", node=node.name, operator=node.op_type)
    kinds = list(ACTIVATIONS)
    table = np.zeros((directions, 3, 3))
    given = [list(node.attr(f"activation_{name}") or ()) for name in ("alpha", "beta")]
    in_place = [len(values) == len(names) for values in given]
    for number, name in enumerate(names):
        entry = table[number // count, number % count]
        entry[0] = kinds.index(name.lower())
        for column, (values, default) in enumerate(zip(given, ACTIVATIONS[name.lower()], strict=True)):
            if in_place[column]:
                entry[1 + column] = values[number]
            elif default is not None:
                entry[1 + column] = values.pop(0) if values else default
    return table


def _checked_lengths(ctx: Lowering, lengths: Tensor, time: Dim) -> Pointer:
    """The sequence lengths, checked to be within 0 .. time."""
    lengths = ctx.plain(lengths if lengths.dtype == "int32" else cast(ctx, lengths, "int32"))
    (k,) = variables(lengths.shape, "k")
    range_of = ctx.temporary("int32", 2)
    for place, (name, op) in enumerate((("least", "min"), ("most", "max"))):
        reduce = Reduce(name, op, lengths.at((k,)), (k,), "int32")
        ctx.nest((), [reduce, Store(range_of, Plain((2,)).offset((place,)), ex.local(name, "int32"))])
    found = ctx.in_memory(range_of, (2,))
    inside = (found.at((0,)) >= 0) & (ex.cast(found.at((1,)), "int64") <= ex.index(time))
    empty = ex.index(lengths.shape[0]).equal(0)
    ctx.check(empty | inside, "shape", "a sequence length is negative or beyond the number of steps")
    return ctx.pointer(lengths)

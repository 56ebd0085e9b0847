"""Operators on two or more tensors, element by element with broadcasting: a row each."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence

from sardonyx import errors
from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.dtypes import is_float
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.index import Dim
from sardonyx.compiler.lower import Lowering
from sardonyx.compiler.tensor import Element, Tensor
from sardonyx.ops import registry
from sardonyx.ops.node import Node
from sardonyx.ops.shapes import reshaped
from sardonyx.ops.unary import cost_of, elementwise

BROADCAST_COST = 2  # an operand computed anew for each element that it is broadcast to may cost this much


def broadcast_dim(ctx: Lowering, x: Dim, y: Dim) -> Dim:
    """The common size of two axes, checked at run time where it can't be known now."""
    if x == y or y == 1:
        return x
    if x == 1:
        return y
    if isinstance(x, int) and isinstance(y, int):
        return ctx.equal_dims(x, y, "shapes do not broadcast")
    a, b = ex.index(x), ex.index(y)
    fits = a.equal(b) | a.equal(1) | b.equal(1)
    ctx.check(fits, "shape", f"shapes do not broadcast: {x} and {y}")
    if isinstance(x, int):
        return x
    if isinstance(y, int):
        return y
    return ctx.dim(ex.select(a.equal(1), b, a))


def broadcast_shape(ctx: Lowering, shapes: Sequence[Sequence[Dim]]) -> tuple[Dim, ...]:
    """The shape that all `shapes` broadcast to (numpy's rules)."""
    rank = max(len(shape) for shape in shapes)
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(functools.reduce(lambda a, b: broadcast_dim(ctx, a, b), axis) for axis in zip(*padded, strict=True))


def broadcast(ctx: Lowering, x: Tensor, shape: Sequence[Dim]) -> Element:
    """The elements of `x` seen as a tensor of `shape`, which it broadcasts to."""
    offset = len(shape) - x.rank
    if offset < 0:
        message = f"{list(x.shape)} does not broadcast to {list(shape)}, which has fewer axes"
        raise errors.ShapeError(message, node=ctx.node, operator=ctx.operator)
    pairs = list(zip(x.shape, shape[offset:], strict=True))
    repeated = x.rank < len(shape) or any(own != wanted for own, wanted in pairs)
    if repeated:
        ctx.cheap(x, BROADCAST_COST)

    def element(position: tuple[Dim, ...]) -> Expr:
        own = []
        for (dim, wanted), i in zip(pairs, position[offset:], strict=True):
            if dim == wanted:
                own.append(i)
            elif dim == 1:
                own.append(0)
            elif isinstance(dim, int):
                own.append(i)  # checked to be equal at run time
            else:  # 1 or equal, which only the run knows
                own.append(ix.imin(i, dim - 1))
        return x.at(own)

    return element


def map_elements(
    ctx: Lowering, body: Callable[..., Expr], *inputs: Tensor, shape: Sequence[Dim] | None = None
) -> Tensor:
    """The tensor of ``body(element of each input)``, inputs broadcast against each other."""
    ctx.native(*inputs)
    shape = broadcast_shape(ctx, [x.shape for x in inputs]) if shape is None else tuple(shape)
    elements = [broadcast(ctx, x, shape) for x in inputs]
    probe = body(*(ex.local(f"x{i}", x.dtype) for i, x in enumerate(inputs)))
    return ctx.lazy(
        probe.dtype, shape, lambda i: body(*(element(i) for element in elements)), sources=inputs, cost=cost_of(probe)
    )


def row(name: str, body: Callable[..., Expr], *, since: int = 1, domain: str = "") -> None:
    """Add a row whose inputs are all operands of `body`."""

    def lower(ctx: Lowering, node: Node, *inputs: Tensor) -> Tensor:
        return map_elements(ctx, body, *inputs)

    registry.add(name, lower, since=since, domain=domain, elementwise=True)


def variadic(name: str, body: Callable[[Expr, Expr], Expr], *, since: int = 1) -> None:
    """Add a row that folds any number of inputs from the left."""

    def lower(ctx: Lowering, node: Node, *inputs: Tensor) -> Tensor:
        return map_elements(ctx, lambda *values: functools.reduce(body, values), *inputs)

    registry.add(name, lower, since=since, domain="", elementwise=True)


def op(name: str) -> Callable[[Expr, Expr], Expr]:
    """The body that is one primitive operation."""
    return lambda x, y: ex.binary(name, x, y)


for _name in ("Add", "Sub", "Mul", "Div"):
    row(_name, op(_name.lower()), since=7)
for _name, _op in (("Equal", "eq"), ("Greater", "gt"), ("Less", "lt"), ("GreaterOrEqual", "ge"), ("LessOrEqual", "le")):
    row(_name, lambda x, y, op=_op: ex.compare(op, x, y), since=1)
for _name in ("And", "Or", "Xor"):
    row(_name, op(_name.lower()), since=7)
    row(f"Bitwise{_name}", op(_name.lower()), since=18)
for _name in ("Max", "Min"):
    variadic(_name, op(_name.lower()), since=1)
variadic("Sum", lambda x, y: x + y)
row("Where", ex.select, since=9)


def _mean(ctx: Lowering, node: Node, *inputs: Tensor) -> Tensor:
    """The sum divided by how many there are."""
    return map_elements(ctx, lambda *values: functools.reduce(operator.add, values) / len(values), *inputs)


def _parametric_relu(ctx: Lowering, node: Node, x: Tensor, slope: Tensor) -> Tensor:
    """x, or slope * x below 0; the slope broadcasts to x, or has one element for each channel."""
    if slope.rank == 1 and slope.shape[0] not in (1, x.shape[-1]) and x.rank > 1:
        ctx.equal_dims(slope.shape[0], x.shape[1], "one slope for each channel")
        slope = reshaped(ctx, slope, (slope.shape[0], *(1 for _ in x.shape[2:])))
    broadcast_shape(ctx, [x.shape, slope.shape])
    return map_elements(ctx, lambda e, s: ex.select(e < 0, e * s, e), x, slope, shape=x.shape)


def _modulo(ctx: Lowering, node: Node, x: Tensor, y: Tensor) -> Tensor:
    """The rest of a division, with the sign of the divisor or, with fmod, of the dividend."""
    if node.attr("fmod", 0):
        return map_elements(ctx, op("fmod"), x, y)
    return map_elements(ctx, op("mod_floor" if is_float(x.dtype) else "mod"), x, y)


def _bit_shift(ctx: Lowering, node: Node, x: Tensor, y: Tensor) -> Tensor:
    """Bits moved to the LEFT or RIGHT."""
    return map_elements(ctx, op("shl" if node.attr("direction") == "LEFT" else "shr"), x, y)


def power(x: Expr, y: Expr) -> Expr:
    """x to the power of y, in the type of x; small whole powers are multiplications."""
    if y.op == "const" and y.value in (1, 2, 3):
        return {1: x, 2: x * x, 3: x * x * x}[int(y.value)]
    if x.dtype == y.dtype or is_float(x.dtype):
        return ex.binary("pow", x, ex.cast(y, x.dtype))
    wide = "float64" if is_float(y.dtype) else "int64"
    return ex.cast(ex.binary("pow", ex.cast(x, wide), ex.cast(y, wide)), x.dtype)


def _pow(ctx: Lowering, node: Node, x: Tensor, y: Tensor) -> Tensor:
    """The first to the power of the second, in the type of the first."""
    if y.array is not None and y.array.size == 1 and y.rank <= x.rank:
        ctx.native(x, y)
        exponent = y.scalar()
        return elementwise(ctx, x, lambda e: power(e, exponent))
    return map_elements(ctx, power, x, y)


for _name, _lower, _since in (
    ("Mean", _mean, 1), ("PRelu", _parametric_relu, 7), ("Mod", _modulo, 10), ("BitShift", _bit_shift, 11),
    ("Pow", _pow, 7),
):  # fmt: skip
    registry.add(_name, _lower, since=_since, domain="", elementwise=True, depth=1)

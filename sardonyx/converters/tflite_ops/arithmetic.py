"""Element by element: unary and binary functions, comparisons, logic, casts and quantisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from sardonyx.converters.building import data_type, rank_of
from sardonyx.converters.tflite_graph import HANDLERS, Node, Subgraph, Wire, operator, to_first
from sardonyx.converters.tflite_schema import TYPES


def unary(name: str, make: str | Callable[[Subgraph, ir.Value, Node], ir.Value]) -> None:
    """An operator on one tensor: ONNX's operator of that name, or a function that adds nodes."""

    def handler(c: Subgraph, node: Node) -> None:
        wire = node.input(0)
        first = c.has_first(wire)
        value = c.get(wire, first)
        c.set(node.out, c.b.op(make, value) if isinstance(make, str) else make(c, value, node), first)

    HANDLERS[name] = handler


def binary(name: str, make: str | Callable[[Subgraph, list[ir.Value], Node], ir.Value], options: str = "") -> None:
    """An operator on tensors that are broadcast; `options` is the table that has its fused activation."""

    def handler(c: Subgraph, node: Node) -> None:
        values, first = aligned(c, node, [wire for wire in node.ins if wire is not None])
        result = c.b.op(make, *values) if isinstance(make, str) else make(c, values, node)
        if options:
            result = c.activated(result, node.options(c.model, options).activation, node)
        c.set(node.out, result, first)

    HANDLERS[name] = handler


def aligned(c: Subgraph, node: Node, wires: Sequence[Wire]) -> tuple[list[ir.Value], bool]:
    """The values of `wires` in one layout, in which they can be broadcast; whether it has channels first."""
    rank = max([node.out.rank, *(wire.rank for wire in wires)])
    first = c.has_first(*(wire for wire in wires if wire.rank == rank)) and rank >= 3
    return [_in_layout(c, wire, rank, first) for wire in wires], first


def _in_layout(c: Subgraph, wire: Wire, rank: int, first: bool) -> ir.Value:
    if not first or wire.rank == rank:
        return c.get(wire, first)
    if wire.rank == 0:
        return c.get(wire)
    missing = rank - wire.rank
    if wire.const is not None:
        shape = [1] * missing + list(wire.const.shape)
        return (
            c.weights(wire, None, wire.real, [shape[axis] for axis in to_first(rank)])
            if wire.rank == 1
            else (c.b.op("Transpose", c.weights(wire, None, wire.real, shape), perm=to_first(rank)))
        )
    value = c.b.op("Unsqueeze", c.get(wire), np.arange(missing))
    return c.b.op("Transpose", value, perm=to_first(rank))


def one(c: Subgraph, value: ir.Value, number: float) -> np.ndarray:
    """A number of the type of `value`."""
    assert value.dtype is not None
    return np.asarray(number, value.dtype.numpy())


for _name, _kind in {
    "ABS": "Abs", "CEIL": "Ceil", "COS": "Cos", "EXP": "Exp", "FLOOR": "Floor", "LOG": "Log", "LOGICAL_NOT": "Not",
    "NEG": "Neg", "RELU": "Relu", "ROUND": "Round", "SIGN": "Sign", "SIN": "Sin", "SQRT": "Sqrt", "TANH": "Tanh",
    "LOGISTIC": "Sigmoid", "HARD_SWISH": "HardSwish", "ELU": "Elu",
}.items():  # fmt: skip
    unary(_name, _kind)
unary("RELU6", lambda c, x, node: c.activated(x, 3, node))
unary("RELU_N1_TO_1", lambda c, x, node: c.activated(x, 2, node))
unary("RELU_0_TO_1", lambda c, x, node: c.b.op("Clip", x, np.float32(0), np.float32(1)))
unary("RSQRT", lambda c, x, node: c.b.op("Reciprocal", c.b.op("Sqrt", x)))
unary("SQUARE", lambda c, x, node: c.b.op("Mul", x, x))
unary("ZEROS_LIKE", lambda c, x, node: c.b.op("Mul", x, one(c, x, 0)))
unary("LEAKY_RELU", lambda c, x, node: c.b.op("LeakyRelu", x, alpha=float(node.options(c.model, "LeakyRelu").alpha)))


def _gelu(c: Subgraph, x: ir.Value, node: Node) -> ir.Value:
    """Written out: the operator itself is newer than the opset."""
    if node.options(c.model, "Gelu").approximate:
        cube = c.b.op("Mul", c.b.op("Mul", x, x), x)
        inner = c.b.op("Mul", c.b.op("Add", x, c.b.op("Mul", cube, np.float32(0.044715))), np.float32(0.7978845608))
        bell = c.b.op("Tanh", inner)
    else:
        bell = c.b.op("Erf", c.b.op("Mul", x, np.float32(2**-0.5)))
    return c.b.op("Mul", c.b.op("Mul", x, np.float32(0.5)), c.b.op("Add", bell, np.float32(1)))


unary("GELU", _gelu)

binary("ADD", "Add", "Add")
binary("SUB", "Sub", "Sub")
binary("MUL", "Mul", "Mul")
binary("DIV", "Div", "Div")
for _name, _kind in {
    "MAXIMUM": "Max", "MINIMUM": "Min", "POW": "Pow", "ADD_N": "Sum", "LESS": "Less", "LESS_EQUAL": "LessOrEqual",
    "GREATER": "Greater", "GREATER_EQUAL": "GreaterOrEqual", "EQUAL": "Equal", "LOGICAL_AND": "And",
    "LOGICAL_OR": "Or", "BITWISE_XOR": "BitwiseXor", "PRELU": "PRelu",
}.items():  # fmt: skip
    binary(_name, _kind)
binary("NOT_EQUAL", lambda c, v, node: c.b.op("Not", c.b.op("Equal", *v)))
binary("RIGHT_SHIFT", lambda c, v, node: _right_shift(c, v))


def _right_shift(c: Subgraph, v: list[ir.Value]) -> ir.Value:
    """An arithmetic shift is a division by a power of two, rounded down; ONNX shifts unsigned types only."""
    wide = [c.b.op("Cast", each, to=ir.DataType.DOUBLE) for each in v]
    shifted = c.b.op("Floor", c.b.op("Div", wide[0], c.b.op("Pow", np.float64(2), wide[1])))
    assert v[0].dtype is not None
    return c.b.op("Cast", shifted, to=v[0].dtype)


def _squared_difference(c: Subgraph, v: list[ir.Value], node: Node) -> ir.Value:
    difference = c.b.op("Sub", *v)
    return c.b.op("Mul", difference, difference)


def _floor_div(c: Subgraph, v: list[ir.Value], node: Node) -> ir.Value:
    """Rounded down, for integers too, where ONNX's Div cuts off."""
    if node.out.real:
        return c.b.op("Floor", c.b.op("Div", *v))
    return c.b.op("Div", c.b.op("Sub", v[0], c.b.op("Mod", *v)), v[1])


def _floor_mod(c: Subgraph, v: list[ir.Value], node: Node) -> ir.Value:
    """With the sign of the divisor."""
    if not node.out.real:
        return c.b.op("Mod", *v)
    return c.b.op("Sub", v[0], c.b.op("Mul", v[1], c.b.op("Floor", c.b.op("Div", *v))))


def _atan2(c: Subgraph, v: list[ir.Value], node: Node) -> ir.Value:
    """The angle of (x, y), by atan of the quotient and the quadrant."""
    y, x = v
    op, pi = c.b.op, np.float32(np.pi)
    zero = np.float32(0)
    angle = op("Atan", op("Div", y, x))
    turned = op("Where", op("Less", y, zero), op("Sub", angle, pi), op("Add", angle, pi))
    at_axis = op("Mul", op("Sign", y), np.float32(np.pi / 2))
    return op("Where", op("Equal", x, zero), at_axis, op("Where", op("Less", x, zero), turned, angle))


binary("SQUARED_DIFFERENCE", _squared_difference)
binary("FLOOR_DIV", _floor_div)
binary("FLOOR_MOD", _floor_mod)
binary("ATAN2", _atan2)


@operator("SELECT", "SELECT_V2")
def select(c: Subgraph, node: Node) -> None:
    """`Where`; the condition of the old operator may be a vector that chooses rows."""
    condition = node.input(0)
    if node.operator == "SELECT" and condition.rank == 1 and node.out.rank > 1:
        chosen = c.b.op("Reshape", c.get(condition), np.array([-1] + [1] * (node.out.rank - 1)))
        c.set(node.out, c.b.op("Where", chosen, c.get(node.input(1)), c.get(node.input(2))))
        return
    values, first = aligned(c, node, [condition, node.input(1), node.input(2)])
    c.set(node.out, c.b.op("Where", *values), first)


@operator("CAST")
def cast(c: Subgraph, node: Node) -> None:
    """Between types; what is stored is taken as a number."""
    wire = node.input(0)
    first = c.has_first(wire)
    c.set_stored(node.out, c.b.op("Cast", c.stored(wire, first), to=data_type(node.out.dtype)), first)


@operator("DEQUANTIZE")
def dequantize(c: Subgraph, node: Node) -> None:
    """Real numbers of quantised or half-precision ones; a constant stays as it is stored."""
    wire, out = node.input(0), node.out
    if wire.const is not None:
        out.const, out.quantisation = wire.const, wire.quantisation
        return
    first = c.has_first(wire)
    value = c.get(wire, first)
    c.set(out, c.b.op("Cast", value, to=ir.DataType.FLOAT) if wire.dtype == "float16" else value, first)


@operator("QUANTIZE")
def quantize(c: Subgraph, node: Node) -> None:
    """Real numbers, or those of another quantisation, to the quantisation of the output."""
    first = c.has_first(node.input(0))
    c.set(node.out, c.get(node.input(0), first), first)


@operator("FAKE_QUANT")
def fake_quant(c: Subgraph, node: Node) -> None:
    """Quantised and back again."""
    options = node.options(c.model, "FakeQuant")
    low, high = float(options.min), float(options.max)
    bottom, top = float(options.narrow_range), float(2**options.num_bits - 1)
    if not high > low:
        raise node.refuse(f"its range is [{low}, {high}]")
    scale = (high - low) / (top - bottom)
    zero = min(max(round(bottom - low / scale), bottom), top)
    low, high = (bottom - zero) * scale, (top - zero) * scale
    first = c.has_first(node.input(0))
    op, x = c.b.op, c.get(node.input(0), first)
    steps = op("Div", op("Sub", op("Clip", x, np.float32(low), np.float32(high)), np.float32(low)), np.float32(scale))
    rounded = op("Floor", op("Add", steps, np.float32(0.5)))
    c.set(node.out, op("Add", op("Mul", rounded, np.float32(scale)), np.float32(low)), first)


@operator("DENSIFY")
def densify(c: Subgraph, node: Node) -> None:
    """Sparse constants were written out when they were read."""
    wire = node.input(0)
    if wire.const is None:
        raise node.refuse("only constants can be densified")
    node.out.const, node.out.quantisation = wire.const, wire.quantisation


@operator("BITCAST")
def bitcast(c: Subgraph, node: Node) -> None:
    """The bytes as another type of the same width."""
    wire, out = node.input(0), node.out
    if np.dtype(wire.dtype).itemsize != np.dtype(out.dtype).itemsize or c.b.opset < 26:
        raise node.refuse(f"the bytes of {wire.dtype} cannot be read as {out.dtype}")
    c.set_stored(out, c.b.op("BitCast", c.stored(wire), to=data_type(out.dtype)))


def type_of(number: int, default: str = "int32") -> ir.DataType:
    """ONNX's type for a number of the source's list of types."""
    return data_type(TYPES[number] if 0 <= number < len(TYPES) else default)


def scalar(c: Subgraph, wire: Wire) -> ir.Value:
    """A value of one element without dimensions."""
    value = c.stored(wire)
    return value if rank_of(value) == 0 else c.b.op("Reshape", value, np.zeros(0, np.int64))

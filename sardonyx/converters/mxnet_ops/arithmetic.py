"""Element by element: unary and binary functions, comparisons, scalars, activations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from sardonyx.converters.mxnet_files import Node
from sardonyx.converters.mxnet_graph import HANDLERS, Graph, as_type, like, need_rank, operator

Make = Callable[[Graph, ir.Value], ir.Value]


def unary(names: str, make: str | Make) -> None:
    """An operator on one tensor: ONNX's operator of that name, or a function."""

    def handler(c: Graph, node: Node, x: ir.Value) -> ir.Value:
        return c.b.op(make, x) if isinstance(make, str) else make(c, x)

    for name in names.split():
        HANDLERS[name] = handler


def binary(names: str, make: str | Callable[[Graph, ir.Value, ir.Value], ir.Value]) -> None:
    """An operator on two tensors that are broadcast."""

    def handler(c: Graph, node: Node, x: ir.Value, y: ir.Value) -> ir.Value:
        return c.b.op(make, x, y) if isinstance(make, str) else make(c, x, y)

    for name in names.split():
        HANDLERS[name] = handler


def scalar(names: str, make: str | Callable[[Graph, ir.Value, np.ndarray], ir.Value], swap: bool = False) -> None:
    """An operator on a tensor and a number, which stands first if `swap`."""

    def handler(c: Graph, node: Node, x: ir.Value) -> ir.Value:
        number = like(x, node.number("scalar", 0.0))
        if not isinstance(make, str):
            return make(c, x, number)
        return c.b.op(make, number, x) if swap else c.b.op(make, x, number)

    for name in names.split():
        HANDLERS[name] = handler


def compared(kind: str, negate: bool = False) -> Callable[[Graph, ir.Value, ir.Value | np.ndarray], ir.Value]:
    """A comparison; MXNet's give 0 and 1 of the type of their input."""

    def make(c: Graph, x: ir.Value, y: ir.Value | np.ndarray) -> ir.Value:
        found = c.b.op(kind, x, y)
        found = c.b.op("Not", found) if negate else found
        assert x.dtype is not None
        return c.b.op("Cast", found, to=x.dtype)

    return make


def logical(kind: str) -> Callable[[Graph, ir.Value, ir.Value | np.ndarray], ir.Value]:
    """Logic on numbers: what is not 0 is true."""

    def make(c: Graph, x: ir.Value, y: ir.Value | np.ndarray) -> ir.Value:
        sides = [c.b.op("Cast", c.b.value(each), to=ir.DataType.BOOL) for each in (x, y)]
        assert x.dtype is not None
        return c.b.op("Cast", c.b.op(kind, *sides), to=x.dtype)

    return make


def _mod(c: Graph, x: ir.Value | np.ndarray, y: ir.Value | np.ndarray) -> ir.Value:
    """With the sign of the divisor, for floating point too; 0 where the divisor is 0."""
    quotient = c.b.op("Floor", c.b.op("Div", x, y))
    rest = c.b.op("Sub", x, c.b.op("Mul", y, quotient))
    value = y if isinstance(y, ir.Value) else c.b.value(y)
    assert value is not None
    zero = like(value, 0)
    return c.b.op("Where", c.b.op("Equal", value, zero), zero, rest)


def _hypot(c: Graph, x: ir.Value, y: ir.Value | np.ndarray) -> ir.Value:
    return c.b.op("Sqrt", c.b.op("Add", c.b.op("Mul", x, x), c.b.op("Mul", y, y)))


for _names, _kind in {
    "abs": "Abs", "sign": "Sign", "floor": "Floor", "ceil": "Ceil", "rint": "Round", "negative _np_negative": "Neg",
    "reciprocal": "Reciprocal", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "erf": "Erf", "relu _npx_relu": "Relu",
    "sigmoid _npx_sigmoid": "Sigmoid", "tanh": "Tanh", "softsign": "Softsign", "sin": "Sin", "cos": "Cos", "tan": "Tan",
    "arcsin": "Asin", "arccos": "Acos", "arctan": "Atan", "sinh": "Sinh", "cosh": "Cosh", "arcsinh": "Asinh",
    "arccosh": "Acosh", "arctanh": "Atanh", "_copy identity BlockGrad stop_gradient make_loss MakeLoss": "Identity",
    "_identity_with_attr_like_rhs IdentityAttachKLSparseReg": "Identity",
}.items():  # fmt: skip
    unary(_names, _kind)
unary("square", lambda c, x: c.b.op("Mul", x, x))
unary("rsqrt", lambda c, x: c.b.op("Reciprocal", c.b.op("Sqrt", x)))
unary("cbrt", lambda c, x: _root(c, x))
unary("rcbrt", lambda c, x: c.b.op("Reciprocal", _root(c, x)))
unary("log2", lambda c, x: c.b.op("Div", c.b.op("Log", x), like(x, np.log(2))))
unary("log10", lambda c, x: c.b.op("Div", c.b.op("Log", x), like(x, np.log(10))))
unary("log1p", lambda c, x: c.b.op("Log", c.b.op("Add", x, like(x, 1))))
unary("expm1", lambda c, x: c.b.op("Sub", c.b.op("Exp", x), like(x, 1)))
unary("fix trunc", lambda c, x: c.b.op("Mul", c.b.op("Sign", x), c.b.op("Floor", c.b.op("Abs", x))))
unary("round", lambda c, x: _half_away(c, x))
unary("degrees", lambda c, x: c.b.op("Mul", x, like(x, 180 / np.pi)))
unary("radians", lambda c, x: c.b.op("Mul", x, like(x, np.pi / 180)))
unary("logical_not", lambda c, x: compared("Equal")(c, x, like(x, 0)))
unary("zeros_like", lambda c, x: c.b.op("Expand", like(x, 0), c.b.op("Shape", x)))
unary("ones_like", lambda c, x: c.b.op("Expand", like(x, 1), c.b.op("Shape", x)))


def _root(c: Graph, x: ir.Value) -> ir.Value:
    return c.b.op("Mul", c.b.op("Sign", x), c.b.op("Pow", c.b.op("Abs", x), like(x, 1 / 3)))


def _half_away(c: Graph, x: ir.Value) -> ir.Value:
    """Halves away from zero."""
    up = c.b.op("Floor", c.b.op("Add", c.b.op("Abs", x), like(x, 0.5)))
    return c.b.op("Mul", c.b.op("Sign", x), up)


_BINARY: dict[str, str | Callable[..., ir.Value]] = {
    "add plus": "Add", "sub minus": "Sub", "mul": "Mul", "div": "Div", "power": "Pow", "maximum": "Max",
    "minimum": "Min", "mod": _mod, "hypot": _hypot, "equal": compared("Equal"), "not_equal": compared("Equal", True),
    "greater": compared("Greater"), "greater_equal": compared("GreaterOrEqual"), "lesser": compared("Less"),
    "lesser_equal": compared("LessOrEqual"), "logical_and": logical("And"), "logical_or": logical("Or"),
    "logical_xor": logical("Xor"),
}  # fmt: skip
for _names, _make in _BINARY.items():
    for _name in _names.split():
        binary(f"broadcast_{_name} elemwise_{_name} _{_name} _{_name.capitalize()} _np_{_name} _npi_{_name}", _make)
        scalar(f"_{_name}_scalar _{_name.capitalize()}Scalar _npi_{_name}_scalar", _make)
binary("_grad_add", "Add")
scalar("_rminus_scalar _RMinusScalar", "Sub", swap=True)
scalar("_rdiv_scalar _RDivScalar", "Div", swap=True)
scalar("_rpower_scalar _RPowerScalar", "Pow", swap=True)
scalar("_rmod_scalar _RModScalar", lambda c, x, number: _mod(c, c.b.constant(number), x))


@operator("add_n", "ElementWiseSum", "_sum")
def add_n(c: Graph, node: Node, *x: ir.Value) -> ir.Value:
    """The sum of all inputs."""
    return c.b.op("Sum", *x)


@operator("clip")
def clip(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """Between two numbers."""
    return c.b.op("Clip", x, like(x, node.number("a_min")), like(x, node.number("a_max")))


@operator("Cast", "cast", "amp_cast", "_npx_cast")
def cast(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """To another type."""
    name = node.text("dtype", "float32")
    return c.b.op("Cast", x, to=ir.DataType.BFLOAT16 if name == "bfloat16" else as_dtype(name))


def as_dtype(name: str) -> ir.DataType:
    """ONNX's type for MXNet's name of one."""
    return ir.DataType.from_numpy(np.dtype(name))


@operator("amp_multicast")
def amp_multicast(c: Graph, node: Node, *x: ir.Value) -> list[ir.Value]:
    """All to the widest type among them (or the narrowest)."""
    types = sorted((value.dtype for value in x if value.dtype is not None), key=lambda kind: kind.itemsize)
    wanted = types[0 if node.flag("cast_narrow") else -1]
    return [as_type(c.b, value, wanted) for value in x]


@operator("Activation", "_npx_activation")
def activation(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """A function by name."""
    kinds = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softrelu": "Softplus", "softsign": "Softsign"}
    kind = node.text("act_type")
    if kind == "log_sigmoid":
        return c.b.op("Neg", c.b.op("Softplus", c.b.op("Neg", x)))
    if kind == "mish":
        return c.b.op("Mul", x, c.b.op("Tanh", c.b.op("Softplus", x)))
    if kind not in kinds:
        raise node.refuse(f"act_type {kind!r} is unknown")
    return c.b.op(kinds[kind], x)


@operator("LeakyReLU", "_npx_leaky_relu")
def leaky_relu(c: Graph, node: Node, x: ir.Value, gamma: ir.Value | None = None) -> ir.Value:
    """Linear units with a slope below 0, and their smooth relatives."""
    kind, slope = node.text("act_type", "leaky"), node.number("slope", 0.25)
    if kind == "leaky":
        return c.b.op("LeakyRelu", x, alpha=slope)
    if kind == "elu":
        return c.b.op("Elu", x, alpha=slope)
    if kind == "selu":
        return c.b.op("Selu", x)
    if kind == "gelu":
        bell = c.b.op("Erf", c.b.op("Mul", x, like(x, 2**-0.5)))
        return c.b.op("Mul", c.b.op("Mul", x, like(x, 0.5)), c.b.op("Add", bell, like(x, 1)))
    if kind == "rrelu":  # random in training, its mean otherwise
        return c.b.op("LeakyRelu", x, alpha=(node.number("lower_bound", 0.125) + node.number("upper_bound", 0.334)) / 2)
    if kind != "prelu" or gamma is None:
        raise node.refuse(f"act_type {kind!r} is unknown")
    rank = need_rank(node, x)
    if gamma.shape is not None and len(gamma.shape) == 1 and rank > 2 and gamma.shape[0] != 1:
        gamma = c.b.op("Reshape", gamma, np.array([-1] + [1] * (rank - 2)))
    return c.b.op("PRelu", x, gamma)


@operator("hard_sigmoid")
def hard_sigmoid(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """A line between 0 and 1."""
    return c.b.op("HardSigmoid", x, alpha=node.number("alpha", 0.2), beta=node.number("beta", 0.5))


@operator("smooth_l1")
def smooth_l1(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """A square near 0, a line elsewhere."""
    s2 = node.number("scalar", 1.0) ** 2
    size = c.b.op("Abs", x)
    square = c.b.op("Mul", c.b.op("Mul", x, x), like(x, 0.5 * s2))
    return c.b.op("Where", c.b.op("Less", size, like(x, 1 / s2)), square, c.b.op("Sub", size, like(x, 0.5 / s2)))


@operator("_contrib_div_sqrt_dim")
def div_sqrt_dim(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """Divided by the root of the last size."""
    last = c.b.op("Slice", c.b.op("Shape", x), np.array([-1]), np.array([np.iinfo(np.int64).max]))
    assert x.dtype is not None
    return c.b.op("Div", x, c.b.op("Sqrt", c.b.op("Cast", last, to=x.dtype)))


@operator("_contrib_quadratic", "quadratic")
def quadratic(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """a x x + b x + c."""
    a, b, constant = (like(x, node.number(name, 0.0)) for name in "abc")
    return c.b.op("Add", c.b.op("Mul", x, c.b.op("Add", c.b.op("Mul", x, a), b)), constant)

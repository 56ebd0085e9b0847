"""Operators on one tensor, element by element: a row each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sardonyx import errors
from sardonyx.compiler import expr as ex
from sardonyx.compiler.dtypes import bit_width, is_native
from sardonyx.compiler.expr import Expr, maximum, minimum, select
from sardonyx.compiler.host import dtype_name
from sardonyx.compiler.lower import Lowering
from sardonyx.compiler.tensor import Tensor
from sardonyx.ops import registry
from sardonyx.ops.node import Node

COST = {"exp": 12, "log": 12, "tanh": 16, "erf": 16, "sigmoid": 14, "sin": 16, "cos": 16, "pow": 30, "softplus": 24}


def cost_of(value: Expr) -> int:
    """Rough operations of an expression, its loads not counted."""
    return sum(COST.get(node.op, 1) for node in ex.walk(value) if node.op not in ("load", "const", "index", "local"))


def elementwise(ctx: Lowering, x: Tensor, body: Callable[[Expr], Expr], dtype: str | None = None) -> Tensor:
    """The tensor whose elements are ``body(element of x)``."""
    ctx.native(x)
    probe = body(ex.local("x", x.dtype))
    return ctx.lazy(dtype or probe.dtype, x.shape, lambda i: body(x.at(i)), sources=[x], cost=cost_of(probe))


def unary(name: str, body: Callable[..., Expr], *, since: int = 1, domain: str = "", **defaults: Any) -> None:
    """Add a row: ``body(x, **attributes)`` is the expression of one element; `defaults` are the attributes.

    Attributes are float32 in the format, whatever the tensor's type: a default is rounded as a stored one is.
    """
    defaults = {key: float(np.float32(v)) if isinstance(v, float) else v for key, v in defaults.items()}

    def lower(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
        values = {key: node.attr(key, default) for key, default in defaults.items()}
        return elementwise(ctx, x, lambda e: body(e, **values))

    registry.add(name, lower, since=since, domain=domain, elementwise=True)


def op(name: str) -> Callable[[Expr], Expr]:
    """The body that is one primitive operation."""
    return lambda x: ex.unary(name, x)


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + exp(-x))."""
    return ex.unary("sigmoid", x)


def hard_sigmoid(x: Expr, alpha: float = 0.2, beta: float = 0.5) -> Expr:
    """max(0, min(1, alpha * x + beta))."""
    return maximum(minimum(x * alpha + beta, 1.0), 0.0)


def gelu(x: Expr, approximate: str = "none") -> Expr:
    """x * Phi(x), or its tanh approximation."""
    if approximate == "tanh":
        return x * 0.5 * (ex.unary("tanh", (x + x * x * x * 0.044715) * 0.7978845608028654) + 1.0)
    return x * 0.5 * (ex.unary("erf", x * 0.7071067811865476) + 1.0)


def elu(x: Expr, alpha: float = 1.0) -> Expr:
    """x, or alpha * (exp(x) - 1) below 0."""
    return select(x < 0.0, ex.unary("expm1", x) * alpha, x)


def shrink(x: Expr, lambd: float = 0.5, bias: float = 0.0) -> Expr:
    """x + bias below -lambd, x - bias above lambd, else 0."""
    zero = ex.constant(0, x.dtype)
    low, high = ex.constant(-lambd, x.dtype), ex.constant(lambd, x.dtype)
    shift = ex.constant(bias, x.dtype)
    return select(x < low, x + shift, select(x > high, x - shift, zero))


def is_inf(x: Expr, detect_negative: int = 1, detect_positive: int = 1) -> Expr:
    """Infinite, with a sign that is asked for."""
    wanted = ex.predicate("isinf", x)
    if not detect_negative:
        wanted = wanted & (x > 0.0)
    return wanted if detect_positive else wanted & (x < 0.0)


for _name, _since in (
    ("Exp", 1), ("Log", 1), ("Sqrt", 1), ("Sin", 7), ("Cos", 7), ("Tan", 7), ("Asin", 7), ("Acos", 7), ("Atan", 7),
    ("Sinh", 9), ("Cosh", 9), ("Tanh", 1), ("Asinh", 9), ("Acosh", 9), ("Atanh", 9), ("Erf", 9), ("Floor", 1),
    ("Ceil", 1), ("Abs", 1), ("Neg", 1), ("Sign", 9),
):  # fmt: skip
    unary(_name, op(_name.lower()), since=_since)

unary("Round", op("round_even"), since=11)
unary("Reciprocal", lambda x: 1.0 / x)
unary("Relu", lambda x: maximum(x, 0))
unary("LeakyRelu", lambda x, alpha: select(x >= 0.0, x, x * alpha), alpha=0.01)
unary("ThresholdedRelu", lambda x, alpha: select(x > alpha, x, 0.0), since=10, alpha=1.0)
unary("Selu", lambda x, alpha, gamma: select(x > 0.0, x, ex.unary("expm1", x) * alpha) * gamma,
      alpha=1.67326319217681884765625, gamma=1.05070102214813232421875)  # fmt: skip
unary("Elu", elu, alpha=1.0)
unary("Celu", lambda x, alpha: maximum(x, 0.0) + minimum(ex.unary("expm1", x / alpha) * alpha, 0.0), since=12,
      alpha=1.0)  # fmt: skip
unary("Sigmoid", sigmoid)
unary("HardSigmoid", hard_sigmoid, alpha=0.2, beta=0.5)
unary("HardSwish", lambda x: x * hard_sigmoid(x, 1 / 6, 0.5), since=14)
unary("Swish", lambda x, alpha: x * sigmoid(x * alpha), since=24, alpha=1.0)
unary("Mish", lambda x: x * ex.unary("tanh", ex.unary("softplus", x)), since=18)
unary("Softplus", op("softplus"))
unary("Softsign", lambda x: x / (ex.unary("abs", x) + 1.0))
unary("Shrink", shrink, since=9, lambd=0.5, bias=0.0)
unary("Gelu", gelu, since=20, approximate="none")
unary("Not", op("not"))
unary("BitwiseNot", op("bitnot"), since=18)
unary("IsNaN", lambda x: ex.predicate("isnan", x), since=9)
unary("IsInf", is_inf, since=10, detect_negative=1, detect_positive=1)
unary("Identity", lambda x: x)


def _converted(ctx: Lowering, node: Node, x: Tensor, dtype: str) -> Tensor:
    ctx.requires(is_native(dtype), f"{dtype} has no native code")
    saturate, mode = bool(node.attr("saturate", 1)), node.attr("round_mode", "up")
    if mode not in ("up", "down", "nearest"):
        raise errors.ModelError(f"round_mode '{mode}'", node=ctx.node, operator=ctx.operator)
    return elementwise(ctx, x, lambda e: ex.cast(e, dtype, saturate=saturate, round_mode=mode))


def _cast(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """The elements in another type: floats round, integers wrap, floats saturate on their way to integers."""
    return _converted(ctx, node, x, dtype_name(node.attr("to")))


def _cast_like(ctx: Lowering, node: Node, x: Tensor, like: Tensor) -> Tensor:
    """Cast to the element type of `like`."""
    return _converted(ctx, node, x, like.dtype)


registry.add("Cast", _cast, since=6, domain="", elementwise=True, depth=1)
registry.add("CastLike", _cast_like, since=15, domain="", elementwise=True, depth=1)


# Clip: bounds are attributes, later inputs; either may be missing.


def clipped(ctx: Lowering, x: Tensor, low: Expr | None, high: Expr | None) -> Tensor:
    """`x` limited from below, then from above (so `high` wins); NaN stays NaN."""

    def body(e: Expr) -> Expr:
        e = e if low is None else maximum(e, low)
        return e if high is None else minimum(e, high)

    return elementwise(ctx, x, body)


def _clip(ctx: Lowering, node: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Limited to low..high."""
    ctx.native(x, low, high)
    bounds = [None if bound is None else ctx.cheap(bound).scalar() for bound in (low, high)]
    return clipped(ctx, x, bounds[0], bounds[1])


def _clip_1(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """Clip with its bounds as attributes."""
    ctx.native(x)
    bounds = [node.attr(name) for name in ("min", "max")]
    low, high = (None if bound is None else ex.constant(bound, x.dtype) for bound in bounds)
    return clipped(ctx, x, low, high)


def _bit_cast(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """The same bits as another type of the same size."""
    dtype = dtype_name(node.attr("to"))
    ctx.native(x)
    ctx.requires(is_native(dtype), f"{dtype} has no native code")
    if bit_width(dtype) != bit_width(x.dtype):
        raise errors.ModelError(f"{x.dtype} to {dtype}: sizes differ", node=ctx.node, operator=ctx.operator)
    return elementwise(ctx, x, lambda e: ex.call("bitcast", dtype, e))


registry.add("Clip", _clip, since=11, domain="", elementwise=True, depth=1)
registry.add("Clip", _clip_1, since=1, domain="", elementwise=True, depth=1)
registry.add("BitCast", _bit_cast, since=26, domain="", elementwise=True, depth=1)

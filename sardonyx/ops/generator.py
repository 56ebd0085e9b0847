"""Operators that make tensors from attributes, shapes and few numbers: ranges, constants, windows, random values.

Random values are a function of a seed and of the element's number alone (a counter hashed by two rounds of multiply and
shift), so that neither the number of threads nor the order of evaluation matters. A node without a `seed` takes one
from its name: the same model draws the same values in each run.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.dtypes import dtype_of_array, is_float, is_native
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.host import dtype_name
from sardonyx.compiler.index import Dim
from sardonyx.compiler.lower import Lowering, Unsupported
from sardonyx.compiler.program import Reduce, Store
from sardonyx.compiler.tensor import Plain, Position, Tensor, variables
from sardonyx.ops.node import Node
from sardonyx.ops.registry import operator
from sardonyx.ops.shapes import dims

FLOAT = 1  # the ONNX number of float32


def native_dtype(ctx: Lowering, number: int) -> str:
    """The name of an ONNX element type that has native code."""
    dtype = dtype_name(number)
    ctx.requires(is_native(dtype), f"{dtype} has no native code")
    return dtype


# Constants and sequences.

CONSTANTS = {
    "value_float": "float32",
    "value_floats": "float32",
    "value_int": "int64",
    "value_ints": "int64",
}


@operator("Constant")
def constant(ctx: Lowering, node: Node) -> Tensor:
    """A tensor that is an attribute."""
    for name, dtype in CONSTANTS.items():
        if node.attr(name) is not None:
            return ctx.constant(np.asarray(node.attr(name), dtype))
    value = node.attr("value")
    if value is None or not is_native(dtype_of_array(value)):
        raise Unsupported("a constant without native type")
    return ctx.constant(value)


@operator("ConstantOfShape", since=9)
def constant_of_shape(ctx: Lowering, node: Node, shape: Tensor) -> Tensor:
    """One value everywhere."""
    value = np.asarray(node.attr("value", np.zeros(1, np.float32))).reshape(-1)[0]
    dtype = dtype_of_array(value)
    ctx.requires(is_native(dtype), f"{dtype} has no native code")
    return ctx.lazy(dtype, dims(ctx, shape), lambda _: ex.constant(value, dtype))


@operator("Range", since=11)
def range_(ctx: Lowering, node: Node, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """start, start + delta, ... up to limit, not included."""
    ctx.native(start, limit, delta)
    for x in (start, limit, delta):
        ctx.equal_dims(x.size, 1, "a bound of a range is one number")
    first, last, step = (ctx.cheap(x).scalar() for x in (start, limit, delta))
    ctx.check(ex.compare("ne", step, 0), "value", "a step of 0")
    return ctx.lazy(
        start.dtype,
        (_range_length(ctx, first, last, step),),
        lambda i: first + ex.cast(ex.index(i[0]), start.dtype) * step,
        cost=2,
    )


def _range_length(ctx: Lowering, first: Expr, last: Expr, step: Expr) -> Dim:
    if is_float(first.dtype):
        low, high, pace = (ex.cast(x, "float64") for x in (first, last, step))
        return ctx.dim(ex.cast(ex.maximum(ex.unary("ceil", (high - low) / pace), 0.0), "int64"))
    low, high, pace = (ex.cast(x, "int64") for x in (first, last, step))
    a, b, c = (ex.as_index(x) for x in (low, high, pace))
    if a is not None and b is not None and isinstance(c, int) and c:
        return ix.imax(ix.ceildiv(b - a if c > 0 else a - b, abs(c)), 0)
    down = pace < 0
    stride = ex.maximum(ex.select(down, -pace, pace), 1)
    span = ex.maximum(ex.select(down, low - high, high - low), 0)
    return ctx.dim(ex.binary("div", span + stride - 1, stride))


@operator("EyeLike", since=9)
def eye_like(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """Ones on the k-th diagonal of a matrix of the input's shape."""
    ctx.native(x)
    number = node.attr("dtype")
    dtype = x.dtype if number is None else native_dtype(ctx, number)
    k = node.attr("k", 0)

    def element(position: Position) -> Expr:
        i, j = position
        return ex.cast(ex.index(j).equal(ex.index(i + k)), dtype)

    return ctx.lazy(dtype, x.shape, element, cost=1)


@operator("Trilu", since=14)
def trilu(ctx: Lowering, node: Node, x: Tensor, k: Tensor | None = None) -> Tensor:
    """The upper (or lower) triangle, counted from the k-th diagonal; zeros elsewhere."""
    ctx.native(x, k)
    shift = ex.constant(0, "int64") if k is None else ex.cast(ctx.cheap(k).scalar(), "int64")
    upper = bool(node.attr("upper", 1))

    def element(position: Position) -> Expr:
        distance = ex.index(position[-1] - position[-2])
        inside = ex.compare("ge" if upper else "le", distance, shift)
        return ex.select(inside, x.at(position), ex.constant(0, x.dtype))

    return ctx.lazy(x.dtype, x.shape, element, sources=[x], cost=2)


# Windows for spectra.


def _window(name: str, *terms: float) -> None:
    """Add a sum of cosines: ``w[0] - w[1] * cos(2 pi i / n) + w[2] * cos(4 pi i / n)``."""

    def lower(ctx: Lowering, node: Node, size: Tensor) -> Tensor:
        dtype = native_dtype(ctx, node.attr("output_datatype", FLOAT))
        extent = ctx.dim(ctx.cheap(size).scalar())
        last = extent if node.attr("periodic", 1) else extent - 1

        def element(position: Position) -> Expr:
            turn = ex.cast(ex.index(position[0]), "float64") / ex.cast(ex.index(last), "float64") * (2 * math.pi)
            value = ex.constant(terms[0], "float64") - ex.unary("cos", turn) * terms[1]
            if len(terms) > 2:
                value = value + ex.unary("cos", turn * 2.0) * terms[2]
            return ex.cast(value, dtype)

        return ctx.lazy(dtype, (extent,), element, cost=40)

    lower.__doc__ = f"The {name} window."
    operator(f"{name}Window", since=17)(lower)


_window("Hann", 0.5, 0.5)
_window("Hamming", 25 / 46, 21 / 46)
_window("Blackman", 0.42, 0.5, 0.08)


# Random values.


def seed_of(ctx: Lowering, node: Node) -> int:
    """64 bits from the node's seed (a float in ONNX), or from its name."""
    seed = node.attr("seed")
    text = ctx.node.encode() if seed is None else struct.pack("<d", float(seed))
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def random_bits(seed: int, number: Expr) -> Expr:
    """64 random bits for element `number` (uint64): splitmix64 of the counter."""
    z = number * 0x9E3779B97F4A7C15 + ex.constant(seed, "uint64")
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = ex.binary("xor", z, ex.binary("shr", z, shift)) * ex.constant(factor, "uint64")
    return ex.binary("xor", z, ex.binary("shr", z, 31))


def uniform(seed: int, number: Dim) -> Expr:
    """A float64 in 0 <= u < 1 for element `number`."""
    bits = ex.binary("shr", random_bits(seed, ex.cast(ex.index(number), "uint64")), 11)
    return ex.cast(bits, "float64") * 2.0**-53


def normal(seed: int, number: Dim) -> Expr:
    """A float64 from the standard normal distribution (Box and Muller) for element `number`."""
    radius = ex.unary("sqrt", ex.unary("log", 1.0 - uniform(seed, number * 2)) * -2.0)
    return radius * ex.unary("cos", uniform(seed, number * 2 + 1) * (2 * math.pi))


def _random(ctx: Lowering, node: Node, dtype: str, shape: Sequence[Dim], draw: Callable[[int, Dim], Expr]) -> Tensor:
    ctx.requires(is_float(dtype), f"random values of {dtype}")
    seed, layout = seed_of(ctx, node), Plain(tuple(shape))
    return ctx.lazy(dtype, shape, lambda i: ex.cast(draw(seed, layout.offset(i)), dtype), cost=40)


def _draw_normal(node: Node) -> Callable[[int, Dim], Expr]:
    mean, scale = node.attr("mean", 0.0), node.attr("scale", 1.0)
    return lambda seed, i: normal(seed, i) * scale + mean


def _draw_uniform(node: Node) -> Callable[[int, Dim], Expr]:
    low, high = node.attr("low", 0.0), node.attr("high", 1.0)
    return lambda seed, i: uniform(seed, i) * (high - low) + low


for _name, _draw in (("Normal", _draw_normal), ("Uniform", _draw_uniform)):

    def _plain(ctx: Lowering, node: Node, *, draw: Any = _draw) -> Tensor:
        """Random values in a given shape."""
        return _random(ctx, node, native_dtype(ctx, node.attr("dtype", FLOAT)), node.attr("shape"), draw(node))

    def _like(ctx: Lowering, node: Node, x: Tensor, *, draw: Any = _draw) -> Tensor:
        """Random values in the shape of another tensor."""
        number = node.attr("dtype")
        dtype = x.dtype if number is None else native_dtype(ctx, number)
        return _random(ctx, node, dtype, x.shape, draw(node))

    operator(f"Random{_name}")(_plain)
    operator(f"Random{_name}Like")(_like)


@operator("Bernoulli", since=15)
def bernoulli(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """1 with the probability that the input gives, else 0."""
    ctx.native(x)
    number = node.attr("dtype")
    dtype = x.dtype if number is None else native_dtype(ctx, number)
    seed, layout = seed_of(ctx, node), Plain(x.shape)

    def element(position: Position) -> Expr:
        hit = uniform(seed, layout.offset(position)) < ex.cast(x.at(position), "float64")
        return ex.cast(hit, dtype)

    return ctx.lazy(dtype, x.shape, element, sources=[x], cost=16)


@operator("Multinomial", since=7)
def multinomial(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """Classes drawn by their log-probabilities: the largest of log-probability plus Gumbel noise."""
    ctx.native(x)
    dtype = native_dtype(ctx, node.attr("dtype", 6))
    ctx.cheap(x)
    batch, classes = x.shape
    shape = (batch, node.attr("sample_size", 1))
    buffer = ctx.temporary(dtype, ix.product(shape))
    loops = variables(shape)
    k = ix.variable("k0", classes)
    number = Plain((*shape, classes)).offset((*loops, k))
    draw = 1.0 - uniform(seed_of(ctx, node), number)  # above 0
    noise = -ex.unary("log", -ex.unary("log", draw))
    score = ex.cast(x.at((loops[0], k)), "float64") + noise
    best = Reduce("best", "argmax", score, (k,), "int64")
    ctx.nest(loops, [best, Store(buffer, Plain(shape).offset(loops), ex.cast(ex.local("best", "int64"), dtype))])
    return ctx.in_memory(buffer, shape)


def _dropped(ctx: Lowering, node: Node, x: Tensor, ratio: Expr, training: Expr) -> tuple[Tensor, Tensor]:
    """``(x with some elements 0 and the others scaled up, which were kept)``; all are kept unless `training`."""
    seed, layout = seed_of(ctx, node), Plain(x.shape)
    chance = ex.cast(ratio, "float64")
    active = training & ex.compare("ne", chance, 0.0)

    def kept(position: Position) -> Expr:
        if active.op == "const" and not active.value:
            return ex.constant(True, "bool")
        hit = ex.compare("ge", uniform(seed, layout.offset(position)), chance)
        return ex.select(active, hit, ex.constant(True, "bool"))

    def element(position: Position) -> Expr:
        if active.op == "const" and not active.value:
            return x.at(position)
        scale = ex.cast(ex.select(active, 1.0 / (1.0 - chance), ex.constant(1.0, "float64")), x.dtype)
        factor = ex.select(kept(position), scale, ex.constant(0, x.dtype))
        return x.at(position) * factor

    idle = active.op == "const" and not active.value
    y = ctx.lazy(x.dtype, x.shape, element, sources=[x], cost=0 if idle else 20)
    return y, ctx.lazy("bool", x.shape, kept, cost=0 if idle else 18)


@operator("Dropout", since=12)
def dropout(
    ctx: Lowering, node: Node, x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The input itself, except in training: elements dropped at random, the others scaled up."""
    ctx.native(x)
    chance = ex.constant(0.5, "float32") if ratio is None else ctx.cheap(ratio).scalar()
    active = ex.constant(False, "bool") if training is None else ctx.cheap(training).scalar()
    return _dropped(ctx, node, x, chance, active)


@operator("Dropout", since=1)
def dropout_1(ctx: Lowering, node: Node, x: Tensor) -> tuple[Tensor, Tensor]:
    """Dropout that is never in training; the mask has the type that the version wants."""
    ctx.native(x)
    y, mask = _dropped(ctx, node, x, ex.constant(0.5, "float32"), ex.constant(False, "bool"))
    dtype = "bool" if node.opset >= 10 else x.dtype
    return y, ctx.lazy(dtype, x.shape, lambda i: ex.cast(mask.at(i), dtype), sources=[mask])

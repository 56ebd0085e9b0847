"""What classifiers and regressors of ai.onnx.ml share: post-transforms and labels. No operators of its own."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from sardonyx import errors
from sardonyx.compiler import expr as ex
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.host import call_host
from sardonyx.compiler.lower import Lowering
from sardonyx.compiler.program import Placement, Reduce, Stage, Store
from sardonyx.compiler.tensor import Plain, Tensor, variables
from sardonyx.ops.node import Node
from sardonyx.ops.reduction import arg_along

if TYPE_CHECKING:
    from sardonyx.compiler.graph import GraphLowering

TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")  # by the numbers that TreeEnsemble gives them
NEAR_ZERO = 1e-7  # what SOFTMAX_ZERO takes for zero


def as_matrix(ctx: Lowering, x: Tensor) -> Tensor:
    """`x` as [rows, features]; a vector is one row."""
    ctx.native(x)
    if x.rank == 1:
        return ctx.lazy(x.dtype, (1, *x.shape), lambda i: x.at(i[1:]), sources=[x])
    if x.rank != 2:
        hint = "it is [rows, features], or one row"
        raise errors.ShapeError(f"input of rank {x.rank}", node=ctx.node, operator=ctx.operator, hint=hint)
    return x


def to_dtype(ctx: Lowering, x: Tensor, dtype: str) -> Tensor:
    """`x` in another element type."""
    return x if x.dtype == dtype else ctx.lazy(dtype, x.shape, lambda i: ex.cast(x.at(i), dtype), sources=[x], cost=1)


def stacked(ctx: Lowering, columns: list[Tensor]) -> Tensor:
    """Tensors [rows, 1] beside each other."""

    def element(i: tuple) -> Expr:
        value = columns[-1].at((i[0], 0))
        for number, column in reversed(list(enumerate(columns[:-1]))):
            value = ex.select(ex.index(i[1]).equal(number), column.at((i[0], 0)), value)
        return value

    return ctx.lazy(columns[0].dtype, (columns[0].shape[0], len(columns)), element, sources=columns, cost=1)


def post_transform(ctx: Lowering, scores: Tensor, kind: str) -> Tensor:
    """`scores` [rows, classes] transformed element by element, or row by row."""
    if kind not in TRANSFORMS:
        hint = f"one of {', '.join(TRANSFORMS)}"
        raise errors.ModelError(f"post_transform '{kind}'", node=ctx.node, operator=ctx.operator, hint=hint)
    if kind == "NONE":
        return scores
    if kind in ("LOGISTIC", "PROBIT"):
        body = _probit if kind == "PROBIT" else lambda e: ex.unary("sigmoid", e)
        return ctx.lazy(scores.dtype, scores.shape, lambda i: body(scores.at(i)), sources=[scores], cost=20)
    return _softmax(ctx, scores, zero=kind == "SOFTMAX_ZERO")


def _probit(p: Expr) -> Expr:
    """The inverse of the normal distribution, by the approximation of the inverse error function that ONNX asks for."""
    x = p * 2.0 - 1.0
    log = ex.unary("log", (1.0 - x) * (1.0 + x))
    v = log * 0.5 + 2.0 / (math.pi * 0.147)
    root = ex.unary("sqrt", ex.unary("sqrt", v * v - log * (1.0 / 0.147)) - v)
    return ex.select(x < 0.0, -root, root) * 1.41421356


def _softmax(ctx: Lowering, scores: Tensor, *, zero: bool) -> Tensor:
    """Softmax along rows; with `zero`, scores near 0 are scaled like the others but stay near 0."""
    ctx.cheap(scores)
    dtype = scores.dtype
    (row,) = variables((scores.shape[0],))
    (k,) = variables((scores.shape[1],), "k")
    value = scores.at((row, k))
    peak, total = ex.local("peak", dtype), ex.local("total", dtype)
    power = ex.unary("exp", value - peak)
    if zero:
        far = ex.compare("gt", ex.unary("abs", value), NEAR_ZERO)
        power = ex.select(far, power, value * ex.unary("exp", -peak))
    share = power / total if not zero else ex.select(total.equal(0.0), ex.constant(0.5, dtype), power / total)
    buffer = ctx.temporary(dtype, scores.size)
    stages: list[Stage] = [
        Reduce("peak", "max", value, (k,), dtype),
        Reduce("total", "sum", power, (k,), dtype),
        Store(buffer, Plain(scores.shape).offset((row, k)), share, (k,)),
    ]
    ctx.nest([row], stages)
    return ctx.in_memory(buffer, scores.shape)


def best_class(ctx: Lowering, scores: Tensor) -> Tensor:
    """The column [rows] with the highest score of each row, the first of equal ones."""
    ctx.cheap(scores)
    best = arg_along(ctx, scores, 1, "argmax")
    return ctx.lazy("int64", (scores.shape[0],), lambda i: best.at((i[0], 0)), sources=[best])


def label_of(ctx: GraphLowering, node: Node, index: Tensor, labels: list[int] | list[str]) -> Tensor:
    """The label [rows] that each of `index` [rows] numbers, output 0 of `node`; strings are looked up in Python."""
    if isinstance(labels[0], str):
        return ctx.formed(node.ir.outputs[0], index, "strings", labels) or _string_of(ctx, index, labels)
    if list(labels) == list(range(len(labels))):
        return index
    table = ctx.constant(np.asarray(labels, np.int64))

    def element(i: tuple) -> Expr:
        return table.at((ex.clamped_index(index.at(i), len(labels)),))

    return ctx.lazy("int64", index.shape, element, sources=[index], cost=2)


def _string_of(ctx: GraphLowering, index: Tensor, labels: list[str]) -> Tensor:
    data = ctx.object_constant(np.asarray(labels, object), "string")
    data.type_proto = ir.serde.serialize_value(
        ir.Value(name="labels", shape=ir.Shape([len(labels)]), type=ir.TensorType(ir.DataType.STRING))
    ).type
    lookup = ir.Node("", "Gather", [ir.Value(name="labels"), ir.Value(name="index")], num_outputs=1, version=13)
    lookup.outputs[0].name = "label"
    ctx.program.placement.append(Placement(ctx.node, "Gather", "reference", "labels are strings"))
    (label,) = call_host(ctx, Node(lookup, 13), [data, index])
    assert label is not None
    return label

"""Operators that read or write at positions which are themselves data, and those that tell shapes."""

from __future__ import annotations

from sardonyx.compiler import expr as ex
from sardonyx.compiler.lower import Lowering
from sardonyx.compiler.tensor import Position, Tensor
from sardonyx.ops.node import Node
from sardonyx.ops.registry import operator
from sardonyx.ops.shapes import axis_of, vector


@operator("Shape")
def shape(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """The dims from `start` to `end`."""
    ctx.requires(not x.is_object, "the rank is not known")
    return vector(ctx, [ex.index(dim) for dim in x.shape[slice(node.attr("start", 0), node.attr("end"))]])


@operator("Size")
def size(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """The number of elements."""
    ctx.requires(not x.is_object, "the rank is not known")
    return ctx.lazy("int64", (), lambda _: ex.index(x.size))


@operator("Gather")
def gather(ctx: Lowering, node: Node, x: Tensor, indices: Tensor) -> Tensor:
    """Slices of `x` along `axis`, picked by `indices`."""
    ctx.native(x, indices)
    axis = axis_of(ctx, node.attr("axis", 0), x.rank)
    ctx.cheap(x)
    ctx.cheap(indices)

    def element(position: Position) -> ex.Expr:
        picked = indices.at(position[axis : axis + indices.rank])
        i = ex.gather_index(picked, x.shape[axis])
        return x.at((*position[:axis], i, *position[axis + indices.rank :]))

    return ctx.lazy(x.dtype, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]), element)

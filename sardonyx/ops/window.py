"""Sliding windows: what convolution and pooling share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from sardonyx import errors
from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.index import Dim
from sardonyx.compiler.lower import Lowering
from sardonyx.compiler.program import Pointer
from sardonyx.ops.node import Node


@dataclass(frozen=True)
class Window:
    """The geometry of a window over `spatial` axes; one entry for each axis everywhere."""

    size: tuple[Dim, ...]
    kernel: tuple[Dim, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[Dim, ...]  # padding
    end: tuple[Dim, ...]
    output: tuple[Dim, ...]

    def axes(self, *chosen: int) -> Window:
        """The window along some of its axes."""
        return Window(*(tuple(getattr(self, each.name)[axis] for axis in chosen) for each in fields(self)))

    def beside(self, size: Dim) -> Window:
        """The window with one more axis of `size`, the last, whose elements it sees one at a time."""
        last = single((size,))
        return Window(*(getattr(self, each.name) + getattr(last, each.name) for each in fields(self)))

    def tap(self, position: Sequence[Dim], offset: Sequence[Dim]) -> tuple[tuple[Dim, ...], Expr]:
        """Where in the input the window at output `position` has its tap `offset`, and whether that is inside."""
        places: list[Dim] = []
        inside = ex.constant(True, "bool")
        for axis, (p, k) in enumerate(zip(position, offset, strict=True)):
            place = p * self.strides[axis] + k * self.dilations[axis] - self.begin[axis]
            places.append(place)
            inside = both(inside, both(ex.index(place) >= 0, ex.index(place) < ex.index(self.size[axis])))
        return tuple(places), inside


def single(size: Sequence[Dim]) -> Window:
    """The window that sees one element at a time."""
    ones, none = (1,) * len(size), (0,) * len(size)
    return Window(tuple(size), ones, ones, ones, none, none, tuple(size))


def unflatten(flat: Dim, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """The position in `shape` of its element number `flat`, row-major."""
    strides = (ix.product(shape[axis + 1 :]) for axis in range(len(shape)))
    return tuple(ix.mod(ix.floordiv(flat, stride), size) for stride, size in zip(strides, shape, strict=True))


def both(x: Expr, y: Expr) -> Expr:
    """Logical and, folded where one side is known."""
    if x.op == "const":
        return y if x.value else x
    if y.op == "const":
        return x if y.value else y
    return x & y


def window(ctx: Lowering, node: Node, size: Sequence[Dim], kernel: Sequence[Dim], *, ceil_mode: bool = False) -> Window:
    """The window that `node`'s attributes describe over axes of `size`."""
    rank = len(size)
    strides = _attribute(node, "strides", rank, 1)
    dilations = _attribute(node, "dilations", rank, 1)
    begin: list[Dim] = []
    end: list[Dim] = []
    output: list[Dim] = []
    mode = node.attr("auto_pad", "NOTSET") or "NOTSET"
    pads = _attribute(node, "pads", 2 * rank, 0)
    for axis in range(rank):
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        if mode in ("SAME_UPPER", "SAME_LOWER"):
            out = ctx.sized(ix.ceildiv(size[axis], strides[axis]))
            needed = ix.imax((out - 1) * strides[axis] + reach - size[axis], 0)
            small, large = ix.floordiv(needed, 2), ix.ceildiv(needed, 2)
            small, large = ctx.sized(small), ctx.sized(large)
            begin.append(small if mode == "SAME_UPPER" else large)
            end.append(large if mode == "SAME_UPPER" else small)
        else:
            before, after = (0, 0) if mode == "VALID" else (pads[axis], pads[rank + axis])
            begin.append(before)
            end.append(after)
            span = size[axis] + before + after - reach
            out = (ix.ceildiv(span, strides[axis]) if ceil_mode else ix.floordiv(span, strides[axis])) + 1
            if ceil_mode:  # a window that starts in the padding behind the input does not count
                out = _trim(out, size[axis] + before, strides[axis])
            ctx.check(ex.index(span) >= 0, "shape", "the window is larger than the padded input")
            out = ctx.sized(out, lower=1)
        output.append(out)
    sizes = tuple(size), tuple(kernel), tuple(strides), tuple(dilations)
    return Window(*sizes, tuple(begin), tuple(end), tuple(output))


def _trim(out: Dim, limit: Dim, stride: int) -> Dim:
    last = ix.floordiv(limit - 1, stride) + 1
    return ix.imin(out, last)


def _attribute(node: Node, name: str, length: int, default: int) -> list[int]:
    values = node.attr(name) or [default] * length
    if len(values) != length:
        raise errors.ModelError(
            f"attribute '{name}' has {len(values)} values, expected {length}", node=node.name, operator=node.op_type
        )
    if name in ("strides", "dilations") and any(v < 1 for v in values):
        raise errors.ModelError(f"attribute '{name}' must be positive", node=node.name, operator=node.op_type)
    return values


def geometry(place: Window) -> dict[str, Dim | Pointer]:
    """The window as fields of a two-dimensional kernel; one-dimensional data has a height of 1."""
    flat = len(place.size) == 1

    def pair(values: Sequence[Dim], single: Dim) -> tuple[Dim, Dim]:
        return (single, values[0]) if flat else (values[0], values[1])

    fields: dict[str, Dim | Pointer] = {}
    for names, values, single in (
        (("ih", "iw"), place.size, 1),
        (("oh", "ow"), place.output, 1),
        (("kh", "kw"), place.kernel, 1),
        (("stride_h", "stride_w"), place.strides, 1),
        (("dilation_h", "dilation_w"), place.dilations, 1),
        (("pad_top", "pad_left"), place.begin, 0),
    ):
        fields |= dict(zip(names, pair(values, single), strict=True))
    return fields

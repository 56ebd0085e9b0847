"""Matrix products and what is made of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sardonyx import errors
from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.dtypes import is_float
from sardonyx.compiler.index import Dim
from sardonyx.compiler.lower import Lowering
from sardonyx.compiler.program import Kernel, Pointer, Reduce, Store
from sardonyx.compiler.tensor import LANES, Plain, Position, Tensor, variables
from sardonyx.kernels import packing
from sardonyx.ops.binary import broadcast, broadcast_shape, map_elements
from sardonyx.ops.node import Node
from sardonyx.ops.registry import operator

SMALL = 8  # products with fewer multiplications per output and fewer columns than this are plain loop nests

Labels = list[str]  # of a tensor's axes, in Einsum
Sizes = Mapping[str, Dim]  # by label


@operator("MatMul")
def matmul(ctx: Lowering, node: Node, a: Tensor, b: Tensor) -> Tensor:
    """numpy.matmul: matrices in the last two axes, the others broadcast."""
    ctx.native(a, b)
    return product(ctx, a, b)


def product(ctx: Lowering, a: Tensor, b: Tensor) -> Tensor:
    """``a @ b``. Half types accumulate in float32 and round once; integers wrap."""
    if a.rank == 0 or b.rank == 0:
        raise errors.ShapeError("MatMul of a scalar", node=ctx.node, operator=ctx.operator)
    if a.dtype in ("float16", "bfloat16"):
        return cast(ctx, product(ctx, cast(ctx, a, "float32"), cast(ctx, b, "float32")), a.dtype)
    row, column = a.rank == 1, b.rank == 1
    left = view(ctx, a, (1, *a.shape), lambda i: (i[1],)) if row else a
    right = view(ctx, b, (*b.shape, 1), lambda i: (i[0],)) if column else b
    ctx.equal_dims(left.shape[-1], right.shape[-2], "inner dimensions differ")
    full = _product(ctx, left, right)
    if not row and not column:
        return full
    dropped = [full.rank - 2] * row + [full.rank - 1] * column
    keep = [axis for axis in range(full.rank) if axis not in dropped]
    shape = tuple(full.shape[axis] for axis in keep)

    def position(i: tuple[Dim, ...]) -> tuple[Dim, ...]:
        place: list[Dim] = [0] * full.rank
        for axis, value in zip(keep, i, strict=True):
            place[axis] = value
        return tuple(place)

    return view(ctx, full, shape, position)


def view(ctx: Lowering, x: Tensor, shape: tuple[Dim, ...], position: Callable[[Position], Position]) -> Tensor:
    """A lazy rearrangement of `x`; constants are rearranged now."""
    result = ctx.lazy(x.dtype, shape, lambda i: x.at(position(i)), sources=[x])
    if x.array is not None:
        result.array = x.array.reshape([d for d in shape if isinstance(d, int)])
    return result


def cast(ctx: Lowering, x: Tensor, dtype: str) -> Tensor:
    """`x` in another element type."""
    if x.array is not None and dtype == "float32":
        return ctx.constant(x.array.astype(np.float32), dtype)
    return ctx.lazy(dtype, x.shape, lambda i: ex.cast(x.at(i), dtype), sources=[x], cost=1)


def _product(ctx: Lowering, a: Tensor, b: Tensor) -> Tensor:
    batch = broadcast_shape(ctx, [a.shape[:-2], b.shape[:-2]]) if a.rank + b.rank > 4 else ()
    if a.dtype == "float32":
        return _kernel(ctx, a, b, batch)
    return _nest(ctx, a, b, batch)


def _kernel(ctx: Lowering, a: Tensor, b: Tensor, batch: tuple[Dim, ...]) -> Tensor:
    """The product by the hand-written kernel, which reads strided operands as they lie."""
    m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
    shape = (*batch, m, n)
    fields: dict = {"k": k, "n": n}
    if b.rank == 2:
        rows, fields["m"] = _merged_rows(ctx, a)
        fields |= rows
        domain: tuple[Dim, ...] = (1, 1, fields["m"], n)
        fields |= {"batch0": 1, "batch1": 1, "b_batch0": 0, "b_batch1": 0}
        fields |= _packed(ctx, b) if b.array is not None and b.array.size else _strides(ctx, b, "b", 2)
    else:
        shape_a, shape_b = (*batch, m, k), (*batch, k, n)
        outer, inner = ix.product(batch[:-1]), batch[-1]
        fields |= {"batch0": outer, "batch1": inner, "m": m}
        fields |= _batched(ctx, a, shape_a, "a") | _batched(ctx, b, shape_b, "b")
        domain = (outer, inner, m, n)
    buffer = ctx.temporary("float32", ix.product(shape))
    rows_all = fields["m"]
    strides = (domain[1] * rows_all * n, rows_all * n, n, 1)
    fields |= {"c": Pointer(buffer), "c_batch0": strides[0], "c_batch1": strides[1], "c_row": n}
    pitches = ("c_batch0", "c_batch1", "c_row")
    ctx.open_kernel(
        Kernel("matmul_f32", fields, (buffer,), domain=domain, strides=strides, target="c", pitches=pitches)
    )
    return ctx.in_memory(buffer, shape)


def _packed(ctx: Lowering, b: Tensor) -> dict:
    assert b.array is not None
    packed = ctx.constant_buffer(packing.pack_panels(np.asarray(b.array, np.float32)), "float32")
    return {"b": Pointer(packed), "b_row": LANES, "b_col": 1, "b_packed": 1}


def row_fields(ctx: Lowering, a: Tensor) -> tuple[dict, Dim]:
    """All rows of `a` as one matrix whose rows are contiguous, and their number; read in place where they are so."""
    fields, rows = _merged_rows(ctx, a)
    if fields["a_col"] != 1:
        fields |= {"a": ctx.pointer(a), "a_row": a.shape[-1], "a_col": 1}
    return fields, rows


def _merged_rows(ctx: Lowering, a: Tensor) -> tuple[dict, Dim]:
    """All rows of `a` as one matrix, read in place when its batch axes walk memory like rows."""
    rows = ix.product(a.shape[:-1])
    found = ctx.strided(a) if a.array is None else None
    if found is not None:
        pointer, strides = found
        joined = all(
            strides[axis] == strides[axis + 1] * a.shape[axis + 1] or a.shape[axis] == 1 for axis in range(a.rank - 2)
        )
        if joined and _readable(strides[-2], strides[-1]):
            return {"a": pointer, "a_batch0": 0, "a_batch1": 0, "a_row": strides[-2], "a_col": strides[-1]}, rows
    pointer = ctx.pointer(a)
    return {"a": pointer, "a_batch0": 0, "a_batch1": 0, "a_row": a.shape[-1], "a_col": 1}, rows


def _readable(row: Dim, column: Dim) -> bool:
    return column == 1 or row == 1


def _strides(ctx: Lowering, x: Tensor, name: str, axes: int) -> dict:
    found = ctx.strided(x) if x.array is None else None
    if found is not None and _readable(*found[1][-2:]):
        pointer, strides = found
    else:
        pointer, strides = ctx.pointer(x), [x.shape[-1], 1]
    return {name: pointer, f"{name}_row": strides[-2], f"{name}_col": strides[-1]}


def _batched(ctx: Lowering, x: Tensor, shape: tuple[Dim, ...], name: str) -> dict:
    """An operand broadcast to `shape`, its leading batch axes seen as one."""
    wide = ctx.lazy(x.dtype, shape, broadcast(ctx, x, shape), sources=[x])
    found = ctx.strided(wide) if x.array is None else None
    if found is None or not _readable(*found[1][-2:]) or _outer_stride(found[1], shape) is None:
        whole = ctx.plain(x)
        wide = ctx.lazy(x.dtype, shape, broadcast(ctx, whole, shape), sources=[whole])
        found = ctx.strided(wide)
    if found is None or _outer_stride(found[1], shape) is None:
        found = ctx.strided(ctx.plain(ctx.lazy(x.dtype, shape, wide.at, sources=[wide], cost=1)))
    assert found is not None
    pointer, strides = found
    outer = _outer_stride(strides, shape)
    assert outer is not None
    fields = {name: pointer, f"{name}_batch0": outer, f"{name}_batch1": strides[-3]}
    return fields | {f"{name}_row": strides[-2], f"{name}_col": strides[-1]}


def _outer_stride(strides: list[Dim], shape: tuple[Dim, ...]) -> Dim | None:
    """The stride of all batch axes but the last seen as one; None where they do not walk memory as one.

    Axes of extent 1 have no say: their stride is never used.
    """
    real = [axis for axis in range(len(shape) - 3) if shape[axis] != 1]
    if any(strides[a] != strides[b] * shape[b] for a, b in itertools.pairwise(real)):
        return None
    return strides[real[-1]] if real else 0


def _nest(ctx: Lowering, a: Tensor, b: Tensor, batch: tuple[Dim, ...]) -> Tensor:
    """The product of any dtype as a loop nest."""
    ctx.cheap(a)
    ctx.cheap(b)
    m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
    shape = (*batch, m, n)
    outer = variables(shape)
    (inner,) = variables((k,), "k")
    left = broadcast(ctx, a, (*batch, m, k))((*outer[:-2], outer[-2], inner))
    right = broadcast(ctx, b, (*batch, k, n))((*outer[:-2], inner, outer[-1]))
    buffer = ctx.temporary(a.dtype, ix.product(shape))
    total = Reduce("total", "sum", left * right, (inner,), a.dtype)
    ctx.nest(outer, [total, Store(buffer, Plain(shape).offset(outer), ex.local("total", a.dtype))])
    return ctx.in_memory(buffer, shape)


@operator("Gemm")
def gemm(ctx: Lowering, node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """alpha * A' @ B' + beta * C."""
    ctx.native(a, b, c)
    if a.rank != 2 or b.rank != 2:
        raise errors.ShapeError(f"Gemm of rank {a.rank} and {b.rank}", node=node.name, operator="Gemm")
    alpha, beta = node.attr("alpha", 1.0), node.attr("beta", 1.0)
    left = transpose(ctx, a) if node.attr("transA", 0) else a
    right = transpose(ctx, b) if node.attr("transB", 0) else b
    raw = product(ctx, left, right)
    if not is_float(a.dtype):
        ctx.requires(alpha == int(alpha) and beta == int(beta), "Gemm of integers with fractional alpha or beta")

    def body(x: ex.Expr, y: ex.Expr | None = None) -> ex.Expr:
        scaled = x if alpha == 1.0 else x * alpha
        if y is None or beta == 0.0:
            return scaled
        return scaled + (y if beta == 1.0 else y * beta)

    inputs = [raw] if c is None else [raw, c]
    return map_elements(ctx, body, *inputs, shape=raw.shape)


@operator("Det", since=11)
def determinant(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """Determinants of square matrices, computed in float64."""
    ctx.native(x)
    ctx.requires(is_float(x.dtype) and x.rank >= 2, f"determinants of {x.dtype}")
    *batch, n, _ = x.shape
    ctx.equal_dims(n, x.shape[-1], "a matrix that is not square")
    result = ctx.temporary("float64", ix.product(batch))
    fields = {"x": ctx.pointer(cast(ctx, x, "float64")), "y": Pointer(result), "count": ix.product(batch), "n": n}
    ctx.emit(Kernel("determinant", fields, (result,)))
    return cast(ctx, ctx.in_memory(result, batch), x.dtype)


def transpose(ctx: Lowering, x: Tensor) -> Tensor:
    """The last two axes exchanged."""
    shape = (*x.shape[:-2], x.shape[-1], x.shape[-2])
    result = ctx.lazy(x.dtype, shape, lambda i: x.at((*i[:-2], i[-1], i[-2])), sources=[x])
    if x.array is not None:
        result.array = np.swapaxes(x.array, -1, -2)
    return result


@operator("Einsum", since=12)
def einsum(ctx: Lowering, node: Node, *inputs: Tensor) -> Tensor:
    """A sum of products along named axes."""
    ctx.native(*inputs)
    terms, output = _equation(node, inputs)
    sizes: dict[str, Dim] = {}
    for labels, x in zip(terms, inputs, strict=True):
        for label, dim in zip(labels, x.shape, strict=True):
            sizes[label] = dim if sizes.get(label, 1) == 1 else sizes[label]
            if dim != 1:
                ctx.equal_dims(sizes[label], dim, f"sizes of axis '{label}' differ")
    if len(inputs) == 2:
        found = _as_product(ctx, terms, output, inputs, sizes)
        if found is not None:
            return found
    return _sum_of_products(ctx, terms, output, inputs, sizes)


def _equation(node: Node, inputs: tuple[Tensor, ...]) -> tuple[list[Labels], Labels]:
    """Axis labels of each input and of the output; an ellipsis becomes labels of its own."""
    text = node.attr("equation").replace(" ", "")
    left, arrow, right = text.partition("->")
    parts = left.split(",")
    if len(parts) != len(inputs):
        raise errors.ModelError(f"'{text}' names {len(parts)} inputs", node=node.name, operator="Einsum")
    wide = max((x.rank - len(part.replace("...", "")) for part, x in zip(parts, inputs, strict=True)), default=0)
    terms = []
    for part, x in zip(parts, inputs, strict=True):
        own = x.rank - len(part.replace("...", ""))
        if own < 0 or (own > 0 and "..." not in part):
            raise errors.ModelError(f"'{text}' does not fit rank {x.rank}", node=node.name, operator="Einsum")
        dots = [f".{axis}" for axis in range(wide - own, wide)]
        before, _, after = part.partition("...") if "..." in part else (part, "", "")
        terms.append([*before, *dots, *after] if "..." in part else list(part))
    dots = [f".{axis}" for axis in range(wide)] if any("..." in part for part in parts) else []
    if arrow:
        before, has, after = right.partition("...")
        return terms, [*before, *(dots if has else []), *after]
    flat = [label for term in terms for label in term if not label.startswith(".")]
    return terms, [*dots, *sorted(label for label in set(flat) if flat.count(label) == 1)]


def _as_product(
    ctx: Lowering, terms: list[Labels], output: Labels, inputs: Sequence[Tensor], sizes: Sizes
) -> Tensor | None:
    """Two operands without repeated axes: a batched matrix product with its axes rearranged."""
    first, second = terms
    if any(len(set(labels)) != len(labels) for labels in (first, second, output)) or inputs[0].dtype != "float32":
        return None
    if any(x.shape != tuple(sizes[label] for label in labels) for labels, x in zip(terms, inputs, strict=True)):
        return None
    both = [label for label in first if label in second]
    batch = [label for label in both if label in output]
    inner = [label for label in both if label not in output]
    rows = [label for label in first if label not in second]
    columns = [label for label in second if label not in first]
    if not inner or any(label not in output for label in (*rows, *columns)):
        return None
    a = _grouped(ctx, inputs[0], first, (batch, rows, inner), sizes)
    b = _grouped(ctx, inputs[1], second, (batch, inner, columns), sizes)
    full = product(ctx, a, b)
    shape = tuple(sizes[label] for label in output)

    def element(i: tuple[Dim, ...]) -> ex.Expr:
        place = dict(zip(output, i, strict=True))
        return full.at(tuple(_flat(group, place, sizes) for group in (batch, rows, columns)))

    return ctx.lazy(full.dtype, shape, element, sources=[full])


def _flat(group: Labels, place: Mapping[str, Dim], sizes: Sizes) -> Dim:
    offset: Dim = 0
    for label in group:
        offset = offset * sizes[label] + place[label]
    return offset


def _grouped(ctx: Lowering, x: Tensor, labels: Labels, groups: Sequence[Labels], sizes: Sizes) -> Tensor:
    """`x` with its axes joined into three groups."""
    shape = tuple(ix.product(sizes[label] for label in group) for group in groups)

    def element(i: tuple[Dim, ...]) -> ex.Expr:
        place: dict[str, Dim] = {}
        for group, flat in zip(groups, i, strict=True):
            for label in reversed(group):
                place[label] = ix.mod(flat, sizes[label]) if label != group[0] else flat
                flat = ix.floordiv(flat, sizes[label])
        return x.at(tuple(place[label] for label in labels))

    return ctx.lazy(x.dtype, shape, element, sources=[x])


def _sum_of_products(
    ctx: Lowering, terms: list[Labels], output: Labels, inputs: Sequence[Tensor], sizes: Sizes
) -> Tensor:
    """Any einsum as one loop nest over its output, reducing the other axes."""
    for x in inputs:
        ctx.cheap(x)
    shape = tuple(sizes[label] for label in output)
    place = dict(zip(output, variables(shape), strict=True))
    summed = [label for label in sizes if label not in output]
    inner = variables(tuple(sizes[label] for label in summed), "k")
    place |= dict(zip(summed, inner, strict=True))
    value: ex.Expr | None = None
    for labels, x in zip(terms, inputs, strict=True):
        factor = x.at(tuple(0 if dim == 1 else place[label] for label, dim in zip(labels, x.shape, strict=True)))
        value = factor if value is None else value * factor
    assert value is not None
    dtype = "float32" if value.dtype in ("float16", "bfloat16") else value.dtype
    buffer = ctx.temporary(value.dtype, ix.product(shape))
    total = Reduce("total", "sum", ex.cast(value, dtype), inner, dtype)
    outer = tuple(place[label] for label in output)
    ctx.nest(outer, [total, Store(buffer, Plain(shape).offset(outer), ex.cast(ex.local("total", dtype), value.dtype))])
    return ctx.in_memory(buffer, shape)

"""What several families need for axes, shape-like inputs and views: no operators of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sardonyx import errors
from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.index import Dim
from sardonyx.compiler.lower import Lowering, Unsupported
from sardonyx.compiler.tensor import Plain, Position, Tensor

MOST_LISTED = 64  # elements of a tensor that is handled one by one, as shapes are


def axis_of(ctx: Lowering, axis: int, rank: int) -> int:
    """`axis` counted from the front; ModelError when there is no such axis."""
    if not -rank <= axis < rank:
        problem = f"axis {axis} of a tensor of rank {rank}"
        raise errors.ModelError(problem, node=ctx.node, operator=ctx.operator, hint=f"axes are {-rank}..{rank - 1}")
    return axis % rank


def axes_of(ctx: Lowering, axes: Sequence[int], rank: int) -> list[int]:
    """`axes` counted from the front, each at most once."""
    found = [axis_of(ctx, axis, rank) for axis in axes]
    if len(set(found)) != len(found):
        raise errors.ModelError(f"repeated axes {list(axes)}", node=ctx.node, operator=ctx.operator)
    return found


def integers(ctx: Lowering, tensor: Tensor, what: str) -> list[int]:
    """The elements of a rank-1 input that must be known before the run."""
    values = [ex.as_index(ex.cast(value, "int64")) for value in ctx.elements(tensor)]
    known = [value for value in values if isinstance(value, int)]
    if len(known) != len(values):
        raise Unsupported(f"{what} known only at run time")
    return known


def are_known(ctx: Lowering, tensor: Tensor) -> bool:
    """True when all elements of a shape-like input are known before the run."""
    return all(isinstance(ex.as_index(value), int) for value in ctx.elements(tensor))


def names_axis(value: Expr, axis: int, rank: int) -> Expr:
    """True when `value`, negative ones counted from the end, means `axis`."""
    value = ex.cast(value, "int64")
    return value.equal(axis) | value.equal(axis - rank)


def by_axis(
    axes: Sequence[Expr], lists: Sequence[Sequence[Expr]], defaults: Sequence[int], rank: int
) -> list[list[Expr]]:
    """For each list of values that belong to run-time `axes`, one value for every axis."""
    result = []
    for values, default in zip(lists, defaults, strict=True):
        spread = []
        for k in range(rank):
            chosen = ex.constant(default, "int64")
            for axis, value in zip(axes, values, strict=True):
                chosen = ex.select(names_axis(axis, k, rank), ex.cast(value, "int64"), chosen)
            spread.append(chosen)
        result.append(spread)
    return result


def dims(ctx: Lowering, tensor: Tensor, *, lower: int | None = 0) -> list[Dim]:
    """The elements of a rank-1 input as dims."""
    return [ctx.dim(value, lower=lower) for value in ctx.elements(tensor)]


def vector(ctx: Lowering, values: Sequence[Expr], dtype: str = "int64") -> Tensor:
    """A rank-1 tensor of given elements; an element at a known position is the expression itself."""

    def element(position: Position) -> Expr:
        (i,) = position
        if isinstance(i, int):
            return values[i] if 0 <= i < len(values) else ex.constant(0, dtype)
        result = values[-1] if values else ex.constant(0, dtype)
        for number in range(len(values) - 2, -1, -1):
            result = ex.select(ex.index(i).equal(number), values[number], result)
        return result

    return ctx.lazy(dtype, (len(values),), element)


def is_listed(tensor: Tensor) -> bool:
    """True for short integer vectors, whose elements are worth knowing one by one."""
    length = 1 if tensor.rank == 0 else tensor.shape[0]
    return (
        tensor.rank <= 1
        and tensor.dtype in ("int64", "int32")
        and isinstance(length, int)
        and length <= MOST_LISTED
        and (tensor.buffer is None or tensor.layout == Plain(tensor.shape))
    )


def moved(ctx: Lowering, x: Tensor, shape: Sequence[Dim], origin: Callable[[Position], Position]) -> Tensor:
    """A view of `shape` whose element at a position is that of `x` at ``origin(position)``, none read twice."""
    view = ctx.lazy(x.dtype, shape, lambda i: x.at(origin(i)), sources=[x])
    view.prefers = Plain
    return view


def reshaped(ctx: Lowering, x: Tensor, shape: Sequence[Dim]) -> Tensor:
    """`x` in another shape of as many elements, without copying where an index map can say it."""
    shape = tuple(shape)
    if x.array is not None and ix.are_known(shape):
        return ctx.constant(x.array.reshape(shape), x.dtype)
    if x.buffer is not None and x.layout == Plain(x.shape):
        return ctx.in_memory(x.buffer, shape)
    groups = _groups(x.shape, shape)
    if groups is None:
        plain = ctx.plain(x)
        assert plain.buffer is not None
        return ctx.in_memory(plain.buffer, shape)

    def origin(position: Position) -> Position:
        found: list[Dim] = []
        for old, new in groups:
            own = tuple(position[axis] for axis in new)
            if len(old) == len(new) == 1:
                found.append(own[0])
                continue
            flat = Plain(tuple(shape[axis] for axis in new)).offset(own)
            found += unflatten(flat, [x.shape[axis] for axis in old])
        return tuple(found)

    def element(position: Position) -> Expr:
        if x.buffer is not None and x.layout == Plain(x.shape):
            return ex.load(x.buffer, Plain(shape).offset(position))
        return x.at(origin(position))

    view = ctx.lazy(x.dtype, shape, element, sources=[x])
    view.prefers = x.prefers if shape == x.shape else Plain
    view.rows = x if x.rows is None or x.buffer is not None else x.rows
    return view


def unflatten(flat: Dim, shape: Sequence[Dim]) -> list[Dim]:
    """The position in row-major `shape` of element number `flat`."""
    found: list[Dim] = []
    for axis, extent in enumerate(shape):
        inner = ix.product(shape[axis + 1 :])
        i = ix.floordiv(flat, inner)
        found.append(i if axis == 0 else ix.mod(i, extent))
    return found


def _groups(old: Sequence[Dim], new: Sequence[Dim]) -> list[tuple[range, range]] | None:
    """Runs of axes of equal size in both shapes, where each run only merges or only splits axes; else None."""
    groups: list[tuple[range, range]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        first_i, first_j = i, j
        left, right = (old[i] if i < len(old) else 1), (new[j] if j < len(new) else 1)
        i, j = min(i + 1, len(old)), min(j + 1, len(new))
        while left != right:
            if i < len(old) and (left == 1 or _divides(left, right)):
                left, i = left * old[i], i + 1
            elif j < len(new) and (right == 1 or _divides(right, left)):
                right, j = right * new[j], j + 1
            else:
                return None
        groups.append((range(first_i, i), range(first_j, j)))
    if any(sum(old[a] != 1 for a in x) > 1 and sum(new[a] != 1 for a in y) > 1 for x, y in groups):
        return None
    return groups


def _divides(x: Dim, y: Dim) -> bool:
    return x != 0 and x * ix.floordiv(y, x) == y

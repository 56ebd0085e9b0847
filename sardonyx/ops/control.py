"""Control flow. Bodies are lowered into blocks of their own and run as C loops and branches.

Sequences, optionals and values that change their rank stay Python objects: nodes that carry them run on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from sardonyx import errors
from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.host import captured_values
from sardonyx.compiler.index import Dim
from sardonyx.compiler.lower import Unsupported
from sardonyx.compiler.program import Append, Block, Branch, Buffer, Check, Define, Move, Repeat
from sardonyx.compiler.tensor import Plain, Tensor
from sardonyx.ops.node import Node
from sardonyx.ops.registry import operator

if TYPE_CHECKING:
    from sardonyx.compiler.graph import GraphLowering

ATTEMPTS = 4  # at finding which dims of a loop's carried values change


def _prepare(ctx: GraphLowering, node: Node) -> None:
    ctx.force(ctx.value(value) for value in captured_values(node.ir))


@operator("If")
def if_(ctx: GraphLowering, node: Node, condition: Tensor) -> tuple[Tensor, ...]:
    """Runs one of two graphs."""
    choice = condition.scalar()
    if choice.op == "const":
        return tuple(ctx.graph(node.graph("then_branch" if choice.value else "else_branch")))
    if not ctx.follows_from_inputs(choice):
        choice = ctx.cheap(condition).scalar()
    _prepare(ctx, node)
    (then, first), (otherwise, second) = (_branch(ctx, node.graph(name)) for name in ("then_branch", "else_branch"))
    if first is None and second is None:
        raise errors.ShapeError(f"neither branch is valid: {_reason(then)}", node=node.name, operator="If")
    results: list[Tensor] = []
    pairs = list(zip(first or second or (), second or first or (), strict=True))
    endings: tuple[list, list] = ([], [])
    if any(x.is_object or y.is_object or x.dtype != y.dtype or x.rank != y.rank for x, y in pairs):
        return _assumed(ctx, node, choice)
    for x, y in pairs:
        shape = tuple(a if a == b else ix.symbol(ctx.fresh("s")) for a, b in zip(x.shape, y.shape, strict=True))
        target = ctx.temporary(x.dtype, ix.product(shape))
        results.append(ctx.in_memory(target, shape))
        for ending, tensor in zip(endings, (x, y), strict=True):
            ending.append((target, shape, tensor))
    for block, ending, valid in ((then, endings[0], first), (otherwise, endings[1], second)):
        if valid is not None:
            _hand_over(ctx, block, ending)
    ctx.emit(Branch(choice, then, otherwise))
    return tuple(results)


def _assumed(ctx: GraphLowering, node: Node, choice: ex.Expr) -> tuple[Tensor, ...]:
    """The branch that is assumed to be taken, in place, where the two give values of different types or ranks."""
    name = "then_branch" if ctx.assume(choice, "condition", False) else "else_branch"
    _forget(ctx, node.graph(name))
    return tuple(ctx.graph(node.graph(name)))


def _branch(ctx: GraphLowering, graph: ir.Graph) -> tuple[Block, list[Tensor] | None]:
    """A branch in a block of its own; one whose shapes can't be right fails only if it is taken."""
    block = ctx.enter()
    assumed = len(ctx.assumed)
    try:
        return block, ctx.graph(graph)
    except errors.ShapeError as problem:
        if len(ctx.assumed) > assumed:  # it may be what was assumed in the branch that is wrong
            raise
        block.steps = [Check(ex.constant(False, "bool"), "shape", str(problem), node=ctx.node, operator=ctx.operator)]
        return block, None
    finally:
        ctx.block = block
        ctx.leave()


def _reason(block: Block) -> str:
    (check,) = block.steps
    assert isinstance(check, Check)
    return check.message


def _hand_over(ctx: GraphLowering, block: Block, ending: Sequence[tuple[Buffer, tuple[Dim, ...], Tensor]]) -> None:
    """Append to `block` what gives each target its memory and its symbols their values."""
    outer, ctx.block = ctx.block, block
    fresh = []
    for target, _, tensor in ending:
        buffer = ctx.temporary(target.dtype, tensor.size)
        ctx.materialize(tensor, Plain(tensor.shape), buffer)
        fresh.append(buffer)
    # All symbols change at once: the new values may be computed from old ones.
    changes = []
    for _, shape, tensor in ending:
        for symbol, dim in zip(shape, tensor.shape, strict=True):
            if symbol != dim:
                changes.append((symbol, ix.symbol(ctx.fresh("s"), lower=None), dim))
    for _, temporary, dim in changes:
        ctx.emit(Define(temporary, ex.index(dim)))
    for symbol, temporary, _ in changes:
        ctx.emit(Define(symbol, ex.index(temporary)))
    for (target, _, _), buffer in zip(ending, fresh, strict=True):
        ctx.emit(Move(target, buffer))
    ctx.block = outer


@operator("Loop")
def loop(
    ctx: GraphLowering, node: Node, trips: Tensor | None, condition: Tensor | None = None, *initial: Tensor
) -> tuple[Tensor, ...]:
    """Runs its body up to `trips` times while its condition holds."""
    body = node.graph("body")
    limit = None if trips is None else ctx.dim(ctx.cheap(trips).scalar(), lower=None)
    start = ex.constant(True, "bool") if condition is None else ctx.cheap(condition).scalar()

    def bind(iteration: Dim, going: Dim, carried: Sequence[Tensor]) -> None:
        number, goes, *rest = body.inputs
        counter = ctx.lazy("int64", _one(number), lambda i: ex.index(iteration))
        flag = ctx.lazy("bool", _one(goes), lambda i: ex.compare("ne", ex.index(going), 0))
        for value, tensor in zip((number, goes, *rest), (counter, flag, *carried), strict=True):
            ctx.values[value] = tensor

    carried, collected = _repeat(ctx, node, body, limit, start, initial, bind, with_condition=True)
    return (*carried, *collected)


def _one(value: ir.Value) -> tuple[Dim, ...]:
    return (1,) * (len(value.shape) if value.shape is not None else 0)


@operator("Scan", since=9)
def scan(ctx: GraphLowering, node: Node, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Runs its body over slices of its inputs, handing state from one to the next."""
    body = node.graph("body")
    count = node.attr("num_scan_inputs")
    states, sources = inputs[: len(inputs) - count], inputs[len(inputs) - count :]
    axes = [axis % x.rank for axis, x in zip(node.attr("scan_input_axes") or [0] * count, sources, strict=True)]
    backwards = node.attr("scan_input_directions") or [0] * count
    ctx.force(sources)
    length = sources[0].shape[axes[0]]
    for x, axis in zip(sources, axes, strict=True):
        ctx.equal_dims(length, x.shape[axis], "lengths of scanned inputs differ")

    def part(x: Tensor, axis: int, reverse: int, iteration: Dim) -> Tensor:
        at = length - 1 - iteration if reverse else iteration
        shape = (*x.shape[:axis], *x.shape[axis + 1 :])
        return ctx.lazy(x.dtype, shape, lambda i: x.at((*i[:axis], at, *i[axis:])), sources=[x])

    def bind(iteration: Dim, going: Dim, carried: Sequence[Tensor]) -> None:
        slices = [part(x, a, r, iteration) for x, a, r in zip(sources, axes, backwards, strict=True)]
        for value, tensor in zip(body.inputs, (*carried, *slices), strict=True):
            ctx.values[value] = tensor

    start = ex.constant(True, "bool")
    carried, collected = _repeat(ctx, node, body, length, start, states, bind, with_condition=False)
    outputs = [_arranged(ctx, node, number, x) for number, x in enumerate(collected)]
    return (*carried, *outputs)


def _arranged(ctx: GraphLowering, node: Node, number: int, x: Tensor) -> Tensor:
    """A collected output along its own axis and in its own direction."""
    axes, directions = node.attr("scan_output_axes"), node.attr("scan_output_directions")
    axis = axes[number] % x.rank if axes else 0
    return _turned(ctx, x, axis, reverse=bool(directions and directions[number]))


def _turned(ctx: GraphLowering, x: Tensor, axis: int, *, reverse: bool = False) -> Tensor:
    """`x` with its first axis at the place of `axis`, from its end if `reverse`."""
    if axis == 0 and not reverse:
        return x
    shape = (*x.shape[1 : axis + 1], x.shape[0], *x.shape[axis + 1 :])

    def element(i: tuple[Dim, ...]) -> ex.Expr:
        first = x.shape[0] - 1 - i[axis] if reverse else i[axis]
        return x.at((first, *i[:axis], *i[axis + 1 :]))

    return ctx.lazy(x.dtype, shape, element, sources=[x])


@operator("StackedAlong", domain="ai.sardonyx")
def stacked_along(ctx: GraphLowering, node: Node, x: Tensor) -> Tensor:
    """What ConcatFromSequence makes of elements [n, ...]: with a new axis, or along one that is 1 in each of them."""
    ctx.native(x)
    new = node.attr("new_axis", 0)
    axis = node.attr("axis") % (x.rank if new else x.rank - 1)
    if new:
        return _turned(ctx, x, axis)
    ctx.equal_dims(x.shape[axis + 1], 1, "the joined axis of an element is not 1")
    shape = (*x.shape[1 : axis + 1], x.shape[0], *x.shape[axis + 2 :])
    return ctx.lazy(x.dtype, shape, lambda i: x.at((i[axis], *i[:axis], 0, *i[axis + 1 :])), sources=[x])


def _repeat(
    ctx: GraphLowering, node: Node, body: ir.Graph, limit: Dim | None, start: ex.Expr, initial: Sequence[Tensor],
    bind: Callable[[Dim, Dim, Sequence[Tensor]], None], *, with_condition: bool,
) -> tuple[list[Tensor], list[Tensor]]:  # fmt: skip
    """The loop; returns the carried values after it and the collected outputs."""
    if any(x.is_object for x in initial):
        raise Unsupported("the loop carries a value that is no tensor of known rank")
    _prepare(ctx, node)
    ctx.force(initial)
    shapes = [x.shape for x in initial]
    iteration = ix.symbol(ctx.fresh("s"))
    going = ix.symbol(ctx.fresh("s"))
    for _ in range(ATTEMPTS):
        carried = [ctx.temporary(x.dtype, ix.product(s)) for x, s in zip(initial, shapes, strict=True)]
        block = ctx.enter()
        placed = len(ctx.program.placement)
        try:
            bind(iteration, going, [ctx.in_memory(b, s) for b, s in zip(carried, shapes, strict=True)])
            results = ctx.graph(body)
        finally:
            ctx.block = block
            ctx.leave()
        updates = results[with_condition : with_condition + len(initial)]
        found = [_widened(ctx, s, x) for s, x in zip(shapes, updates, strict=True)]
        if found == shapes:
            break
        shapes = found
        del ctx.program.placement[placed:]
        _forget(ctx, body)
    else:
        raise Unsupported("the shapes that the loop carries do not settle")
    return _emit_loop(ctx, block, limit, start, initial, carried, shapes, results, iteration, going, with_condition)


def _widened(ctx: GraphLowering, shape: tuple[Dim, ...], update: Tensor) -> tuple[Dim, ...]:
    """`shape` with a symbol of its own for each dim that an iteration changes."""
    if update.is_object or update.rank != len(shape):
        raise Unsupported("the loop carries a value that changes its rank")
    own = [isinstance(a, ix.Index) and a.key.startswith("1*loop") for a in shape]
    return tuple(
        a if a == b or mine else ix.symbol(ctx.fresh("loop"))
        for a, b, mine in zip(shape, update.shape, own, strict=True)
    )


def _forget(ctx: GraphLowering, graph: ir.Graph) -> None:
    for value in graph.inputs:
        ctx.values.pop(value, None)
    for node in graph:
        for value in node.outputs:
            ctx.values.pop(value, None)
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                _forget(ctx, attribute.value)


def _emit_loop(
    ctx: GraphLowering, block: Block, limit: Dim | None, start: ex.Expr, initial: Sequence[Tensor],
    carried: Sequence[Buffer], shapes: Sequence[tuple[Dim, ...]], results: Sequence[Tensor], iteration: Dim,
    going: Dim, with_condition: bool,
) -> tuple[list[Tensor], list[Tensor]]:  # fmt: skip
    """Emit the steps around `block`, the body; returns what `_repeat` does."""
    for x, buffer, shape in zip(initial, carried, shapes, strict=True):
        fresh = ctx.temporary(x.dtype, x.size)
        ctx.materialize(x, Plain(x.shape), fresh)
        ctx.emit(Move(buffer, fresh))
        for symbol, dim in zip(shape, x.shape, strict=True):
            if symbol != dim:
                ctx.emit(Define(symbol, ex.index(dim)))
    outer, ctx.block = ctx.block, block
    collected = [_collect(ctx, outer, x, iteration) for x in results[with_condition + len(initial) :]]
    condition = None
    if with_condition:
        again = ctx.cheap(results[0]).scalar()
        always = again.op == "const" and again.value and start.op == "const" and start.value
        condition = None if always and limit is not None else going
        ctx.emit(Define(going, ex.cast(again, "int64")))
    ending = [(b, s, x) for b, s, x in zip(carried, shapes, results[with_condition:], strict=False)]
    ctx.block = outer
    _hand_over(ctx, block, ending)
    if condition is not None:
        ctx.emit(Define(going, ex.cast(start, "int64")))
    ctx.emit(Repeat(limit, condition, iteration, block))
    return [ctx.in_memory(b, s) for b, s in zip(carried, shapes, strict=True)], collected


def _collect(ctx: GraphLowering, outer: Block, x: Tensor, iteration: Dim) -> Tensor:
    """Gather one element per iteration behind each other."""
    if x.is_object:
        raise Unsupported("the loop collects a value that is no tensor of known rank")
    known = {atom for symbol in ctx.program.entry_symbols() for atom in ix.atoms(symbol)}
    shape: list[Dim] = []
    for dim in x.shape:
        if all(atom in known for atom in ix.atoms(dim) if atom.kind == "symbol"):
            shape.append(dim)
            continue
        symbol = ix.symbol(ctx.fresh("s"))
        first = ex.index(iteration).equal(0) | ex.index(symbol).equal(ex.index(dim))
        ctx.check(first, "shape", "the elements that a loop collects differ in shape")
        ctx.emit(Define(symbol, ex.index(dim)))
        shape.append(symbol)
    element = ctx.plain(x)
    target = Buffer(ctx.fresh("b"), x.dtype, iteration * ix.product(shape), block=outer)
    assert element.buffer is not None
    ctx.emit(Append(target, element.buffer, ix.product(shape), iteration))
    return ctx.in_memory(target, (iteration, *shape))

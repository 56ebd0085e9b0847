"""Concatenation without copies: values are computed where they are wanted in the end.

A first lowering tells the shapes and layouts of all values. From those follows, for each Concat, one piece of memory
and the *part* of it that each input takes; the second lowering stores the inputs there at once. A Concat that is an
input of a later one, or whose inputs are a run of a later one's, is a part of that one's memory: the growing
concatenations of DenseNet are prefixes of one buffer.

An input is copied, as ever, where its part can't be written in place: it is an input, output or weight of the model, is
wanted in control flow, has a part elsewhere already, or begins in the middle of a block of 16 channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from sardonyx.compiler import index as ix
from sardonyx.compiler.dtypes import is_native
from sardonyx.compiler.index import Atom, Dim
from sardonyx.compiler.program import Program
from sardonyx.compiler.tensor import LANES, ChannelsLast, Layout, Plain, Tensor
from sardonyx.ops.shapes import is_listed

__all__ = ["Part", "find_parts"]


@dataclass(frozen=True)
class Part:
    """Where a value lies: in the memory of the value `whole`, which has the layout `room`, as `layout` says."""

    dtype: str
    whole: ir.Value
    room: Layout
    layout: Layout


@dataclass(frozen=True)
class _Join:
    """A Concat whose shapes are known before the first step."""

    value: ir.Value
    inputs: tuple[ir.Value, ...]
    axis: int
    extents: tuple[Dim, ...]  # of the inputs along the axis
    layout: Layout  # of the result, as a whole

    def start(self, number: int) -> Dim:
        """Where input `number` begins along the axis."""
        return ix.total(self.extents[:number])


def find_parts(graph: ir.Graph, values: Mapping[ir.Value, Tensor], program: Program) -> dict[ir.Value, Part]:
    """The parts that values of `graph` take, by what a first lowering (`values`, `program`) made of them."""
    known = {atom for symbol in program.entry_symbols() for atom in ix.atoms(symbol)}
    joins = [join for node in graph if (join := _as_join(node, values, known)) is not None]
    parts: dict[ir.Value, Part] = {}
    done: list[_Join] = []
    for join in reversed(joins):  # what a Concat is part of comes later
        if join.value not in parts:
            parts[join.value] = _run_of(join, done, parts) or Part(
                values[join.value].dtype, join.value, join.layout, join.layout
            )
        own = parts[join.value]
        for number, value in enumerate(join.inputs):
            place = _slice(own.layout, join, number, join.extents[number])
            if place is not None and value not in parts and _may_move(value, graph, values[value], place):
                parts[value] = Part(own.dtype, own.whole, own.room, place)
        done.append(join)
    shared = {part.whole for value, part in parts.items() if value is not part.whole}
    return {value: part for value, part in parts.items() if part.whole in shared}


def _as_join(node: ir.Node, values: Mapping[ir.Value, Tensor], known: set[Atom]) -> _Join | None:
    axis = node.attributes.get("axis")
    if node.op_type != "Concat" or node.domain not in ("", "ai.onnx") or axis is None or node.outputs[0] not in values:
        return None
    result = values[node.outputs[0]]
    inputs = [value for value in node.inputs if value is not None and value in values]
    tensors = [values[value] for value in inputs]
    if len(inputs) != len(node.inputs) or any(not _is_plannable(x, known) for x in (result, *tensors)):
        return None
    if result.buffer is None or result.layout is None or any(x.dtype != result.dtype for x in tensors):
        return None
    place = axis.as_int() % result.rank
    extents = tuple(x.shape[place] for x in tensors)
    if 0 in extents or is_listed(result):
        return None
    layout = type(result.layout)(result.shape)
    return _Join(node.outputs[0], tuple(inputs), place, extents, layout)


def _is_plannable(x: Tensor, known: set[Atom]) -> bool:
    if x.is_object or not is_native(x.dtype) or x.rank == 0:
        return False
    atoms = {atom for dim in x.shape for atom in ix.atoms(dim)}
    return all(atom in known for atom in atoms if atom.kind == "symbol")


def _slice(layout: Layout, join: _Join, number: int, extent: Dim) -> Layout | None:
    """The part of `layout`, that of `join`, from input `number` on; None where it is not one of memory."""
    start = join.start(number)
    if isinstance(layout, Plain) or join.axis == 0:
        return layout.part(join.axis, start, extent)
    whole = isinstance(layout, ChannelsLast) or (isinstance(start, int) and start % LANES == 0)
    return layout.part(1, start, extent) if join.axis == 1 and whole else None


def _run_of(join: _Join, later: Sequence[_Join], parts: Mapping[ir.Value, Part]) -> Part | None:
    """The part of a later Concat's memory that holds the inputs of `join` side by side, if there is one.

    Not in rows: whoever reads them wants them without gaps.
    """
    if join.value.is_graph_output() or isinstance(join.layout, Plain):
        return None
    count = len(join.inputs)
    for other in later:
        own = parts[other.value]
        if other.axis != join.axis or type(own.layout) is not type(join.layout):
            continue
        for first in range(len(other.inputs) - count + 1):
            if other.inputs[first : first + count] == join.inputs:
                place = _slice(own.layout, other, first, ix.total(join.extents))
                if place is not None and place.shape == join.layout.shape:
                    return Part(own.dtype, own.whole, own.room, place)
    return None


def _may_move(value: ir.Value, graph: ir.Graph, x: Tensor, place: Layout) -> bool:
    """Whether `value` can be stored at `place` as soon as it is computed, and is as good there for all who read it."""
    node = value.producer()
    if node is None or node.graph is not graph or value.is_graph_output() or x.array is not None:
        return False
    if sum(bool(output.name) for output in node.outputs) != 1 or place.shape != x.shape:
        return False
    users = [usage.node for usage in value.uses()]
    if any(user.graph is not graph for user in users):
        return False
    return not isinstance(place, Plain) or all(user.op_type == "Concat" for user in users)

"""Loops that append to a sequence, which is joined after them, collect a tensor instead.

    s = SequenceEmpty
    ..., s' = Loop(..., s) { s_out = SequenceInsert(s_in, x) }      ..., t = Loop(...) { collects x: t = [trips, ...] }
    y = ConcatFromSequence(s')                                  =   y = StackedAlong(t)

What PyTorch writes for `outputs.append(x)` in a loop and `torch.stack(outputs)` or `torch.cat(outputs)` after it. A
sequence is an object of the interpreter, and so were the loop, all that follows it, and their shapes; a collected
output is memory.
"""

from __future__ import annotations

import onnx_ir as ir

from sardonyx.optimizer import quantized as qz
from sardonyx.optimizer.fuse_attention import DOMAIN

__all__ = ["StackInLoops"]


class StackInLoops(ir.passes.InPlacePass):
    """Rewrites each sequence that a Loop begins empty, only appends to, and that is only joined after it."""

    def requires(self, model: ir.Model) -> None:
        """Any model will do."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace what fits, in the graph and its subgraphs."""
        return qz.replace_each(model, ("SequenceEmpty",), DOMAIN, _stack_all, "the sequence %s stays one: %s")


def _stack_all(model: ir.Model, empty: ir.Node) -> str:
    """Replace what `empty` becomes in loops; why not, or nothing."""
    replaced, reason = False, "no loop carries it"
    waiting = list(empty.outputs[0].uses())
    while waiting:
        loop, position = waiting.pop()
        reason = _stack(loop, position)
        if not reason:
            replaced, waiting = True, list(empty.outputs[0].uses())  # a loop that carries it twice is another one now
    return "" if replaced else reason


def _stack(loop: ir.Node, position: int) -> str:
    """Let `loop` collect what it appends to its input number `position`; why not, or nothing."""
    if not qz.is_operator(loop, "Loop"):
        return "no loop carries it"
    slot = position - 2
    body = loop.attributes["body"].as_graph()
    before, after, result = body.inputs[position], body.outputs[1 + slot], loop.outputs[slot]
    insert = after.producer()
    if insert is None or not qz.is_operator(insert, "SequenceInsert") or insert.graph is not body:
        return "the body does not end by appending"
    if insert.inputs[0] is not before or any(value is not None for value in insert.inputs[2:]):
        return "the body inserts elsewhere than at the end"
    if len(before.uses()) > 1 or after.uses() or list(body.outputs).count(after) > 1:
        return "the body reads it"
    element, joins = insert.inputs[1], [user for user, _ in result.uses()]
    assert element is not None
    if not joins or result.is_graph_output():
        return "it is a result"
    if not all(qz.is_operator(join, "ConcatFromSequence") and _fits(join, element) for join in joins):
        return "it is read otherwise than by joining elements of one shape"
    stacked = _collect(loop, slot, element, insert)
    for join in joins:
        _join(join, stacked)
    return ""


def _fits(join: ir.Node, element: ir.Value) -> bool:
    """Whether the joined elements must be of one shape: stacked ones are, others where the axis was put in as 1."""
    if qz.number(join, "new_axis", 0):
        return True
    producer = element.producer()
    if producer is None or not qz.is_operator(producer, "Unsqueeze") or len(producer.inputs) < 2:
        return False
    axes = producer.inputs[1]
    if axes is None or axes.const_value is None:
        return False
    return qz.number(join, "axis", 0) in qz.array_of(axes).reshape(-1).tolist()


def _collect(loop: ir.Node, slot: int, element: ir.Value, insert: ir.Node) -> ir.Value:
    """Put in place of `loop` one that collects `element` instead of carrying the sequence in `slot`."""
    body, graph = loop.attributes["body"].as_graph(), loop.graph
    assert graph is not None
    if element in body.outputs or element.producer() is None or element.graph is not body:
        body.append(ir.node("Identity", [element]))
        element = body[-1].outputs[0]
    body.outputs[:] = [*(value for number, value in enumerate(body.outputs) if number != 1 + slot), element]
    body.remove(insert, safe=True)
    del body.inputs[2 + slot]
    inputs = [value for number, value in enumerate(loop.inputs) if number != 2 + slot]
    attributes, count = list(loop.attributes.values()), len(loop.outputs)
    fresh = ir.Node("", "Loop", inputs, attributes, num_outputs=count, name=loop.name, version=loop.version)
    graph.insert_before(loop, fresh)
    outputs = [*fresh.outputs[:slot], fresh.outputs[-1], *fresh.outputs[slot:-1]]
    for old, new in zip(loop.outputs, outputs, strict=True):
        new.name, new.type, new.shape = old.name, old.type, old.shape
        qz.replace(old, new)
    stacked = fresh.outputs[-1]
    stacked.type = None if element.type is None else ir.TensorType(element.type.dtype)
    return stacked


def _join(join: ir.Node, stacked: ir.Value) -> None:
    """Put in place of `join` what brings the axis of iterations to its place."""
    old = join.outputs[0]
    attributes = list(join.attributes.values())
    fresh = ir.Node(DOMAIN, "StackedAlong", [stacked], attributes, num_outputs=1, name=join.name, version=1)
    assert join.graph is not None
    join.graph.insert_before(join, fresh)
    new = fresh.outputs[0]
    new.name, new.type, new.shape = old.name, old.type, old.shape
    qz.replace(old, new)

"""Control flow, and variables that keep their value from run to run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from sardonyx.converters.building import Builder, constant_of, set_type
from sardonyx.converters.tflite_graph import Node, Subgraph, Variable, Wire, operator
from sardonyx.errors import ConversionError

_MOST_CALLS = 2000  # a chain of branches that each call the next one twice doubles with each link


def inline(c: Subgraph, number: int, values: Sequence[ir.Value], builder: Builder) -> Subgraph:
    """Subgraph `number` with its inputs bound to stored `values`, added to `builder`."""
    c.state.calls += 1
    if c.state.calls > _MOST_CALLS:
        raise ConversionError(f"branches and loops call subgraphs more than {_MOST_CALLS} times", node=c.b.place)
    inner = Subgraph(c.model, number, builder, c.state)
    inner.handles = c.handles
    wires = inner.given(inner.raw.inputs)
    for wire, value in zip(wires, values, strict=False):
        wire.forms[not wire.quantised and wire.real, False] = value
    inner.convert()
    return inner


def results(inner: Subgraph) -> list[ir.Value]:
    """What a subgraph gives, as it is stored; each value by a node of its own graph."""
    found: list[ir.Value] = []
    own = {id(node) for node in inner.b.nodes}
    for wire in inner.given(inner.raw.outputs):
        value = inner.stored(wire)
        own = {id(node) for node in inner.b.nodes}
        if id(value.producer()) not in own or value in found:
            value = inner.b.op("Identity", value)
        found.append(value)
    return found


def scalar_condition(b: Builder, value: ir.Value) -> ir.Value:
    """A condition without dimensions."""
    return (
        value if value.shape is not None and len(value.shape) == 0 else (b.op("Reshape", value, np.zeros(0, np.int64)))
    )


@operator("IF")
def if_(c: Subgraph, node: Node) -> None:
    """One of two subgraphs."""
    o = node.options(c.model, "If")
    values = [c.stored(wire) for wire in node.ins[1:] if wire is not None]
    condition = scalar_condition(c.b, c.stored(node.input(0)))
    branches = []
    for number in (o.then_subgraph, o.else_subgraph):
        inner = inline(c, _other(c, node, number), values, Builder(c.b.opset, c.b))
        branches.append(inner.b.graph(results(inner), f"branch_{number}"))
    outputs = c.b.many("If", condition, outputs=len(node.outs), then_branch=branches[0], else_branch=branches[1])
    _give(c, node, outputs)


@operator("WHILE")
def while_(c: Subgraph, node: Node) -> None:
    """A subgraph that is repeated as long as another says so."""
    o = node.options(c.model, "While")
    wires = [wire for wire in node.ins if wire is not None]
    values = [c.stored(wire) for wire in wires]
    test, body = _other(c, node, o.cond_subgraph), _other(c, node, o.body_subgraph)
    start = scalar_condition(c.b, results(inline(c, test, values, c.b))[0])
    b = Builder(c.b.opset, c.b)
    b.input("iteration", "int64", [])
    b.input("go_on", "bool", [])
    # A variable's shape may differ from pass to pass where the source leaves it open.
    inner_wires = Subgraph(c.model, body, b, c.state).given(c.model.subgraphs[body].inputs)
    state = [b.input(wire.name, wire.dtype, wire.shape) for wire in inner_wires]
    again = results(inline(c, body, state, b))
    go_on = scalar_condition(b, results(inline(c, test, again, b))[0])
    if go_on.producer() is None:
        go_on = b.op("Identity", go_on)
    outputs = c.b.many("Loop", None, start, *values, outputs=len(again), body=b.graph([go_on, *again], "body"))
    _give(c, node, outputs)


def _give(c: Subgraph, node: Node, outputs: Sequence[ir.Value]) -> None:
    for out, value in zip(node.outs, outputs, strict=True):
        c.set_stored(out, set_type(value, out.dtype, out.shape))


def _other(c: Subgraph, node: Node, number: int) -> int:
    """A subgraph that is called: a later one, so that none calls itself without end."""
    if not c.number < number < len(c.model.subgraphs):
        raise node.refuse(f"it calls subgraph {number} of {len(c.model.subgraphs)} from {c.number}")
    return int(number)


@operator("CALL_ONCE")
def call_once(c: Subgraph, node: Node) -> None:
    """Sets variables before the first run: their initial values."""
    inner = Subgraph(
        c.model, _other(c, node, node.options(c.model, "CallOnce").init_subgraph), Builder(c.b.opset), c.state
    )
    inner.initialises = True
    inner.convert()


@operator("VAR_HANDLE")
def var_handle(c: Subgraph, node: Node) -> None:
    """A variable's name."""
    o = node.options(c.model, "VarHandle")
    c.handles[c.number, node.out.number] = o.shared_name or o.container or node.out.name


def _name(c: Subgraph, node: Node) -> str:
    key = c.number, node.input(0).number
    if key not in c.handles:
        raise node.refuse("a variable that is passed into a branch or loop", "Read and write it outside of these.")
    return c.handles[key]


@operator("READ_VARIABLE")
def read_variable(c: Subgraph, node: Node) -> None:
    """The value at this point of the run."""
    name = _name(c, node)
    if name not in c.state.written and name in c.state.initial:
        c.set_stored(node.out, c.b.op("Identity", c.b.constant(c.state.initial[name])))
        return
    variable = c.state.variables.get(name)
    if variable is None:
        variable = c.state.variables[name] = new_variable(c, name, node.out)
    if variable.written is None:
        variable.reads.append(node.out.number)
    assert variable.now is not None
    node.out.forms[not node.out.quantised and node.out.real, False] = variable.now


@operator("ASSIGN_VARIABLE")
def assign_variable(c: Subgraph, node: Node) -> None:
    """The value from this point of the run on."""
    name, wire = _name(c, node), node.input(1)
    if c.initialises:
        found = constant_of(c.stored(wire))
        if found is None:
            raise node.refuse("an initial value that is computed", "Save the model after its variables were set.")
        c.state.initial[name] = found
        return
    if c.b.outer is not None:
        raise node.refuse("a variable that is written in a branch or loop")
    variable = c.state.variables.get(name)
    if variable is None:
        variable = c.state.variables[name] = Variable(name, None, None, wire)
    variable.now, variable.written = c.stored(wire), wire.number


def new_variable(c: Subgraph, name: str, wire: Wire) -> Variable:
    """A variable as an input of the graph, of the type and shape of `wire`."""
    if c.b.outer is not None:
        raise Node("variable", 0, [], [wire], c.raw, wire.name).refuse("a variable that is read in a branch or loop")
    shape = [1 if size is None else size for size in wire.shape]
    value = c.b.input(name, wire.dtype, shape)
    return Variable(name, value, value, wire)


def state_of(c: Subgraph, wire: Wire) -> Variable:
    """A tensor that keeps its value, as old recurrent operators have them."""
    if wire.name not in c.state.variables:
        variable = c.state.variables[wire.name] = new_variable(c, wire.name, wire)
        variable.tensor = wire.number
    return c.state.variables[wire.name]

"""Recurrent layers. Their states are tensors that keep their value: inputs and outputs of the graph.

Cells clip their state, normalise their gates and project their output, which ONNX's LSTM does not; such a layer becomes
a Scan of its steps, with the products of all inputs in front of it. A plain one becomes an LSTM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sardonyx.converters.building import Builder, set_type
from sardonyx.converters.tflite_graph import Node, Subgraph, Wire, operator
from sardonyx.converters.tflite_ops.control import state_of

_RELU, _TANH = 1, 4
_NORM_EPSILON = 1e-8


@dataclass
class Cell:
    """The weights of one LSTM; lists are in the order input, forget, cell, output, and None is left out.

    Attributes:
        inputs: (units, inputs) each; without the first, the input gate is 1 - the forget gate.
        recurrent: (units, outputs) each.
        peepholes: of input, forget and output.
        biases: one for each gate.
        projection: weights (outputs, units), and bias.
        norms: scales of the normalisation of each gate.
        states: output and cell.
    """

    inputs: list[Wire | None]
    recurrent: list[Wire | None]
    peepholes: list[Wire | None]
    biases: list[Wire | None]
    projection: list[Wire | None]
    norms: list[Wire | None]
    states: list[Wire]

    @property
    def coupled(self) -> bool:
        """Whether there is no input gate of its own."""
        return self.inputs[0] is None

    @property
    def gates(self) -> int:
        """How many gates have weights."""
        return 3 if self.coupled else 4


def _cell(node: Node, start: int, states: tuple[int, int], norms: int | None) -> Cell:
    def wires(first: int, count: int) -> list[Wire | None]:
        return [node.optional(number) for number in range(first, first + count)]

    cell = Cell(
        wires(start, 4), wires(start + 4, 4), wires(start + 8, 3), wires(start + 11, 4), wires(start + 15, 2),
        wires(norms, 4) if norms is not None else [None] * 4, [node.input(number) for number in states],
    )  # fmt: skip
    if any(wire is None for wire in (*cell.inputs[1:], *cell.recurrent[1:], *cell.biases[1:])):
        raise node.refuse("weights of a gate are missing", "The file is damaged.")
    return cell


@operator("UNIDIRECTIONAL_SEQUENCE_LSTM", "LSTM")
def lstm(c: Subgraph, node: Node) -> None:
    """A sequence, or one step of it."""
    single = node.operator == "LSTM"
    options = node.options(c.model, "LSTM" if single else "UnidirectionalSequenceLSTM")
    if single and options.kernel_type == 1:
        _basic(c, node)
        return
    cell = _cell(node, 1, (18, 19), 20)
    x = c.get(node.input(0))
    time_major = single or bool(options.time_major)
    if single:
        x = c.b.op("Unsqueeze", x, np.array([0]))
    result = _run(c, node, x, cell, options, time_major, False)
    c.set(node.outs[-1] if single else node.out, c.b.op("Squeeze", result, np.array([0])) if single else result)


@operator("BIDIRECTIONAL_SEQUENCE_LSTM")
def bidirectional_lstm(c: Subgraph, node: Node) -> None:
    """Forwards and backwards, beside each other or apart."""
    options = node.options(c.model, "BidirectionalSequenceLSTM")
    if any(wire is not None for wire in node.ins[39:48]):
        raise node.refuse("an auxiliary input")
    x = c.get(node.input(0))
    both = [
        _run(c, node, x, _cell(node, start, states, None), options, bool(options.time_major), backwards)
        for start, states, backwards in ((1, (35, 36), False), (18, (37, 38), True))
    ]
    if options.merge_outputs:
        c.set(node.out, c.b.op("Concat", *both, axis=-1))
        return
    for out, value in zip(node.outs, both):
        c.set(out, value)


def _run(
    c: Subgraph, node: Node, x: ir.Value, cell: Cell, options: object, time_major: bool, backwards: bool
) -> ir.Value:
    """The outputs for a sequence; the states of `cell` move on."""
    stored = [wire.const for wire in cell.inputs if wire is not None and wire.const is not None]
    if any(array.dtype.kind in "iu" for array in stored) and not node.input(0).quantised:
        c.state.hybrid.append(node.where)
    states = [_begin(c, wire) for wire in cell.states]
    clips = float(getattr(options, "cell_clip", 0)), float(getattr(options, "proj_clip", 0))
    activation = getattr(options, "activation", _TANH)
    special = any(wire is not None for wire in (*cell.projection, *cell.norms, *cell.peepholes)) or cell.coupled
    if not special and not any(clips) and activation == _TANH and not backwards:
        sequence, *last = _plain(c, x, cell, states, time_major)
    else:
        sequence, *last = _scan(c, node, x, cell, states, clips, activation, time_major, backwards)
    for wire, value in zip(cell.states, last):
        _end(c, wire, value)
    return sequence


def _begin(c: Subgraph, wire: Wire) -> ir.Value:
    variable = state_of(c, wire)
    assert variable.now is not None
    wire.forms[not wire.quantised and wire.real, False] = variable.now
    return c.get(wire)


def _end(c: Subgraph, wire: Wire, value: ir.Value) -> None:
    wire.forms.clear()
    c.set(wire, value)
    state_of(c, wire).now = c.stored(wire)


def _stacked(c: Subgraph, wires: Sequence[Wire | None]) -> ir.Value:
    """Weights (units, n) of several gates as one matrix (n, gates * units)."""
    given = [wire for wire in wires if wire is not None]
    arrays = [wire.const for wire in given if wire.const is not None and wire.const.dtype == np.float32]
    if len(arrays) == len(given):
        return c.b.constant(np.concatenate(arrays).T)
    return c.b.op("Concat", *(c.weights(wire, [1, 0]) for wire in given), axis=1)


def _plain(c: Subgraph, x: ir.Value, cell: Cell, states: list[ir.Value], time_major: bool) -> list[ir.Value]:
    """ONNX's own operator, whose gates are ordered input, output, forget, cell."""
    order = [0, 3, 1, 2]
    w, r = (
        c.b.op("Unsqueeze", c.b.op("Transpose", _stacked(c, [side[n] for n in order]), perm=[1, 0]), np.array([0]))
        for side in (cell.inputs, cell.recurrent)
    )
    parts = [c.get(wire) for n in order if (wire := cell.biases[n]) is not None]
    bias = c.b.op("Concat", *parts, axis=0)
    bias = c.b.op("Unsqueeze", c.b.op("Pad", bias, np.array([0, cell_size(cell) * 4]), np.float32(0)), np.array([0]))
    first = [c.b.op("Unsqueeze", state, np.array([0])) for state in states]
    x = x if time_major else c.b.op("Transpose", x, perm=[1, 0, 2])
    sequence, *last = c.b.many("LSTM", x, w, r, bias, None, *first, outputs=3, hidden_size=cell_size(cell))
    sequence = c.b.op("Squeeze", sequence, np.array([1]))
    sequence = sequence if time_major else c.b.op("Transpose", sequence, perm=[1, 0, 2])
    return [sequence, *(c.b.op("Squeeze", value, np.array([0])) for value in last)]


def cell_size(cell: Cell) -> int:
    """Number of units."""
    wire = cell.inputs[1]
    assert wire is not None
    return wire.size(0) or 0


def _scan(
    c: Subgraph,
    node: Node,
    x: ir.Value,
    cell: Cell,
    states: list[ir.Value],
    clips: tuple[float, float],
    activation: int,
    time_major: bool,
    backwards: bool,
) -> list[ir.Value]:
    """One step after the other; what depends on the input alone is computed for all steps at once."""
    normed = any(wire is not None for wire in cell.norms)
    gates = range(1 if cell.coupled else 0, 4)
    biases = [c.get(wire) for n in gates if (wire := cell.biases[n]) is not None]
    front = c.b.op("MatMul", x, _stacked(c, cell.inputs))
    if not normed:
        front = c.b.op("Add", front, c.b.op("Concat", *biases, axis=0))
    recurrent = _stacked(c, cell.recurrent)
    peepholes = [None if wire is None else c.get(wire) for wire in cell.peepholes]
    norms = [None if wire is None else c.get(wire) for wire in cell.norms[gates.start :]]
    weight, bias = cell.projection
    project = None if weight is None else c.weights(weight, [1, 0])
    shift = None if bias is None else c.get(bias)

    b = Builder(c.b.opset, c.b)
    shapes = [[dim if isinstance(dim, int) else None for dim in state.shape or ()] for state in states]
    h, s = (b.input(name, "float32", shape) for name, shape in zip(("output", "cell"), shapes))
    step = b.input("step", "float32", [None, cell.gates * cell_size(cell)])
    op = b.op
    parts = b.many(
        "Split", op("Add", step, op("MatMul", h, recurrent)), outputs=cell.gates, axis=-1, num_outputs=cell.gates
    )
    parts = parts[:1] + parts if cell.coupled else parts  # the first is not used then

    def gate(number: int, peephole: ir.Value | None, state: ir.Value) -> ir.Value:
        value = parts[number]
        value = value if peephole is None else op("Add", value, op("Mul", state, peephole))
        scale = norms[number - gates.start] if normed else None
        if scale is not None:
            value = op("LayerNormalization", value, scale, biases[number - gates.start], axis=-1, epsilon=_NORM_EPSILON)
        return value

    def acted(value: ir.Value) -> ir.Value:
        return op("Tanh" if activation == _TANH else "Relu", value) if activation in (_RELU, _TANH) else value

    forget = op("Sigmoid", gate(1, peepholes[1], s))
    let_in = op("Sub", np.float32(1), forget) if cell.coupled else op("Sigmoid", gate(0, peepholes[0], s))
    new = op("Add", op("Mul", forget, s), op("Mul", let_in, acted(gate(2, None, s))))
    new = op("Clip", new, np.float32(-clips[0]), np.float32(clips[0])) if clips[0] > 0 else new
    out = op("Mul", op("Sigmoid", gate(3, peepholes[2], new)), acted(new))
    if project is not None:
        out = op("MatMul", out, project)
        out = out if shift is None else op("Add", out, shift)
        out = op("Clip", out, np.float32(-clips[1]), np.float32(clips[1])) if clips[1] > 0 else out
    body = b.graph([out, new, op("Identity", out)], "step")
    axis = 0 if time_major else 1
    last_h, last_s, sequence = c.b.many(
        "Scan", *states, front, outputs=3, body=body, num_scan_inputs=1,
        scan_input_axes=[axis], scan_output_axes=[axis],
        scan_input_directions=[int(backwards)], scan_output_directions=[int(backwards)],
    )  # fmt: skip
    for value, shape in zip((last_h, last_s), shapes):
        set_type(value, "float32", shape)
    set_type(sequence, "float32", [*(front.shape or (None, None))[:2], shapes[0][-1]])
    return [sequence, last_h, last_s]


def _basic(c: Subgraph, node: Node) -> None:
    """The oldest form: one matrix for input and state; gates input, cell, forget, output."""
    x, h, s = (c.get(node.input(number)) for number in (0, 1, 4))
    op = c.b.op
    joined = op("Concat", x, h, axis=1)
    value = op("Add", op("MatMul", joined, c.weights(node.input(2), [1, 0])), c.get(node.input(3)))
    i, g, f, o = c.b.many("Split", value, outputs=4, axis=1, num_outputs=4)
    new = op("Add", op("Mul", op("Sigmoid", i), op("Tanh", g)), op("Mul", op("Sigmoid", f), s))
    c.set(node.outs[0], op("Mul", op("Sigmoid", o), op("Tanh", new)))
    if len(node.outs) > 1:
        c.set(node.outs[1], new)


@operator("UNIDIRECTIONAL_SEQUENCE_RNN", "RNN")
def rnn(c: Subgraph, node: Node) -> None:
    """A sequence, or one step, of the plainest cell."""
    single = node.operator == "RNN"
    options = node.options(c.model, "RNN" if single else "SequenceRNN")
    kinds = {_RELU: "Relu", _TANH: "Tanh"}
    if options.activation not in kinds:
        raise node.refuse(f"activation {options.activation} in a recurrent layer")
    weights, recurrent, bias, wire = (node.input(number) for number in (1, 2, 3, 4))
    if weights.const is not None and weights.const.dtype.kind in "iu" and not node.input(0).quantised:
        c.state.hybrid.append(node.where)
    x, state = c.get(node.input(0)), _begin(c, wire)
    if single:
        both = c.b.op(
            "Add",
            c.b.op("MatMul", x, c.weights(weights, [1, 0])),
            c.b.op("MatMul", state, c.weights(recurrent, [1, 0])),
        )
        value = c.b.op(kinds[options.activation], c.b.op("Add", both, c.get(bias)))
        c.set(node.out, value)
        _end(c, wire, value)
        return
    units = weights.size(0) or 0
    x = x if options.time_major else c.b.op("Transpose", x, perm=[1, 0, 2])
    w, r = (c.b.op("Unsqueeze", c.weights(each), np.array([0])) for each in (weights, recurrent))
    both_biases = c.b.op("Unsqueeze", c.b.op("Pad", c.get(bias), np.array([0, units]), np.float32(0)), np.array([0]))
    sequence, last = c.b.many("RNN", x, w, r, both_biases, None, c.b.op("Unsqueeze", state, np.array([0])), outputs=2,
                              hidden_size=units, activations=[kinds[options.activation]])  # fmt: skip
    sequence = c.b.op("Squeeze", sequence, np.array([1]))
    c.set(node.out, sequence if options.time_major else c.b.op("Transpose", sequence, perm=[1, 0, 2]))
    _end(c, wire, c.b.op("Squeeze", last, np.array([0])))


@operator("SVDF")
def svdf(c: Subgraph, node: Node) -> None:
    """A filter in features, then one in time over what it gave in the last steps, which the state keeps."""
    options = node.options(c.model, "SVDF")
    features, times, wire = node.input(1), node.input(2), node.input(4)
    filters, steps = features.size(0), times.size(1)
    if not filters or not steps or options.rank < 1 or filters % options.rank:
        raise node.refuse(f"{filters} filters of {steps} steps, rank {options.rank}", "The file is damaged.")
    if features.const is not None and features.const.dtype.kind in "iu" and not node.input(0).quantised:
        c.state.hybrid.append(node.where)
    op, state = c.b.op, _begin(c, wire)
    now = op("MatMul", c.get(node.input(0)), c.weights(features, [1, 0]))
    past = op("Slice", op("Reshape", state, np.array([-1, filters, steps])), *(np.array([n]) for n in (1, steps, 2)))
    memory = op("Concat", past, op("Unsqueeze", now, np.array([2])), axis=2)
    summed = op("ReduceSum", op("Mul", memory, c.weights(times)), np.array([2]), keepdims=0)
    value = op("ReduceSum", op("Reshape", summed, np.array([-1, filters // options.rank, options.rank])), np.array([2]),
               keepdims=0)  # fmt: skip
    bias = node.optional(3)
    value = value if bias is None else op("Add", value, c.get(bias))
    c.set(node.out, c.activated(value, options.activation, node))
    _end(c, wire, op("Reshape", memory, np.array([-1, filters * steps])))

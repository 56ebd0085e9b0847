"""`RNN`: all layers and directions of a recurrent network in one operator, with all its weights in one vector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sardonyx.converters.building import constant_of
from sardonyx.converters.mxnet_files import Node
from sardonyx.converters.mxnet_graph import Graph, as_type, operator, sizes

# Mode: ONNX's operator, its activation, and where its gates are among MXNet's (which are those of cuDNN:
# input, forget, cell, output; reset, update, new).
_MODES = {
    "lstm": ("LSTM", None, [0, 3, 1, 2]),
    "gru": ("GRU", None, [1, 0, 2]),
    "rnn_relu": ("RNN", "Relu", [0]),
    "rnn_tanh": ("RNN", "Tanh", [0]),
}


@dataclass
class _Weights:
    """The weights of one direction of one layer, gates as MXNet has them."""

    inputs: np.ndarray
    recurrent: np.ndarray
    biases: list[np.ndarray]


def _unpacked(node: Node, vector: np.ndarray, width: int, gates: int) -> list[list[_Weights]]:
    """By layer and direction: first all matrices, then all biases."""
    hidden, layers = node.integer("state_size"), node.integer("num_layers")
    directions = 1 + node.flag("bidirectional")
    at, found = 0, []

    def take(*shape: int) -> np.ndarray:
        nonlocal at
        size = int(np.prod(shape))
        if at + size > len(vector):
            raise node.refuse(f"{len(vector)} weights are too few for inputs of {width}", "The parameters are damaged.")
        at += size
        return vector[at - size : at].reshape(shape)

    for layer in range(layers):
        size = width if layer == 0 else hidden * directions
        shapes = (gates, hidden, size), (gates, hidden, hidden)
        found.append([_Weights(take(*shapes[0]), take(*shapes[1]), []) for _ in range(directions)])
    for row in found:
        for each in row:
            each.biases = [take(gates, hidden), take(gates, hidden)]
    if at != len(vector):
        raise node.refuse(f"{len(vector)} weights are too many for inputs of {width}", "The parameters are damaged.")
    return found


@operator("RNN")
def rnn(c: Graph, node: Node, x: ir.Value, parameters: ir.Value, *more: ir.Value | None) -> list[ir.Value | None]:
    """One ONNX operator for each layer; sequences are (time, batch, values)."""
    mode = node.text("mode")
    if mode not in _MODES:
        raise node.refuse(f"mode {mode!r} is unknown")
    if node.parsed("projection_size") is not None:
        raise node.refuse("an LSTM with projection", "ONNX's LSTM has none: set projection_size to None.")
    if node.parsed("lstm_state_clip_min") is not None:
        raise node.refuse("a cell whose state is clipped", "ONNX's LSTM does not clip its state.")
    vector, width = constant_of(parameters), sizes(x)[-1]
    if vector is None or width is None:
        raise node.refuse("its weights or the width of its input are computed", "Both must be constants.")
    kind, activation, order = _MODES[mode]
    weights = _unpacked(node, vector.reshape(-1), width, len(order))
    layers = len(weights)
    lengths = more[-1] if node.flag("use_sequence_length") else None
    states = [_initial(c, node, slot, value, layers) for slot, value in enumerate(more[: 2 if kind == "LSTM" else 1])]
    value = x
    finals: list[list[ir.Value]] = [[], []]
    for layer, row in enumerate(weights):
        value, *last = _layer(
            c, node, (kind, activation, order), row, value, [s if s is None else s[layer] for s in states], lengths
        )
        for kept, each in zip(finals, last):
            kept.append(each)
    joined = [c.b.op("Concat", *each, axis=0) if len(each) > 1 else each[0] for each in finals if each]
    return [value, *joined] if node.flag("state_outputs") else [value]


def _initial(c: Graph, node: Node, slot: int, value: ir.Value | None, layers: int) -> list[ir.Value] | None:
    """The state of each layer at the beginning; None: zeros."""
    source = c.source(node, slot + 2)
    if value is None or source.op == "_zeros" or (value.const_value is not None and not constant_of(value).any()):  # type: ignore[union-attr]
        return None
    return c.b.many("Split", value, outputs=layers, axis=0, num_outputs=layers) if layers > 1 else [value]


def _layer(
    c: Graph,
    node: Node,
    mode: tuple[str, str | None, list[int]],
    weights: list[_Weights],
    x: ir.Value,
    states: list[ir.Value | None],
    lengths: ir.Value | None,
) -> list[ir.Value]:
    kind, activation, order = mode
    hidden, directions = node.integer("state_size"), len(weights)
    w = np.stack([each.inputs[order].reshape(len(order) * hidden, -1) for each in weights])
    r = np.stack([each.recurrent[order].reshape(len(order) * hidden, -1) for each in weights])
    b = np.stack([np.concatenate([bias[order].reshape(-1) for bias in each.biases]) for each in weights])
    lengths = None if lengths is None else as_type(c.b, lengths, np.int32)
    outputs = c.b.many(
        kind, x, w, r, b, lengths, *states, outputs=3 if kind == "LSTM" else 2, hidden_size=hidden,
        direction="bidirectional" if directions == 2 else None,
        activations=[activation] * directions if activation else None,
        linear_before_reset=1 if kind == "GRU" else None,
    )  # fmt: skip
    sequence = outputs[0]  # (time, directions, batch, hidden)
    if directions == 1:
        sequence = c.b.op("Squeeze", sequence, np.array([1]))
    else:
        moved = c.b.op("Transpose", sequence, perm=[0, 2, 1, 3])
        sequence = c.b.op("Reshape", moved, np.array([0, 0, directions * hidden]))
    return [sequence, *outputs[1:]]

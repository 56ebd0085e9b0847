"""Recurrent layers as the quantising steps see them: wherever they are, with weights that are constants."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import onnx
import onnx_ir as ir

from sardonyx.optimizer.quantize.graph import add_constant, array_of, int_of, is_op, replace_output
from sardonyx.optimizer.quantize.write import write_weight
from sardonyx.runtime.reference import evaluate

__all__ = [
    "MICROSOFT", "RECURRENT", "dynamic_lstm", "is_dynamic", "place_of", "recurrent_layers", "store_weights",
    "why_float",
]  # fmt: skip

RECURRENT = ("LSTM", "GRU", "RNN")
MICROSOFT = "com.microsoft"
WEIGHTS = (1, 2)  # W, R
Integers = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]  # numbers and their scales along an axis


def recurrent_layers(model: ir.Model) -> list[ir.Node]:
    """All recurrent layers of `model`, those of subgraphs, too.

    Weights that follow from constants become constants of the main graph, one for all layers that have the same:
    exporters leave the order of gates to Slice and Concat.
    """
    layers = [node for node in model.graph.all_nodes() if is_op(node, *RECURRENT)]
    known: dict[ir.Value, np.ndarray | None] = {}
    made: dict[tuple, ir.Value] = {}
    for node in layers:
        for at in WEIGHTS:
            value = node.inputs[at]
            array = None if value is None or value.producer() is None else _computed(model, value, known)
            if value is None or array is None:
                continue
            key = (array.dtype, array.shape, array.tobytes())
            if key not in made:
                made[key] = add_constant(model.graph, str(value.name), array)
            node.replace_input_with(at, made[key])
    return layers


def _computed(model: ir.Model, value: ir.Value, known: dict[ir.Value, np.ndarray | None]) -> np.ndarray | None:
    """What `value` is in every run, if that is so."""
    producer = value.producer()
    if producer is None:
        return array_of(value)
    if value in known:
        return known[value]
    known[value] = None
    plain = not any(attribute.type == ir.AttributeType.GRAPH for attribute in producer.attributes.values())
    if producer.domain not in ("", "ai.onnx") or not plain or producer.op_type.startswith(("Random", "Bernoulli")):
        return None
    inputs = {str(x.name): _computed(model, x, known) for x in producer.inputs if x is not None}
    if any(array is None for array in inputs.values()):
        return None
    proto = ir.serde.serialize_node(producer)
    ports = [onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
             for name, x in inputs.items() if x is not None]  # fmt: skip
    results = [onnx.helper.make_empty_tensor_value_info(name) for name in proto.output]
    alone = onnx.helper.make_model(
        onnx.helper.make_graph([proto], "constant", ports, results),
        opset_imports=[onnx.helper.make_opsetid("", model.opset_imports[""])],
    )
    for output, array in zip(producer.outputs, evaluate(ir.from_proto(alone), inputs), strict=True):
        known[output] = np.asarray(array)
    return known[value]


def why_float(node: ir.Node, skip: Collection[str], smallest: int) -> str | None:
    """Why the weights of a layer stay floats; None: they need not."""
    if node.name in skip:
        return "as asked"
    arrays = [array_of(node.inputs[at]) for at in WEIGHTS]
    if any(array is None for array in arrays):
        return "its weight is no constant"
    if any(array.dtype != np.float32 for array in arrays if array is not None):
        return "its inputs are not known to be float32"
    if sum(array.size for array in arrays if array is not None) < smallest:
        return "its weight is small"
    if not all(np.isfinite(array).all() for array in arrays if array is not None):
        return "its weight holds NaN or infinity"
    return None


def place_of(model: ir.Model, node: ir.Node) -> ir.Node:
    """The node before which something for `node` belongs that many subgraphs may share."""
    return node if node.graph is model.graph else model.graph[0]


def store_weights(model: ir.Model, node: ir.Node, integers: Integers, stored: dict[ir.Value, ir.Value]) -> None:
    """W and R [directions, gates * hidden, inputs] as integers that DequantizeLinear makes floats of."""
    for at in WEIGHTS:
        value, array = node.inputs[at], array_of(node.inputs[at])
        assert value is not None
        assert array is not None
        if value not in stored:
            numbers, scale = integers(array, 1)
            axis = None if scale.ndim == 0 else 1
            stored[value] = write_weight(place_of(model, node), str(value.name), numbers, scale, axis)
        node.replace_input_with(at, stored[value])


def is_dynamic(node: ir.Node) -> bool:
    """Whether DynamicQuantizeLSTM can take the place of `node`."""
    return node.op_type == "LSTM" and not int_of(node, "layout")


def dynamic_lstm(model: ir.Model, node: ir.Node, integers: Integers, stored: dict[ir.Value, list[ir.Value]]) -> None:
    """An LSTM as DynamicQuantizeLSTM: weights become [directions, inputs, 4 * hidden]."""
    extra: list[ir.Value] = []
    inputs = [*node.inputs, *[None] * (8 - len(node.inputs))]
    for at in WEIGHTS:
        value, array = node.inputs[at], array_of(node.inputs[at])
        assert value is not None
        assert array is not None
        if value not in stored:
            parts = [integers(np.ascontiguousarray(part.T), 1) for part in array]
            scales = np.stack([scale for _, scale in parts])
            values = {"int8": np.stack([numbers for numbers, _ in parts]), "scale": scales,
                      "zero": np.zeros(scales.shape, np.int8)}  # fmt: skip
            stored[value] = [add_constant(model.graph, f"{value.name}.{key}", each) for key, each in values.items()]
        inputs[at] = stored[value][0]
        extra += stored[value][1:]
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    attributes = [each for each in node.attributes.values() if each.name != "layout"]
    new = ir.Node(
        MICROSOFT, "DynamicQuantizeLSTM", [*inputs, *extra], attributes, name=node.name, num_outputs=len(node.outputs)
    )
    graph.insert_before(node, new)
    for old, output in zip(node.outputs, new.outputs, strict=True):
        replace_output(old, output)
    graph.remove(node, safe=True)

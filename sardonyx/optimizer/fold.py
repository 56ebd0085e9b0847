"""Fold BatchNormalization into the convolution or product before it: fewer nodes, and one set of weights to work on."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sardonyx.ops.node import Node

__all__ = ["fold_batch_normalization"]


def fold_batch_normalization(model: ir.Model) -> int:
    """Fold where a Conv, ConvTranspose or Gemm with constant weights feeds nothing else; in place.

    Returns:
        How many were folded.
    """
    count = 0
    for node in list(model.graph):
        if node.op_type == "BatchNormalization" and not node.domain and _fold(node):
            count += 1
    return count


def _fold(node: ir.Node) -> bool:
    source = node.inputs[0]
    layer = source.producer() if source is not None else None
    if layer is None or source is None or layer.domain or layer.op_type not in ("Conv", "ConvTranspose", "Gemm"):
        return False
    if len(source.uses()) != 1 or source.is_graph_output() or any(output.uses() for output in node.outputs[1:]):
        return False
    view = Node(node, 0)
    constants = [_array(value) for value in (*node.inputs[1:5], *layer.inputs[1:3])]
    if any(array is None for array in constants) or view.attr("training_mode", 0) or view.attr("spatial", 1) != 1:
        return False
    gain, shift, mean, variance, weights, *more = [array for array in constants if array is not None]
    bias = more[0] if more else None
    if bias is not None and bias.shape != mean.shape:
        return False
    axis = _output_axis(layer)
    if axis is None or weights.shape[axis] != len(mean):
        return False
    scale = gain.astype(np.float64) / np.sqrt(variance.astype(np.float64) + view.attr("epsilon", 1e-5))
    wide = [len(mean) if each == axis else 1 for each in range(weights.ndim)]
    moved = shift - mean * scale + (0 if bias is None else bias * scale)
    graph = layer.graph
    assert isinstance(graph, ir.Graph)
    name = str(layer.name)
    layer.resize_inputs(3)
    layer.replace_input_with(
        1, _register(graph, f"{name}.weights", (weights * scale.reshape(wide)).astype(weights.dtype))
    )
    layer.replace_input_with(2, _register(graph, f"{name}.bias", moved.astype(weights.dtype)))
    _take_place(graph, node, source)
    return True


def _output_axis(layer: ir.Node) -> int | None:
    view = Node(layer, 0)
    if layer.op_type == "Conv":
        return 0
    if layer.op_type == "ConvTranspose":
        return 1 if view.attr("group", 1) == 1 else None
    if view.attr("alpha", 1.0) != 1 or view.attr("beta", 1.0) != 1:
        return None
    return 0 if view.attr("transB", 0) else 1


def _array(value: ir.Value | None) -> np.ndarray | None:
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def _register(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    while name in graph.initializers:
        name += "_"
    tensor = ir.Tensor(np.ascontiguousarray(array), name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
    graph.register_initializer(value)
    return value


def _take_place(graph: ir.Graph, node: ir.Node, source: ir.Value) -> None:
    """`source` is what `node` gave, also as an output of the graph."""
    output = node.outputs[0]
    if output.is_graph_output():
        graph.outputs[:] = [source if value is output else value for value in graph.outputs]
        source.name, output.name = output.name, None
    output.replace_all_uses_with(source)
    graph.remove(node, safe=True)

"""Fold BatchNormalization into the convolution or product before it: fewer nodes, and one set of weights to work on."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sardonyx.ops.node import Node

__all__ = ["Statistics", "fold_batch_normalization"]

Statistics = dict[str, tuple[np.ndarray, np.ndarray]]


def fold_batch_normalization(model: ir.Model) -> Statistics:
    """Fold where a Conv, ConvTranspose or Gemm with constant weights feeds nothing else; in place.

    Returns:
        For each value that a folded one gave, mean and standard deviation of each channel, as training saw them.
    """
    found: Statistics = {}
    for node in list(model.graph):
        if node.op_type != "BatchNormalization" or node.domain:
            continue
        name, moments = str(node.outputs[0].name), [_array(value) for value in node.inputs[1:3]]
        if _fold(node):
            scale, shift = (np.asarray(array, np.float64) for array in moments)
            found[name] = shift, np.abs(scale)
    return found


def _fold(node: ir.Node) -> bool:
    source = node.inputs[0]
    layer = source.producer() if source is not None else None
    if layer is None or source is None or layer.domain or layer.op_type not in ("Conv", "ConvTranspose", "Gemm"):
        return False
    if len(source.uses()) != 1 or source.is_graph_output() or any(output.uses() for output in node.outputs[1:]):
        return False
    view = Node(node, 0)
    constants = [_array(value) for value in (*node.inputs[1:5], *layer.inputs[1:3])]
    if any(array is None or array.dtype.kind != "f" for array in constants):
        return False
    if view.attr("training_mode", 0) or view.attr("spatial", 1) != 1:
        return False
    gain, shift, mean, variance, weights, *more = [array for array in constants if array is not None]
    scale = gain.astype(np.float64) / np.sqrt(variance.astype(np.float64) + view.attr("epsilon", 1e-5))
    bias = np.broadcast_to(more[0], mean.shape) if more and more[0].size in (1, mean.size) else np.zeros(mean.shape)
    folded = _scaled(layer, weights, scale)
    if folded is None or (more and more[0].size not in (1, mean.size)):
        return False
    graph = layer.graph
    assert isinstance(graph, ir.Graph)
    layer.resize_inputs(3)
    for at, name, array in ((1, "weight", folded), (2, "bias", (bias - mean.astype(np.float64)) * scale + shift)):
        layer.replace_input_with(at, _register(graph, f"{layer.name}.{name}", array.astype(weights.dtype)))
    _take_place(graph, node, source)
    return True


def _scaled(layer: ir.Node, weights: np.ndarray, scale: np.ndarray) -> np.ndarray | None:
    """`weights`, each output channel times its factor; None where there is another number of channels."""
    view = Node(layer, 0)
    if layer.op_type == "ConvTranspose":  # [in, out of a group, ...]
        groups = view.attr("group", 1)
        if groups * weights.shape[1] != len(scale):
            return None
        parts = weights.reshape(groups, -1, *weights.shape[1:])
        return (parts * scale.reshape(groups, 1, -1, *[1] * (weights.ndim - 2))).reshape(weights.shape)
    if layer.op_type == "Gemm" and (view.attr("alpha", 1.0) != 1 or view.attr("beta", 1.0) != 1):
        return None
    axis = 1 if layer.op_type == "Gemm" and not view.attr("transB", 0) else 0
    if weights.shape[axis] != len(scale):
        return None
    return weights * scale.reshape([-1 if each == axis else 1 for each in range(weights.ndim)])


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
    """`source` is what `node` gave, with its name, also as an output of the graph."""
    output = node.outputs[0]
    if output.is_graph_output():
        graph.outputs[:] = [source if value is output else value for value in graph.outputs]
    source.shape, source.type = output.shape, output.type
    source.name, output.name = output.name, None
    output.replace_all_uses_with(source)
    graph.remove(node, safe=True)

"""Quantised transposed convolutions without overlap become a 1x1 convolution, whose channels spread in space.

    DequantizeLinear(w [C, O, k, k]) ---.
    x ------------------------- ConvTranspose(strides k)  =  Conv(w [k k O, C, 1, 1]) -> DepthToSpace(k)

Each output element is one product of channels either way, so nothing changes but the place where it is computed; and
the convolution is one that has a form on bytes.
"""

from __future__ import annotations

import logging

import numpy as np
import onnx_ir as ir

__all__ = ["SpreadTransposed"]

_LOG = logging.getLogger(__name__)


class SpreadTransposed(ir.passes.InPlacePass):
    """Rewrites each ConvTranspose with quantised constant weights and a kernel that is as large as its stride."""

    def requires(self, model: ir.Model) -> None:
        """Any model will do."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace what fits, in the graph and its subgraphs."""
        modified = False
        for node in list(model.graph.all_nodes()):
            if node.op_type != "ConvTranspose" or node.domain not in ("", "ai.onnx"):
                continue
            reason = _spread(node)
            if reason:
                _LOG.debug("%s stays a transposed convolution: %s", node.name, reason)
            modified = modified or not reason
        return ir.passes.PassResult(model, modified=modified)


def _spread(node: ir.Node) -> str:
    """Replace `node`; why not, or nothing."""
    weights = [None if value is None else value.producer() for value in node.inputs[1:]]
    if not weights or any(not _is_known(source) for source in weights):
        return "its weights are not dequantised constants"
    assert weights[0] is not None
    values = [value.const_value.numpy() for value in weights[0].inputs if value is not None and value.const_value]
    data = values[0]
    if data.ndim != 4 or data.shape[2] != data.shape[3] or "block_size" in weights[0].attributes:
        return "its kernel is not square"
    size = data.shape[2]
    if not _is_plain(node, size):
        return "its windows overlap, or are padded, dilated, grouped or cut"
    axis = weights[0].attributes["axis"].as_int() % 4 if "axis" in weights[0].attributes else 1
    if values[1].size > 1 and axis != 1:
        return "its scales are not one for each output channel"
    data = np.ascontiguousarray(data.transpose(2, 3, 1, 0)).reshape(-1, data.shape[0], 1, 1)
    tape = ir.tape.Tape(graph_like=node.graph)
    name = node.outputs[0].name

    def constant(array: np.ndarray, what: str) -> ir.Value:
        return tape.initializer(ir.tensor(array, name=f"{name}/{what}"))

    inputs = [node.inputs[0]]
    for source, what in zip(weights, ("weights", "bias"), strict=False):
        assert source is not None
        arrays = [value.const_value.numpy() for value in source.inputs if value is not None and value.const_value]
        repeated = [np.tile(a.reshape(-1), size * size) if a.size > 1 else a for a in arrays]
        repeated[0] = data if what == "weights" else np.tile(arrays[0].reshape(-1), size * size)
        parts = [constant(array, f"{what}{number}") for number, array in enumerate(repeated)]
        inputs.append(tape.op("DequantizeLinear", parts, {"axis": 0}))
    channels = tape.op("Conv", inputs, {"kernel_shape": [1, 1]}, name=f"{node.name}/Conv")
    result = tape.op("DepthToSpace", [channels], {"blocksize": size}, name=f"{node.name}/DepthToSpace")
    for made in (*inputs[1:], channels, result):
        if made is not None:
            made.dtype = ir.DataType.FLOAT
    assert node.graph is not None
    ir.convenience.replace_nodes_and_values(node.graph, node, [node], tape.nodes, node.outputs, [result])
    return ""


def _is_known(source: ir.Node | None) -> bool:
    if source is None or source.op_type != "DequantizeLinear" or source.domain not in ("", "ai.onnx"):
        return False
    return all(value is None or value.const_value is not None for value in source.inputs)


def _is_plain(node: ir.Node, size: int) -> bool:
    """Whether the windows of `size` x `size` lie side by side and cover the output."""

    def only(name: str, wanted: int) -> bool:
        attribute = node.attributes.get(name)
        return attribute is None or set(attribute.as_ints()) == {wanted}

    mode = node.attributes.get("auto_pad")
    if mode is not None and mode.as_string() not in ("NOTSET", "VALID", ""):
        return False
    group = node.attributes.get("group")
    if group is not None and group.as_int() != 1:
        return False
    if "output_shape" in node.attributes or "strides" not in node.attributes:
        return False
    return only("strides", size) and only("dilations", 1) and only("pads", 0) and only("output_padding", 0)

"""Shapes of all values of a graph for one choice of input sizes, as numbers.

Exporters compute the shapes of Reshape and Expand from those of other values. With the sizes of the inputs given, all
of that arithmetic is on known numbers: it is evaluated here node by node, and shape inference does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
from onnx.shape_inference import infer_node_outputs

from sardonyx.errors import SardonyxError
from sardonyx.model.schemas import signature, version_of
from sardonyx.runtime.reference import run_node

__all__ = ["Shapes", "sizes_of"]

Shape = tuple[int, ...]
_MOST_ELEMENTS = 4096  # of a value that is evaluated; arithmetic on shapes has a few
_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}


def sizes_of(model: ir.Model, feeds: Mapping[str, np.ndarray] | None = None) -> dict[str, Shape]:
    """A shape for each input: that of a sample, else its own with usual sizes for what is symbolic.

    Symbolic sizes are 2 along the first axis (the batch), 64 in images, and 16 elsewhere (tokens).
    """
    sizes: dict[str, Shape] = {}
    for value in model.graph.inputs:
        name = str(value.name)
        if feeds is not None and name in feeds:
            sizes[name] = tuple(np.shape(feeds[name]))
        elif value.shape is not None:
            usual = 64 if len(value.shape) >= 4 else 16
            dims = enumerate(value.shape)
            sizes[name] = tuple(dim if isinstance(dim, int) else (usual if axis else 2) for axis, dim in dims)
    return sizes


class Shapes:
    """Shapes of values, and the values themselves where they follow from shapes and constants.

    Args:
        model: nodes in topological order; names of values are unique.
        sizes: a shape for each input.
    """

    def __init__(self, model: ir.Model, sizes: Mapping[str, Shape]):
        self._opsets = dict(model.opset_imports)
        self._imports = [onnx.helper.make_opsetid(domain, version) for domain, version in self._opsets.items()]
        self._types: dict[ir.Value, onnx.TypeProto] = {}
        self.known: dict[ir.Value, np.ndarray] = {}
        for value in model.graph.inputs:
            if value.dtype is not None and str(value.name) in sizes:
                self._set(value, value.dtype.value, sizes[str(value.name)])
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is None:
                continue
            self._set(value, tensor.dtype.value, tuple(int(dim) for dim in tensor.shape))  # type: ignore[arg-type]
            if tensor.size <= _MOST_ELEMENTS and not value.is_graph_input() and tensor.dtype != ir.DataType.STRING:
                self.known[value] = tensor.numpy()
        for node in model.graph:
            self._visit(node)

    def of(self, value: ir.Value | None) -> Shape | None:
        """The shape of `value`; None: not known."""
        kind = self._types.get(value) if value is not None else None
        if kind is None or not kind.tensor_type.HasField("shape"):
            return None
        dims = kind.tensor_type.shape.dim
        return tuple(dim.dim_value for dim in dims) if all(dim.HasField("dim_value") for dim in dims) else None

    def _set(self, value: ir.Value, dtype: int, shape: Shape) -> None:
        self._types[value] = onnx.helper.make_tensor_type_proto(dtype, shape)

    def _visit(self, node: ir.Node) -> None:
        if any(isinstance(a, ir.Attr) and a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
               for a in node.attributes.values()):  # fmt: skip
            return
        self._infer(node)
        self._evaluate(node)

    def _infer(self, node: ir.Node) -> None:
        found = signature(node.domain, node.op_type, version_of(node, self._opsets))
        inputs = [value for value in node.inputs if value is not None]
        if found is None or any(value not in self._types for value in inputs):
            return
        types = {str(value.name): self._types[value] for value in inputs}
        data = {
            str(value.name): onnx.numpy_helper.from_array(self.known[value], str(value.name))
            for value in inputs
            if value in self.known
        }
        try:
            proto = ir.serde.serialize_node(node)
            outputs = infer_node_outputs(found.schema, proto, types, data, opset_imports=self._imports)
        except Exception:  # whatever inference does not know stays unknown here
            return
        for value in node.outputs:
            if value.name in outputs:
                self._types[value] = outputs[value.name]

    def _evaluate(self, node: ir.Node) -> None:
        inputs = [value for value in node.inputs if value is not None]
        if node.op_type in ("Shape", "Size") and not node.domain:
            shape = self.of(node.inputs[0])
            if shape is None:
                return
            operands: list = [np.broadcast_to(np.float32(0), shape)]
        elif all(value in self.known for value in inputs) and node.op_type not in _RANDOM:
            sizes = [self.of(value) for value in node.outputs]
            if any(size is None or np.prod(size) > _MOST_ELEMENTS for size in sizes):
                return
            operands = [None if value is None else self.known[value] for value in node.inputs]
        else:
            return
        try:
            results = run_node(node, operands, self._opsets)
        except SardonyxError:
            return
        for value, result in zip(node.outputs, results, strict=True):
            if isinstance(result, np.ndarray | np.generic):
                array = np.asarray(result)
                self.known[value] = array
                self._set(value, int(onnx.helper.np_dtype_to_tensor_dtype(array.dtype)), array.shape)

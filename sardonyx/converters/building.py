"""`Builder`: an ONNX graph under construction, for the converters that write it node by node themselves.

Types and shapes are inferred as each node is added, so that a converter can ask for them; nodes that compute small
constants from constants are computed at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from sardonyx.errors import ConversionError

Operand = ir.Value | np.ndarray | np.generic | float | int | None

_FOLDED = 4096  # elements of a constant that is computed here
_MOVES = {"Reshape", "Concat", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Flatten", "Split", "Cast"}
_NOT_FOLDED = {"QuantizeLinear", "DequantizeLinear"}  # they say how a weight is stored


class Builder:
    """A graph.

    Args:
        opset: version of the standard's operators.
        outer: the graph around this one, for the body of a loop or of a branch.
        fold_weights: whether constants of any size are computed at once where they are only moved.
    """

    def __init__(self, opset: int, outer: Builder | None = None, fold_weights: bool = False):
        self.opset = opset
        self.fold_weights = fold_weights
        self.outer = outer
        self.nodes: list[ir.Node] = []
        self.inputs: list[ir.Value] = []
        self.place = ""  # in the source, of the nodes that are added
        self._initializers: dict[str, ir.Value] = {}
        self._shared: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._taken: set[str] = outer._taken if outer is not None else set()

    def name(self, wanted: str) -> str:
        """`wanted`, or with a number where it is taken."""
        wanted = re.sub(r"\s", "_", wanted) or "value"
        found, number = wanted, 1
        while found in self._taken:
            number += 1
            found = f"{wanted}_{number}"
        self._taken.add(found)
        return found

    def input(self, name: str, dtype: str, shape: Sequence[int | str | None]) -> ir.Value:
        """A new input of the graph."""
        value = ir.val(self.name(name), data_type(dtype), list(shape))
        self.inputs.append(value)
        return value

    def constant(self, array: Any, name: str = "") -> ir.Value:
        """A constant; small ones are shared."""
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        key = array.dtype.str + array.dtype.name, array.shape, array.tobytes() if array.size <= 64 else b""
        shared = array.size <= 64 and array.dtype.kind != "O"
        if shared and key in self._shared:
            return self._shared[key]
        tensor: Any = ir.Tensor(array) if array.dtype.kind != "O" else _text_tensor(array)
        value = ir.Value(name=self.name(name or f"{self.place}/constant".lstrip("/")), const_value=tensor)
        value.dtype, value.shape = tensor.dtype, ir.Shape(array.shape)
        tensor.name = value.name
        self._initializers[str(value.name)] = value
        if shared:
            self._shared[key] = value
        return value

    def value(self, operand: Operand, dtype: Any = None) -> ir.Value | None:
        """An operand as a value of the graph."""
        if operand is None or isinstance(operand, ir.Value):
            return operand
        return self.constant(np.asarray(operand, dtype or (np.float32 if isinstance(operand, float) else None)))

    def op(self, kind: str, *operands: Operand, domain: str = "", **attributes: Any) -> ir.Value:
        """A node with one output."""
        return self.many(kind, *operands, outputs=1, domain=domain, **attributes)[0]

    def many(
        self, kind: str, *operands: Operand, outputs: int, domain: str = "", name: str = "", **attributes: Any
    ) -> list[ir.Value]:
        """A node with several outputs.

        Args:
            kind: the operator.
            operands: values; arrays and numbers become constants, None is an input that is left out.
            outputs: how many.
            domain: of the operator.
            name: of the first output.
            attributes: those that are None are left out.
        """
        inputs = [self.value(operand) for operand in operands]
        kept = {key: value for key, value in attributes.items() if value is not None}
        constants = self._folded(kind, domain, inputs, kept, outputs)
        if constants is not None:
            return [self.constant(array) for array in constants]
        node = ir.node(kind, inputs, kept, domain=domain, num_outputs=outputs)
        node.name = self.name(f"{self.place}/{kind}" if self.place else kind)
        if self.place:
            node.metadata_props["namespace"] = self.place
        for number, output in enumerate(node.outputs):
            output.name = self.name(name if name and number == 0 else f"{node.name}:{number}")
        self.nodes.append(node)
        self._infer(node)
        return list(node.outputs)

    def graph(self, outputs: Sequence[ir.Value], name: str = "graph") -> ir.Graph:
        """The graph, finished; what no output needs is left out."""
        needed = {id(value) for value in outputs}
        nodes = []
        for node in reversed(self.nodes):
            if any(id(output) in needed for output in node.outputs):
                nodes.append(node)
                needed.update(id(value) for value in _used(node))
            else:
                node.resize_inputs(0)
        weights = [value for value in self._initializers.values() if id(value) in needed]
        opsets = {"": self.opset} if self.outer is None else None
        return ir.Graph(self.inputs, outputs, nodes=nodes[::-1], initializers=weights, opset_imports=opsets, name=name)

    def _folded(
        self, kind: str, domain: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any], outputs: int
    ) -> list[np.ndarray] | None:
        if kind == "Shape" and inputs[0] is not None and not attributes:
            sizes = static_shape(inputs[0])
            return None if sizes is None else [np.array(sizes, np.int64)]
        arrays = [None if value is None else constant_of(value) for value in inputs]
        if kind == "Cast" and arrays[0] is not None and arrays[0].dtype.name in ("float16", "bfloat16"):
            return None
        if domain or kind in _NOT_FOLDED or not inputs or kind.startswith("Random"):
            return None
        if any(array is None for array, value in zip(arrays, inputs) if value is not None):
            return None
        limit = _FOLDED if not (self.fold_weights and kind in _MOVES) else float("inf")
        if sum(array.size for array in arrays if array is not None) > limit:
            return None
        if any(isinstance(value, ir.Graph) for value in attributes.values()):
            return None
        from sardonyx.runtime.reference import run_node

        given = [None if a is None else ir.val(f"i{n}") for n, a in enumerate(arrays)]
        probe = ir.node(kind, given, attributes, num_outputs=outputs)
        try:
            found = [np.asarray(value) for value in run_node(probe, arrays, {"": self.opset})]
        except Exception:  # whatever is wrong with it, the node itself will show
            return None
        return found if sum(array.size for array in found) <= limit else None

    def _infer(self, node: ir.Node) -> None:
        version = self.opset if not node.domain else 1
        if any(attribute.type == ir.AttributeType.GRAPH for attribute in node.attributes.values()):
            return  # whoever builds the body knows what comes out of it
        try:
            schema = onnx.defs.get_schema(node.op_type, version, node.domain)
        except onnx.defs.SchemaError:
            return
        proto = ir.serde.serialize_node(node)
        types, data = {}, {}
        for value in node.inputs:
            if value is None:
                continue
            if value.dtype is None:
                return
            types[str(value.name)] = _type_proto(value)
            array = constant_of(value)
            if array is not None and array.size <= 64 and array.dtype.kind in "iuf":
                data[str(value.name)] = onnx.numpy_helper.from_array(array)
        try:
            found = onnx.shape_inference.infer_node_outputs(
                schema, proto, types, data, opset_imports=[onnx.helper.make_opsetid(node.domain, version)]
            )
        except Exception as problem:
            raise ConversionError(
                f"shapes do not fit together: {str(problem).strip()[:300]}",
                node=node.name,
                operator=node.op_type,
                hint="The model is damaged, or this is a fault of the converter.",
            ) from problem
        for output in node.outputs:
            kind = found.get(str(output.name))
            if kind is not None and kind.HasField("tensor_type"):
                _set_type(output, kind.tensor_type)


def constant_of(value: ir.Value | None) -> np.ndarray | None:
    """The array that a value is known to be."""
    return None if value is None or value.const_value is None else value.const_value.numpy()


def static_shape(value: ir.Value) -> tuple[int, ...] | None:
    """The sizes of a value, where all are known."""
    if value.shape is None or not all(isinstance(dim, int) for dim in value.shape):
        return None
    return tuple(int(dim) for dim in value.shape)  # type: ignore[arg-type]


def rank_of(value: ir.Value) -> int | None:
    """Number of dimensions of a value, where it is known."""
    return None if value.shape is None else len(value.shape)


def data_type(name: str) -> ir.DataType:
    """ONNX's element type by numpy's name."""
    return ir.DataType.STRING if name == "string" else ir.DataType.from_numpy(np.dtype(_numpy_name(name)))


def _numpy_name(name: str) -> Any:
    import ml_dtypes

    return getattr(ml_dtypes, name) if name in ("bfloat16", "int4", "uint4") else name


def set_type(value: ir.Value, dtype: str, shape: Sequence[int | str | None] | None) -> ir.Value:
    """Say what a value is, where it cannot be inferred."""
    value.dtype = data_type(dtype)
    if shape is not None:
        value.shape = ir.Shape(shape)
    return value


def _used(node: ir.Node) -> list[ir.Value]:
    found = [value for value in node.inputs if value is not None]
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            for inner in attribute.value:
                found += _used(inner)
            found.extend(attribute.value.outputs)
    return found


def _text_tensor(array: np.ndarray) -> ir.StringTensor:
    texts = [str(text).encode() for text in array.reshape(-1)]
    return ir.StringTensor(texts, shape=ir.Shape(array.shape))


def _type_proto(value: ir.Value) -> onnx.TypeProto:
    dims = None
    if value.shape is not None:
        dims = [dim if isinstance(dim, int) else dim.value for dim in value.shape]
    assert value.dtype is not None
    return onnx.helper.make_tensor_type_proto(int(value.dtype), dims)


def _set_type(value: ir.Value, kind: onnx.TypeProto.Tensor) -> None:
    value.dtype = ir.DataType(kind.elem_type)
    if kind.HasField("shape"):
        dims = [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in kind.shape.dim]
        value.shape = ir.Shape(dims)

"""Host calls: nodes that run in Python, under the reference evaluator.

Their output types come from ONNX shape inference on the node alone; dims that it can't tell are defined by the call,
and values whose rank is unknown stay Python objects until an operator makes a tensor of known rank from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir

from sardonyx import errors
from sardonyx.compiler import index as ix
from sardonyx.compiler.dtypes import is_native
from sardonyx.compiler.index import Dim
from sardonyx.compiler.program import Buffer, Host, View
from sardonyx.compiler.tensor import Plain, Tensor
from sardonyx.ops import custom

if TYPE_CHECKING:
    from sardonyx.compiler.graph import GraphLowering
    from sardonyx.ops.node import Node


NONNEGATIVE = {"GatherND": ("batch_dims",)}  # the standard's own inference reads out of bounds where they are negative


def call_host(ctx: GraphLowering, node: Node, inputs: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Emit a host call for `node`; values that its subgraphs capture become further inputs."""
    captured = captured_values(node.ir)
    operands = [*inputs, *(ctx.value(value) for value in captured)]
    types = infer_types(ctx, node, inputs)
    number = ctx.host_numbers.setdefault(node.ir, len(ctx.program.host_nodes))
    views = [None if tensor is None else _view(ctx, tensor) for tensor in operands]
    if number == len(ctx.program.host_nodes):  # a body may be lowered more than once
        ctx.program.host_nodes.append((node.ir, captured))
    step = Host(number, views, [])
    outputs: list[Tensor | None] = []
    for name in node.outputs:
        tensor = _output(ctx, types.get(name), step) if name else None
        outputs.append(tensor)
        step.outputs.append(None if tensor is None else View(tensor.buffer, tensor.shape, tensor.slot))
    ctx.emit(step)
    return outputs


def _view(ctx: GraphLowering, tensor: Tensor) -> View:
    if tensor.is_object:
        return View(None, (), tensor.slot)
    plain = ctx.plain(tensor)
    return View(plain.buffer, plain.shape)


def _output(ctx: GraphLowering, kind: onnx.TypeProto | None, step: Host) -> Tensor:
    if kind is None or not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return ctx.object_tensor(None, kind)
    dtype = dtype_name(kind.tensor_type.elem_type)
    if not is_native(dtype):
        tensor = ctx.object_tensor(None, kind)
        tensor.dtype = dtype
        return tensor
    shape: list[Dim] = []
    for dim in kind.tensor_type.shape.dim:
        known = _known_dim(ctx, dim)
        if known is None:
            known = ix.symbol(ctx.fresh("s"))
            step.defines.append(known)
        shape.append(known)
    buffer = Buffer(ctx.fresh("b"), dtype, ix.product(shape), block=ctx.block)
    return ctx.in_memory(buffer, shape, Plain(tuple(shape)))


def _known_dim(ctx: GraphLowering, dim: Any) -> Dim | None:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return ctx.dims_by_name.get(dim.dim_param) if dim.HasField("dim_param") else None


def captured_values(node: ir.Node) -> list[ir.Value]:
    """Outer values that the subgraphs of `node` read, in order of first use."""
    found: dict[ir.Value, None] = {}

    def visit(graph: ir.Graph, own: set[ir.Value]) -> None:
        own = own | set(graph.inputs) | set(graph.initializers.values())
        own |= {output for inner in graph for output in inner.outputs}
        for inner in graph:
            for value in inner.inputs:
                if value is not None and value not in own:
                    found[value] = None
            for attribute in inner.attributes.values():
                if attribute.type == ir.AttributeType.GRAPH:
                    visit(attribute.value, own)
        for value in graph.outputs:
            if value not in own:
                found[value] = None

    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            visit(attribute.value, set())
    return list(found)


def has_meaning(node: Node) -> bool:
    """True when Python can run the operator: the standard has it, or the user registered it."""
    known = onnx.defs.has(node.op_type, node.opset, "" if node.domain == "ai.onnx" else node.domain)
    return known or custom.find(node.domain, node.op_type, node.opset) is not None


def infer_types(ctx: GraphLowering, node: Node, inputs: Sequence[Tensor | None]) -> dict[str, onnx.TypeProto]:
    """Types of the node's outputs by name, as far as the operator's schema can tell."""
    registered = custom.find(node.domain, node.op_type, node.opset)
    if registered is not None:
        return _registered_types(ctx, node, registered, inputs)
    try:
        schema = onnx.defs.get_schema(node.op_type, node.opset, node.domain)
    except onnx.defs.SchemaError:
        hint = "register it with sardonyx.operator, or choose a provider that has it"
        raise errors.UnsupportedError(
            f"no operator {node.domain or 'ai.onnx'}.{node.op_type} of opset {node.opset}",
            node=node.name,
            operator=node.op_type,
            hint=hint,
        ) from None
    for name in NONNEGATIVE.get(node.op_type, ()):
        if node.attr(name, 0) < 0:
            raise errors.ModelError(f"attribute '{name}' is negative", node=node.name, operator=node.op_type)
    proto = ir.serde.serialize_node(node.ir)
    types, data = _known_types(ctx, node, proto, inputs)
    if any(name and name not in types for name in proto.input):
        return {}  # computed from a value of unknown type: of unknown type too
    if schema.deprecated:
        return {}  # inference refuses it
    imports = [onnx.helper.make_opsetid(d, v) for d, v in ctx.model.opset_imports.items()]
    try:
        return onnx.shape_inference.infer_node_outputs(
            schema, proto, types, data, opset_imports=imports, ir_version=ctx.model.ir_version
        )
    except Exception as problem:
        raise errors.ShapeError(
            f"its types do not fit: {str(problem).strip().splitlines()[-1] if str(problem).strip() else problem}",
            node=node.name,
            operator=node.op_type,
            hint="check the model with onnx.checker and the types of this node's inputs",
        ) from None


def _known_types(
    ctx: GraphLowering, node: Node, proto: onnx.NodeProto, inputs: Sequence[Tensor | None]
) -> tuple[dict[str, onnx.TypeProto], dict[str, onnx.TensorProto]]:
    """Types of what the node reads by name, as far as they are known, and the values of short constants."""
    types: dict[str, onnx.TypeProto] = {}
    data: dict[str, onnx.TensorProto] = {}
    for name, tensor in zip(proto.input, inputs, strict=False):
        kind = type_proto(ctx, tensor)
        if name and kind is not None:
            types[name] = kind
            if tensor is not None and tensor.array is not None and tensor.array.nbytes < 4096:
                data[name] = onnx.numpy_helper.from_array(tensor.array, name)
    for value in captured_values(node.ir):
        kind = type_proto(ctx, ctx.value(value))
        if kind is not None and value.name:
            types[value.name] = kind
    return types, data


def _registered_types(
    ctx: GraphLowering, node: Node, registered: custom.Custom, inputs: Sequence[Tensor | None]
) -> dict[str, onnx.TypeProto]:
    """Types of the outputs of an operator that the user registered: by its rule, else as the model declares them."""
    given: list[custom.Type | None] = []
    for tensor in inputs:
        if tensor is None or tensor.is_object:
            given.append(None if tensor is None else _text_type(type_proto(ctx, tensor)))
            continue
        type_proto(ctx, tensor)  # notes the names of its dims
        given.append(custom.Type(tensor.dtype, tuple(d if isinstance(d, int) else d.key for d in tensor.shape)))
    whole = all((tensor is None) == (kind is None) for tensor, kind in zip(inputs, given, strict=True))
    found = registered.types(given, custom.attributes_of(node)) if whole else None
    if found is not None:
        protos = [onnx.helper.make_tensor_type_proto(onnx_dtype(kind.dtype), kind.shape) for kind in found]
        return dict(zip(node.outputs, protos, strict=False))
    infos = [ir.serde.serialize_value(value) for value in node.ir.outputs if value.name]
    return {info.name: info.type for info in infos if info.HasField("type")}


def _text_type(proto: onnx.TypeProto | None) -> custom.Type | None:
    """The type of a tensor of strings whose rank is known; None for any other Python object."""
    if (
        proto is None
        or proto.tensor_type.elem_type != onnx.TensorProto.STRING
        or not proto.tensor_type.HasField("shape")
    ):
        return None
    dims = proto.tensor_type.shape.dim
    return custom.Type("string", tuple(d.dim_value if d.HasField("dim_value") else d.dim_param for d in dims))


def type_proto(ctx: GraphLowering, tensor: Tensor | None) -> onnx.TypeProto | None:
    """The ONNX type of a tensor; symbolic dims are named so that they can be recognised again."""
    if tensor is None:
        return None
    if tensor.is_object:
        kind = tensor.type_proto
        if isinstance(kind, ir.Value):
            info = ir.serde.serialize_value(kind)
            return info.type if info.HasField("type") else None
        return kind  # type: ignore[return-value]
    dims: list[int | str] = []
    for dim in tensor.shape:
        if not isinstance(dim, int):
            ctx.dims_by_name[dim.key] = dim
        dims.append(dim if isinstance(dim, int) else dim.key)
    return onnx.helper.make_tensor_type_proto(onnx_dtype(tensor.dtype), dims)


def onnx_dtype(dtype: str) -> int:
    """The ONNX number of an element type."""
    return onnx.TensorProto.DataType.Value({"float32": "FLOAT", "float64": "DOUBLE"}.get(dtype, dtype.upper()))


def dtype_name(number: int) -> str:
    """The name of an ONNX element type's number."""
    if number not in onnx.TensorProto.DataType.values():
        raise errors.ModelError(f"there is no element type number {number}")
    name = onnx.TensorProto.DataType.Name(number)
    return {"FLOAT": "float32", "DOUBLE": "float64"}.get(name, name.lower())

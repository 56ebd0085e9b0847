"""Does a node keep to its operator's schema, now that the types of its inputs are known?

Operator functions may then take ranks, sizes and element types for granted where the standard fixes them: what a model
gets wrong is said here, once for all operators, and never reaches generated code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir

from sardonyx import errors
from sardonyx.compiler.dtypes import is_native
from sardonyx.compiler.host import infer_types
from sardonyx.model.schemas import signature

if TYPE_CHECKING:
    from sardonyx.compiler.graph import GraphLowering
    from sardonyx.compiler.tensor import Tensor
    from sardonyx.ops.node import Node

_NAMES = {"float32": "float", "float64": "double"}  # what type constraints say


def check_node(ctx: GraphLowering, node: Node, inputs: Sequence[Tensor | None]) -> None:
    """Check element types against the operator's constraints, and shapes by the standard's own inference.

    Operators that the standard does not define are left to their own checks, and so are those with subgraphs, whose
    nodes are checked one by one.

    Raises:
        ShapeError: types or shapes do not fit the operator or each other.
    """
    domain = "" if node.domain == "ai.onnx" else node.domain
    found = signature(domain, node.op_type, node.opset)
    if found is None:
        return
    _check_types(node, found.schema, inputs)
    if any(attribute.type in _GRAPHS for attribute in node.ir.attributes.values()):
        return
    if node.op_type == "Range" and domain == "":  # the standard's own AffineGrid gives it vectors of one element
        return
    infer_types(ctx, node, inputs)


_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _check_types(node: Node, schema: Any, inputs: Sequence[Tensor | None]) -> None:
    allowed = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
    bound: dict[str, tuple[str, str]] = {}  # type parameter -> (the type that it stands for, the input that says so)
    for position, tensor in enumerate(inputs):
        formal = schema.inputs[min(position, len(schema.inputs) - 1)]
        if tensor is None or tensor.is_object or not is_native(tensor.dtype):
            continue
        given = f"tensor({_NAMES.get(tensor.dtype, tensor.dtype)})"
        parameter, title = formal.type_str, f"input {position} ({formal.name})"
        if given not in allowed.get(parameter, [parameter]) and f"optional({given})" not in allowed.get(parameter, []):
            _fail(node, schema, f"{title} is {given}, which {schema.name} does not take")
        if formal.option == onnx.defs.OpSchema.FormalParameterOption.Variadic and not formal.is_homogeneous:
            continue
        first, source = bound.setdefault(parameter, (given, title))
        if first != given:
            _fail(node, schema, f"{title} is {given}, but {source}, of the same type, is {first}")


def _fail(node: Node, schema: Any, message: str) -> None:
    operator = f"{schema.name}-{schema.since_version}"
    hint = "Insert a Cast, or export the model again."
    raise errors.ShapeError(message, node=node.name, operator=operator, hint=hint)

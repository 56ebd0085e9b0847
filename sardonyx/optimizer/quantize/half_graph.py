"""A whole graph in float16: operators that have it compute in it, and casts stand where others begin.

Inputs and outputs of the model keep their types. What would overflow on the data, and operators that add up or
exponentiate many numbers, stay in float32.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from sardonyx.model.schemas import signature, version_of
from sardonyx.optimizer.activations import activations
from sardonyx.optimizer.data import Data
from sardonyx.optimizer.quantize.feeds import QUIET
from sardonyx.optimizer.quantize.graph import add_constant, add_node, array_of, replace_output

__all__ = ["WIDE", "to_half"]

# Sums and powers of many numbers, which 11 bits or the end at 65504 spoil.
WIDE = (
    "BatchNormalization", "CumSum", "Exp", "GroupNormalization", "InstanceNormalization", "LayerNormalization", "Log",
    "LogSoftmax", "LpNormalization", "Pow", "RMSNormalization", "ReduceL1", "ReduceL2", "ReduceLogSum",
    "ReduceLogSumExp", "ReduceMean", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Softmax",
)  # fmt: skip
LARGEST = 65504.0


@dataclass
class _Form:
    """Which inputs and outputs of a node become float16."""

    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)


def to_half(model: ir.Model, data: Data, skip: tuple[str, ...], kept: list[tuple[str, str]]) -> int:
    """Rewrite the main graph of `model` (see `editable`); the number of nodes that compute in float16.

    Args:
        model: in float32; types must be known.
        data: to look for what overflows.
        skip: names of nodes that stay in float32.
        kept: is told of nodes that stay, with the reason.
    """
    forms = {node: form for node in model.graph if node.name not in skip and (form := _form(node, model)) is not None}
    for node in _overflowing(model, forms, data):
        kept.append((str(node.name), "its values are beyond the range of float16"))
        del forms[node]
    if forms:
        _rewrite(model.graph, forms)
    return len(forms)


def _form(node: ir.Node, model: ir.Model) -> _Form | None:
    """None: the node stays as it is."""
    found = None if node.domain or node.op_type in WIDE else signature(
        "", node.op_type, version_of(node, model.opset_imports))  # fmt: skip
    if found is None or any(each.type == ir.AttributeType.GRAPH for each in node.attributes.values()):
        return None
    formal, names, form = found.schema.inputs, set(), _Form()
    for at, value in enumerate(node.inputs):
        parameter = formal[min(at, len(formal) - 1)]
        if value is None or value.dtype != ir.DataType.FLOAT or "tensor(float16)" not in parameter.types:
            continue
        form.inputs.append(at)
        names.add(parameter.type_str)
    formal = found.schema.outputs
    for at, value in enumerate(node.outputs):
        parameter = formal[min(at, len(formal) - 1)]
        if parameter.type_str in names and value.dtype == ir.DataType.FLOAT:
            form.outputs.append(at)
    # An operator that gives no floats (Shape, Cast, comparisons) reads what there is.
    return form if form.inputs and form.outputs else None


def _overflowing(model: ir.Model, forms: dict[ir.Node, _Form], data: Data) -> list[ir.Node]:
    """The nodes with a finite input or output beyond float16."""
    touched = {node: [*(node.inputs[at] for at in form.inputs), *(node.outputs[at] for at in form.outputs)]
               for node, form in forms.items()}  # fmt: skip
    values = {value for some in touched.values() for value in some if value is not None}
    beyond = {value for value in values if (array := array_of(value)) is not None and _too_large(array)}
    names = {str(value.name): value for value in values if array_of(value) is None and value.name}
    for observed in activations(model, sorted(names), data, QUIET):
        beyond |= {names[name] for name, array in observed.items() if _too_large(array)}
    return [node for node, some in touched.items() if any(value in beyond for value in some)]


def _too_large(array: np.ndarray) -> bool:
    sizes = np.abs(array)
    return bool(np.any(np.isfinite(sizes) & (sizes > LARGEST)))


def _rewrite(graph: ir.Graph, forms: dict[ir.Node, _Form]) -> None:
    half = {node.outputs[at] for node, form in forms.items() for at in form.outputs}
    casts: dict[tuple[ir.Value, bool], ir.Value] = {}

    def converted(value: ir.Value, narrow: bool) -> ir.Value:
        if (value, narrow) not in casts:
            casts[value, narrow] = _cast(graph, value, narrow)
        return casts[value, narrow]

    inner = [usage for value in half for usage in value.uses() if usage.node.graph is not graph]
    for node in list(graph):
        wanted = forms[node].inputs if node in forms else []
        for at, value in enumerate(node.inputs):
            if value is not None and (value in half) != (at in wanted) and value.dtype == ir.DataType.FLOAT:
                node.replace_input_with(at, converted(value, at in wanted))
    for usage in inner:
        value = usage.node.inputs[usage.idx]
        assert value is not None
        usage.node.replace_input_with(usage.idx, converted(value, False))
    for value in half:
        value.type = ir.TensorType(ir.DataType.FLOAT16)
    for value in [value for value in graph.outputs if value in half]:
        _keep_output(graph, value)


def _cast(graph: ir.Graph, value: ir.Value, narrow: bool) -> ir.Value:
    """`value` in the other type; a constant is stored in it."""
    dtype = ir.DataType.FLOAT16 if narrow else ir.DataType.FLOAT
    name, array = f"{value.name}.{dtype.name.lower()}", array_of(value)
    if array is not None:
        return add_constant(graph, name, array.astype(np.float16))
    return add_node(graph[-1], "Cast", [value], name, {"to": int(dtype)}, like=value, dtype=dtype)


def _keep_output(graph: ir.Graph, value: ir.Value) -> None:
    """The output of the model is a Cast that has its name and type."""
    readers = [(usage.node, usage.idx) for usage in value.uses()]
    wide = add_node(graph[-1], "Cast", [value], f"{value.name}.output", {"to": int(ir.DataType.FLOAT)}, like=value)
    replace_output(value, wide)
    wide.type = ir.TensorType(ir.DataType.FLOAT)
    value.name = f"{wide.name}.half"
    producer = wide.producer()
    assert producer is not None
    producer.replace_input_with(0, value)
    for node, at in readers:
        node.replace_input_with(at, value)

"""Models that are being edited: copies, constants, new nodes, small questions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx.version_converter
import onnx_ir as ir

from sardonyx.errors import OptimizationError
from sardonyx.model.inline import infer_types, inline_functions
from sardonyx.model.load import load
from sardonyx.model.prepare import fix_names, fix_old_initializers, lift_constants, remove_unused

__all__ = [
    "add_constant", "add_node", "array_of", "consumers", "editable", "finish", "int_of", "is_op",
    "is_private", "replace_output", "summary", "unknown",
]  # fmt: skip

_NAMES = "sardonyx.names"
_IR_OF_OPSET = {13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}


def editable(model: ir.Model, opset: int = 7) -> ir.Model:
    """A copy with names, types and initializers for constants, whose opset is `opset` or newer.

    Raises:
        OptimizationError: the model cannot be brought to that opset, or mixes several.
    """
    copy = load(model)
    if copy.opset_imports.get("", opset) < opset:
        copy = _at_opset(copy, opset)
    copy.ir_version = max(copy.ir_version, _IR_OF_OPSET.get(opset, 4))
    fix_old_initializers(copy)
    inline_functions(copy)
    if any(node.version is not None for node in copy.graph.all_nodes()):
        raise OptimizationError(
            "a function of the model is written for another opset than the model itself",
            hint="Export the model again with one opset.",
        )
    lift_constants(copy)
    fix_names(copy)
    infer_types(copy)
    return copy


def _at_opset(model: ir.Model, opset: int) -> ir.Model:
    before = model.opset_imports[""]
    try:
        converted = onnx.version_converter.convert_version(ir.to_proto(model), opset)
    except Exception as problem:  # it raises RuntimeError, ValueError, and protobuf's own
        message = f"opset {opset} is needed, and the model (opset {before}) cannot be brought to it: {problem}"
        raise OptimizationError(message, hint="Export the model again with a newer opset.") from problem
    return load(converted)


def finish(model: ir.Model) -> ir.Model:
    """Remove what is no longer used and put nodes in order; `model` itself."""
    remove_unused(model)
    model.graph.sort()
    return model


# Small questions.


def is_op(node: ir.Node | None, *operators: str) -> bool:
    """Whether `node` is one of the standard's `operators`."""
    return node is not None and node.domain in ("", "ai.onnx") and node.op_type in operators


def int_of(node: ir.Node, attribute: str, default: int = 0) -> int:
    """An attribute that is a number."""
    return int(node.attributes.get_int(attribute, default))


def summary(kept: Iterable[tuple[str, str]], what: str = "in float") -> list[str]:
    """Notes on nodes that stay `what`, one for each reason, from (name, reason)."""
    reasons: dict[str, list[str]] = {}
    for name, reason in kept:
        reasons.setdefault(reason, []).append(name)
    notes = []
    for reason, names in reasons.items():
        shown = ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")
        notes.append(f"{len(names)} nodes stay {what}, {reason}: {shown}" if len(names) > 1 else
                     f"{shown} stays {what}: {reason}")  # fmt: skip
    return notes


def unknown(model: ir.Model, names: Iterable[str]) -> list[str]:
    """A note for each of `names` that no node of the main graph has: nothing that was asked for is ignored silently."""
    known = {node.name for node in model.graph}
    return [f"there is no node called {name!r} to skip" for name in names if name not in known]


def array_of(value: ir.Value | None) -> np.ndarray | None:
    """The array of a constant; None where a run may change it (an initializer that is an input is a default)."""
    if value is None or value.const_value is None or value.is_graph_input() or value.producer() is not None:
        return None
    return value.const_value.numpy()


def is_private(value: ir.Value) -> bool:
    """Whether exactly one node, of the same graph, reads `value`, and it is no output."""
    readers = list(value.uses())
    producer = value.producer()
    return (
        len(readers) == 1
        and not value.is_graph_output()
        and producer is not None
        and readers[0].node.graph is producer.graph
    )


def consumers(value: ir.Value) -> list[ir.Node]:
    """The nodes that read `value`, each once."""
    return list(dict.fromkeys(usage.node for usage in value.uses()))


# Small changes.


def add_constant(graph: ir.Graph, name: str, array: np.ndarray, dtype: ir.DataType | None = None) -> ir.Value:
    """A new initializer; its name is made unique."""
    unique = _unique(graph, name)
    tensor = ir.Tensor(np.ascontiguousarray(array).reshape(array.shape), dtype=dtype, name=unique)
    value = ir.Value(
        name=unique, type=ir.TensorType(tensor.dtype), shape=ir.Shape(list(array.shape)), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def add_node(
    before: ir.Node,
    operator: str,
    inputs: Sequence[ir.Value | None],
    name: str,
    attributes: dict | None = None,
    *,
    domain: str = "",
    like: ir.Value | None = None,
    dtype: ir.DataType | None = None,
) -> ir.Value:
    """A node with one output ahead of `before`; node and output are both called `name`, made unique.

    `like` gives the output's shape and, without `dtype`, its element type.
    """
    graph = before.graph
    assert isinstance(graph, ir.Graph)
    given = [ir.convenience.convert_attribute(key, value) for key, value in (attributes or {}).items()]
    name = _unique(graph, name)
    node = ir.Node(domain, operator, inputs, given, name=name, num_outputs=1)
    output = node.outputs[0]
    output.name = name
    if like is not None:
        output.shape = like.shape
        output.type = like.type if dtype is None else ir.TensorType(dtype)
    graph.insert_before(before, node)
    return output


def _unique(graph: ir.Graph, name: str) -> str:
    """`name`, with a number if it is taken; the names of a graph, and of those inside of it, are looked up once."""
    taken: set[str | None] = graph.meta.get(_NAMES) or set()
    if not taken:
        taken |= {value.name for inner in (graph, *graph.subgraphs()) for value in inner.inputs}
        taken |= {key for inner in (graph, *graph.subgraphs()) for key in inner.initializers}
        taken |= {text for node in graph.all_nodes() for text in (node.name, *(o.name for o in node.outputs))}
        graph.meta[_NAMES] = taken
    unique, number = name, 1
    while unique in taken:
        number += 1
        unique = f"{name}_{number}"
    taken.add(unique)
    return unique


def replace_output(old: ir.Value, new: ir.Value) -> None:
    """All that read `old` read `new`, which takes its name, shape and place among the outputs of the graph."""
    name = old.name
    new.shape, new.type = old.shape, old.type
    new.metadata_props.update(old.metadata_props)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    old.name, new.name = None, name

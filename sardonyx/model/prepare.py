"""Make a model ready for lowering, without changing what it computes.

The pipeline is `prepare`, one call per step. Opsets are never converted: each node's operator is looked up under
the opset it was written for, which `Node.version` holds where it differs from the model's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from sardonyx.model.inline import inline_functions, inline_schema_functions
from sardonyx.model.schemas import VERSION_KEY, signature, version_of

__all__ = ["prepare"]

SMALL = 1024  # elements; equal initializers up to this size are shared


def prepare(
    model: ir.Model,
    *,
    is_native: Callable[[str, str, int], bool] | None = None,
    stop_after: str | None = None,
) -> ir.Model:
    """Run all steps on `model`, in place.

    Args:
        model: as `load` returns it.
        is_native: ``(domain, operator, opset) -> bool``; operators for which it is False are replaced by their
            schema's function body, if they have one. None keeps all operators.
        stop_after: name of the step after which to stop, for debugging.

    Returns:
        `model`, without model functions, Constant nodes, dead code, or two values of one name.

    Raises:
        UnsupportedError: a function cannot be inlined.
    """
    steps: list[tuple[str, Callable[[], object]]] = [
        ("fix_old_initializers", lambda: fix_old_initializers(model)),
        ("inline_functions", lambda: inline_functions(model)),
        ("inline_schema_functions", lambda: inline_schema_functions(model, is_native)),
        ("lift_constants", lambda: lift_constants(model)),
        ("remove_identities", lambda: remove_identities(model)),
        ("remove_unused", lambda: remove_unused(model)),
        ("share_initializers", lambda: share_initializers(model)),
        ("fix_names", lambda: fix_names(model)),
        ("record_versions", lambda: record_versions(model)),
    ]
    for name, step in steps:
        step()
        if name == stop_after:
            break
    return model


def fix_old_initializers(model: ir.Model) -> None:
    """Up to IR version 3 every initializer had to be listed as an input, which made none of them a default."""
    if model.ir_version < 4:
        common.RemoveInitializersFromInputsPass()(model)
        model.ir_version = 4


def lift_constants(model: ir.Model) -> None:
    """Turn Constant nodes into initializers of their graph, whatever attribute holds the value.

    (onnx_ir's LiftConstantsToInitializersPass encodes strings as ASCII and raises on sparse values.)
    """
    for node in list(model.graph.all_nodes()):
        if node.op_type != "Constant" or node.domain or node.outputs[0].is_graph_output():
            continue
        tensor = _constant(node)
        graph = node.graph
        if tensor is None or not isinstance(graph, ir.Graph):
            continue
        old = node.outputs[0]
        shape = ir.Shape([int(dim) for dim in tensor.shape])  # type: ignore[arg-type]
        new = ir.Value(name=old.name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
        if new.name in graph.initializers or new.name is None:
            new.name = f"{node.name or 'constant'}_{id(node):x}"  # fix_names makes it pretty and unique
        old.replace_all_uses_with(new)
        graph.remove(node, safe=True)
        graph.register_initializer(new)


def _constant(node: ir.Node) -> ir.TensorProtocol | None:
    if len(node.attributes) != 1:
        return None
    [(name, attribute)] = node.attributes.items()
    if attribute.is_ref() or name == "sparse_value":
        return None
    value = attribute.value
    if name == "value":
        return value
    if name in ("value_string", "value_strings"):
        texts = [value] if name == "value_string" else list(value)
        encoded = [text.encode() if isinstance(text, str) else text for text in texts]
        return ir.StringTensor(encoded, shape=ir.Shape([] if name == "value_string" else [len(encoded)]))
    kind = np.float32 if name in ("value_float", "value_floats") else np.int64
    return ir.Tensor(np.array(value, kind))


def remove_identities(model: ir.Model) -> None:
    """Bypass Identity, and Dropout that does not train."""
    for node in list(model.graph.all_nodes()):
        if node.domain or not node.inputs or node.inputs[0] is None:
            continue
        if node.op_type == "Identity" or (node.op_type == "Dropout" and not _may_train(node, model)):
            _bypass(node, node.inputs[0])


def _may_train(node: ir.Node, model: ir.Model) -> bool:
    if version_of(node, model.opset_imports) < 12 or len(node.inputs) < 3 or node.inputs[2] is None:
        return False
    mode = node.inputs[2]
    if mode.const_value is None or mode.is_graph_input():  # an initializer that is an input is only a default
        return True
    return bool(np.any(mode.const_value.numpy()))


def _bypass(node: ir.Node, source: ir.Value) -> None:
    output, graph = node.outputs[0], node.graph
    if graph is None:
        return
    if output.is_graph_output():
        producer = source.producer()
        # The output keeps its name, so its source must be free to take it: produced in this very graph (not
        # captured), and no output itself.
        if producer is None or producer.graph is not graph or source.is_graph_output():
            return
        graph.outputs[:] = [source if value is output else value for value in graph.outputs]
        source.name, output.name = output.name, None
    output.replace_all_uses_with(source)
    if source.type is None:
        source.type = output.type
    if source.shape is None:
        source.shape = output.shape
    if not any(other.uses() or other.is_graph_output() for other in node.outputs):
        graph.remove(node, safe=True)


def remove_unused(model: ir.Model) -> None:
    """Remove nodes and initializers that no output depends on, and unused optional outputs.

    (onnx_ir's RemoveUnusedNodesPass reads schemas by the model's opset, ignoring `Node.version`.)
    """
    _remove_unused_in(model.graph, model.opset_imports)
    for graph in model.graphs():
        for name, value in list(graph.initializers.items()):
            if not (value.uses() or value.is_graph_output() or value.is_graph_input()):
                del graph.initializers[name]


def _remove_unused_in(graph: ir.Graph, opsets: dict[str, int]) -> None:
    for node in reversed(graph):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            graph.remove(node, safe=True)
            continue
        _trim_outputs(node, opsets)
        for body in _bodies(node):
            _remove_unused_in(body, opsets)


def _trim_outputs(node: ir.Node, opsets: dict[str, int]) -> None:
    # How many outputs BatchNormalization has says, before opset 14, whether it trains.
    if len(node.outputs) < 2 or node.op_type == "BatchNormalization":
        return
    found = signature(node.domain, node.op_type, version_of(node, opsets))
    if found is None:
        return
    formal = found.schema.outputs
    keep = len(node.outputs)
    while keep > 1 and keep <= len(formal) and formal[keep - 1].option == type(formal[0].option).Optional:
        output = node.outputs[keep - 1]
        if output.uses() or output.is_graph_output():
            break
        keep -= 1
    node.resize_outputs(keep)


def share_initializers(model: ir.Model) -> None:
    """Let small initializers of one graph with equal type, shape and bytes be one.

    (onnx_ir's DeduplicateInitializersPass drops trailing zero bytes of strings when comparing.)
    """
    for graph in model.graphs():
        seen: dict[tuple, ir.Value] = {}
        for name, value in list(graph.initializers.items()):
            tensor = value.const_value
            if tensor is None or tensor.size > SMALL or value.is_graph_input() or value.is_graph_output():
                continue
            strings = tensor.dtype == ir.DataType.STRING
            content = tuple(tensor.numpy().reshape(-1).tolist()) if strings else tensor.tobytes()
            kept = seen.setdefault((tensor.dtype, tuple(tensor.shape), content), value)
            if kept is not value:
                value.replace_all_uses_with(kept)
                del graph.initializers[name]


class _Names:
    """Names for what has none: a node is named after its operator, a value after its node."""

    def generate_node_name(self, node: ir.Node) -> str:
        return node.name or node.op_type

    def generate_value_name(self, value: ir.Value) -> str:
        producer = value.producer()
        return value.name or (f"{producer.name or producer.op_type}:{value.index()}" if producer else "value")


def fix_names(model: ir.Model) -> None:
    """Give every node a name, and every value one that is unique even across subgraphs."""
    unnamed = [output for node in model.graph.all_nodes() for output in node.outputs if output.name == ""]
    common.NameFixPass(_Names())(model)
    for output in unnamed:  # "" means: this optional output is not wanted
        output.name = ""


def record_versions(model: ir.Model) -> None:
    """Note `Node.version` in the node's metadata too, which is saved with it; the host's reference reads it."""
    for node in model.graph.all_nodes():
        if node.version is not None:
            node.metadata_props[VERSION_KEY] = str(node.version)


def _bodies(node: ir.Node) -> Iterator[ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()

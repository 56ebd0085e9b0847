"""Replace calls of functions by their bodies: functions of the model, and those that schemas carry."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from sardonyx.errors import UnsupportedError
from sardonyx.model.schemas import operator_name, signature, version_of

_ROUNDS = 8  # a schema's body may use operators that have a body; none is nested deeper than this


def inline_functions(model: ir.Model) -> None:
    """Inline all functions of the model.

    Raises:
        UnsupportedError: a function takes graphs as attributes.
    """
    if not model.functions:
        return
    for function in model.functions.values():
        _pin_versions(function, model.opset_imports)
        _separate_outputs(function)
    bodies: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for body in bodies:
        for node in body.all_nodes():
            callee = model.functions.get(node.op_identifier())
            if callee is not None:
                _complete_outputs(node, len(callee.outputs))
    try:
        common.InlinePass()(model)
    except (ValueError, RuntimeError) as error:  # the inliner's own errors derive from these
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        hint = "Inline it before exporting, for example with onnx.inliner."
        raise UnsupportedError(f"a function of the model cannot be inlined: {cause}", hint=hint) from error
    model.functions.clear()  # what is left is not called


def inline_schema_functions(model: ir.Model, is_native: Callable[[str, str, int], bool] | None) -> None:
    """Inline the schema's body of every operator that has one and is not native."""
    if is_native is None:
        return
    kept: set[ir.Node] = set()
    typed = False
    for _ in range(_ROUNDS):
        found = [node for node in model.graph.all_nodes() if node not in kept and _has_body(node, model, is_native)]
        if not found:
            return
        if not typed and any(_needs_types(node, model) for node in found):
            infer_types(model)
            typed = True
        for position, node in enumerate(found):
            function = _body(node, model, f"sardonyx.{position}")
            if function is None:
                kept.add(node)  # for lack of types; it runs on the host, or lowering says why not
            else:
                model.functions[function.identifier()] = function
        if model.functions:
            typed = False
            inline_functions(model)


def infer_types(model: ir.Model) -> None:
    """Fill in types and shapes of values as far as `onnx.shape_inference` finds them."""
    # A failure is logged with its traceback and leaves the model as it was, which is what is wanted here.
    logging.getLogger(common.shape_inference.__name__).setLevel(logging.CRITICAL)
    common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)


def _pin_versions(function: ir.Function, opsets: dict[str, int]) -> None:
    """Let the function import the model's opsets; nodes that mean something else there keep their version."""
    own = dict(function.opset_imports)
    for domain, version in own.items():
        opsets.setdefault(domain, version)
    for node in function.all_nodes():
        version = version_of(node, own)
        there = {node.domain: opsets.setdefault(node.domain, version)}
        if node.version is None and operator_name(node, own) != operator_name(node, there):
            node.version = version
    for domain in own:
        function.opset_imports[domain] = opsets[domain]


def _complete_outputs(node: ir.Node, count: int) -> None:
    """The inliner pairs the outputs of call and function by position and lets the latter take the former's names."""
    if len(node.outputs) < count:
        node.resize_outputs(count)
    for output in node.outputs:
        output.name = output.name or None  # "" would erase the name of what replaces it


def _separate_outputs(function: ir.Function) -> None:
    """Give each output a node of its own.

    The inliner names what replaces an output after the call's output; an input that is returned, or a value
    returned twice, would rename the caller's values.
    """
    seen: set[ir.Value] = set()
    for position, output in enumerate(function.outputs):
        if output.producer() is None or output in seen:
            copy = ir.Node("", "Identity", [output], name="Identity")
            copy.outputs[0].name = f"{output.name}:copy"
            function.append(copy)
            function.outputs[position] = copy.outputs[0]
        seen.add(output)


def _schema(node: ir.Node, model: ir.Model) -> Any:
    found = signature(node.domain, node.op_type, version_of(node, model.opset_imports))
    return found.schema if found else None


def _has_body(node: ir.Node, model: ir.Model, is_native: Callable[[str, str, int], bool]) -> bool:
    schema = _schema(node, model)
    if schema is None or not (schema.has_function or schema.has_context_dependent_function):
        return False
    return not is_native(node.domain, node.op_type, version_of(node, model.opset_imports))


def _needs_types(node: ir.Node, model: ir.Model) -> bool:
    schema = _schema(node, model)
    untyped = any(value is not None and value.type is None for value in node.inputs)
    return untyped and not schema.has_function


def _body(node: ir.Node, model: ir.Model, overload: str) -> ir.Function | None:
    """The body of one call as a function that only this call uses, or None if it cannot be built."""
    schema = _schema(node, model)
    version = version_of(node, model.opset_imports)
    graphs = [name for name, attribute in node.attributes.items() if attribute.type == ir.AttributeType.GRAPH]
    if graphs and (schema.has_function or _captures(node)):
        return None
    defaults = [
        attribute.default_value
        for name, attribute in schema.attributes.items()
        if name not in node.attributes and attribute.default_value.type != onnx.AttributeProto.UNDEFINED
    ]
    blob = _plain_body(schema, version) if schema.has_function else _typed_body(schema, version, node, defaults)
    if not blob:
        return None
    proto = onnx.FunctionProto.FromString(blob)
    proto.domain, proto.name, proto.overload = node.domain, node.op_type, overload
    made = {*proto.input, *(name for inner in proto.node for name in inner.output)}
    for inner in proto.node:
        inner.name = f"{node.name or node.op_type}/{inner.op_type}"
    # A body leaves out the optional outputs that this call does not want; the inliner needs something there.
    proto.output[:] = [name if name in made else proto.output[0] for name in proto.output]
    if all(entry.domain not in ("", "ai.onnx") for entry in proto.opset_import):
        opset = model.opset_imports.get("", onnx.defs.onnx_opset_version())
        proto.opset_import.append(onnx.helper.make_opsetid("", opset))
    for default in defaults:
        node.attributes[default.name] = ir.serde.deserialize_attribute(default)
    for name in graphs:  # they are part of the body now
        del node.attributes[name]
    node.overload = overload
    return ir.serde.deserialize_function(proto)


def _captures(node: ir.Node) -> bool:
    """True if a graph inside `node` uses a value from outside, which a function could not."""
    for attribute in node.attributes.values():
        if attribute.type != ir.AttributeType.GRAPH:
            continue
        body = attribute.as_graph()
        own = {*body.inputs, *body.initializers.values()}
        used = set(body.outputs)
        for inner in body.all_nodes():
            own.update(inner.outputs)
            used.update(value for value in inner.inputs if value is not None)
        for graph in body.subgraphs():
            own.update(graph.inputs, graph.initializers.values())
            used.update(graph.outputs)
        if used - own:
            return True
    return False


def _closest(versions: list[int], version: int) -> int | None:
    """The body written for `version` or before; else a later one, whose nodes then keep their own version."""
    return max((v for v in versions if v <= version), default=min(versions, default=None))


def _plain_body(schema: Any, version: int) -> bytes | None:
    chosen = _closest(schema.function_opset_versions, version)
    return None if chosen is None else schema.get_function_with_opset_version(chosen)


def _typed_body(schema: Any, version: int, node: ir.Node, defaults: list) -> bytes | None:
    chosen = _closest(schema.context_dependent_function_opset_versions, version)
    types = [onnx.TypeProto() if v is None else ir.serde.serialize_value(v).type for v in node.inputs]
    known = all(v is None or t.WhichOneof("value") for v, t in zip(node.inputs, types, strict=True))
    if chosen is None or not known:
        return None
    blobs = [kind.SerializeToString() for kind in types]
    proto = ir.serde.serialize_node(node)
    proto.attribute.extend(defaults)
    return schema.get_context_dependent_function_with_opset_version(chosen, proto.SerializeToString(), blobs)

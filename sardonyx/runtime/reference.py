"""The meaning of operators: one node, or a whole model, computed by `onnx.reference`.

This is what a host call runs and what native code is tested against. `onnx.reference` is the standard's own
evaluator; where it is wrong or has no version of an operator, `reference_fixes` replaces it.

Values: numpy arrays (ml_dtypes for bfloat16, float8, int4, ...), object arrays of `str` for strings, lists for
sequences, None for a missing input or an empty optional.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator, op_run
from onnx.reference.ops import _op_list

from sardonyx.errors import InputError, SardonyxError, UnsupportedError
from sardonyx.runtime.reference_fixes import FIXES

__all__ = ["evaluate", "run_node"]


def run_node(
    node: ir.Node,
    inputs: Sequence[Any],
    opset_imports: Mapping[str, int],
    *,
    captured: Mapping[str, Any] | None = None,
    functions: Iterable[ir.Function] = (),
) -> list[Any]:
    """The outputs of one node.

    Args:
        node: any operator; its `version`, if set, overrides `opset_imports` for its own domain.
        inputs: one value per entry of ``node.inputs`` (None where the node has none).
        opset_imports: domain -> version of the model.
        captured: values that subgraphs of the node take from outside, by name.
        functions: functions of the model that the node may call, callees before callers.

    Returns:
        One value per entry of ``node.outputs``.

    Raises:
        UnsupportedError: no meaning is known for this operator and version.
        InputError: the operator rejects its inputs.
    """
    try:
        with np.errstate(all="ignore"):  # overflow and 0/0 are results here, not mistakes
            return _compiled(node, opset_imports, functions).run(list(inputs), captured or {})
    except SardonyxError:
        raise
    except ImportError as error:
        hint = f"Install the package it names: {error}"
        raise _failure(UnsupportedError, node, error, hint) from error
    except (NotImplementedError, onnx.defs.SchemaError) as error:
        hint = "Register the operator, or express it with standard operators or a model function."
        raise _failure(UnsupportedError, node, error, hint) from error
    except Exception as error:  # the evaluator raises whatever numpy does
        shown = ", ".join(_describe(value) for value in inputs)
        hint = f"It was given ({shown}); compare with the operator's definition."
        raise _failure(InputError, node, error, hint) from error


def evaluate(model: ir.Model, feeds: Mapping[str, Any]) -> list[Any]:
    """The graph outputs of `model` for `feeds`, node after node; slow, for tests and verification.

    Raises:
        InputError: an input without initializer is not fed, or an operator rejects its inputs.
        UnsupportedError: an operator has no known meaning.
    """
    functions = _callees_first(model.functions)
    values: dict[str, Any] = {}
    for name, value in model.graph.initializers.items():
        values[name] = _tensor_value(value)
    values.update(feeds)
    for value in model.graph.inputs:
        if value.name not in values:
            raise InputError(f"input {value.name!r} is not fed", hint=f"Given: {sorted(feeds)}.")
    for node in model.graph:
        inputs = [None if value is None else values[value.name] for value in node.inputs]
        results = run_node(node, inputs, model.opset_imports, captured=values, functions=functions)
        for output, result in zip(node.outputs, results, strict=False):
            if output.name:
                values[output.name] = result
    return [values[output.name] for output in model.graph.outputs]


class Evaluator(ReferenceEvaluator):
    """`ReferenceEvaluator` with our fixes, and functions that accept absent optional inputs."""

    def __init__(self, proto: Any, opsets: dict[str, int] | None = None, **options: Any) -> None:
        options["new_ops"] = options.get("new_ops") or FIXES
        super().__init__(proto, opsets, **options)

    def _load_impl(self, node: onnx.NodeProto, input_types: Any = None) -> Any:
        if node.domain == "ai.onnx":
            node.domain = ""
        key = (node.domain, node.op_type)
        if key in self.functions_:
            return _call(self.functions_[key])
        if key in self.new_ops_:
            return self.new_ops_[key]
        if node.domain == "" and node.op_type not in _registered():
            schema = onnx.defs.get_schema(node.op_type, self.opsets[""], "")
            if schema.has_function:
                return _call(Evaluator(schema.function_body))
            if schema.has_context_dependent_function:
                return lambda proto, params: _FunctionOfTypes(proto, params, schema)
        return super()._load_impl(node, input_types)


class _Function(op_run.OpFunction):
    def _run_impl(self, impl: Any, *inputs: Any, **options: Any) -> Any:
        absent = [None] * (len(impl.input_names) - len(inputs))
        return super()._run_impl(impl, *inputs, *absent, **options)

    def _check_and_fix_outputs(self, res: tuple[Any, ...]) -> tuple[Any, ...]:
        return res  # each node of the body was checked; an optional output may be empty


class _FunctionOfTypes(_Function):
    """An operator whose body the schema builds from the input types: built at the first call for them."""

    def __init__(self, proto: onnx.NodeProto, params: dict[str, Any], schema: Any) -> None:
        super().__init__(proto, params, impl=self, attributes={})
        self.schema_of_body = schema
        self.bodies: dict[bytes, Evaluator] = {}

    def _run(self, *inputs: Any, **_: Any) -> Any:
        types = [_type_of(value).SerializeToString() for value in inputs]
        key = b"|".join(types)
        if key not in self.bodies:
            body = self.schema_of_body.get_context_dependent_function(
                self.onnx_node.SerializeToString(), types
            )
            self.bodies[key] = Evaluator(onnx.FunctionProto.FromString(body))
        return self._run_impl(self.bodies[key], *inputs)


class _Compiled:
    """A node made ready to run; valid while `key` describes the node."""

    def __init__(self, node: ir.Node, key: tuple[Any, ...], opsets: dict[str, int], functions: Any) -> None:
        self.key = key
        self.count = len(node.outputs)
        proto = ir.serde.serialize_node(node)
        proto.input[:] = [f"in{i}" for i in range(len(node.inputs))]
        graph = onnx.GraphProto(name="node", node=[proto])
        graph.input.extend(onnx.ValueInfoProto(name=name) for name in proto.input)
        protos = [ir.serde.serialize_function(function) for function in functions]
        self.node = Evaluator(graph, opsets, functions=protos).rt_nodes_[0]

    def run(self, inputs: list[Any], captured: Mapping[str, Any]) -> list[Any]:
        options = {"context": dict(captured)} if self.node.need_context() else {}
        results = list(self.node.run(*inputs, **options))
        return (results + [None] * self.count)[: self.count]


_cache: weakref.WeakKeyDictionary[ir.Node, _Compiled] = weakref.WeakKeyDictionary()


def _compiled(node: ir.Node, opset_imports: Mapping[str, int], functions: Iterable[ir.Function]) -> _Compiled:
    functions = tuple(functions)
    opsets = {("" if domain == "ai.onnx" else domain): v for domain, v in opset_imports.items()}
    if node.version is not None:
        opsets[node.domain] = node.version
    opsets.setdefault(node.domain, 1)  # contrib and function domains
    # Attributes are compared by identity: an edit replaces the Attr object.
    attributes = tuple(id(attribute) for attribute in node.attributes.values())
    shape = (node.op_type, len(node.inputs), len(node.outputs), attributes)
    key = (shape, tuple(opsets.items()), functions)
    found = _cache.get(node)
    if found is None or found.key != key:
        found = _cache[node] = _Compiled(node, key, opsets, functions)
    return found


def _call(body: Evaluator) -> Any:
    return lambda proto, params: _Function(proto, params, impl=body)


def _registered() -> dict[str, Any]:
    if _op_list._registered_operators is None:
        _op_list._registered_operators = _op_list._build_registered_operators()
    return _op_list._registered_operators


def _type_of(value: Any) -> onnx.TypeProto:
    if value is None:
        return onnx.TypeProto()
    if isinstance(value, (list, tuple)):
        element = _type_of(value[0]) if value else onnx.TypeProto()
        return onnx.helper.make_sequence_type_proto(element)
    kind = onnx.TensorProto.STRING
    if value.dtype.kind not in "OUS":
        kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
    return onnx.helper.make_tensor_type_proto(kind, value.shape)


def _tensor_value(value: ir.Value) -> np.ndarray:
    array = value.const_value.numpy()
    if value.const_value.dtype != ir.DataType.STRING:
        return array
    text = [item.decode() if isinstance(item, bytes) else item for item in array.reshape(-1)]
    return np.array(text, dtype=object).reshape(array.shape)


def _callees_first(functions: Mapping[Any, ir.Function]) -> list[ir.Function]:
    """The evaluator resolves a call only if it has seen the function before."""
    ordered: dict[Any, ir.Function] = {}

    def visit(key: Any) -> None:
        if key in ordered or key not in functions:
            return
        for node in functions[key].all_nodes():
            visit(node.op_identifier())
        ordered[key] = functions[key]

    for key in functions:
        visit(key)
    return list(ordered.values())


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    return type(value).__name__


def _failure(kind: type[Any], node: ir.Node, error: Exception, hint: str) -> SardonyxError:
    text = str(error).strip().split("\n")[0]
    cause = error.__cause__
    if cause is not None and str(cause):
        text += f" ({cause})"
    operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    return kind(text or type(error).__name__, node=node.name, operator=operator, hint=hint)

"""The meaning of operators: one node, or a whole model, computed by `onnx.reference`.

This is what a host call runs and what native code is tested against. `onnx.reference` is the standard's own
evaluator; where it is wrong or has no version of an operator, `reference_fixes` replaces it, and where it takes an
element at a time, `reference_arrays`.

Values: numpy arrays (ml_dtypes for bfloat16, float8, int4, ...), object arrays of `str` for strings, lists for
sequences, None for a missing input or an empty optional.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator, op_run
from onnx.reference.ops import _op_list

from sardonyx.errors import InputError, SardonyxError, UnsupportedError
from sardonyx.ops import custom
from sardonyx.runtime.mapped import forget
from sardonyx.runtime.reference_arrays import FASTER
from sardonyx.runtime.reference_fixes import FIXES

if TYPE_CHECKING:  # at run time it would cost a second, which a host call of a cached model need not pay
    import onnx_ir as ir

__all__ = ["evaluate", "evaluate_steps", "last_uses", "prepared", "run_node"]

VERSION_KEY = "sardonyx.opset"  # metadata of a node: the opset it follows, where that is not the model's


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
    return _compiled(node, opset_imports, functions).run(list(inputs), captured or {})


def prepared(
    node: ir.Node, opset_imports: Mapping[str, int], functions: Iterable[ir.Function] = ()
) -> Callable[[list[Any], Mapping[str, Any]], list[Any]]:
    """`run_node` for one node that no longer changes, as a function of inputs and captured values."""
    return _compiled(node, opset_imports, functions).run


def evaluate(model: ir.Model, feeds: Mapping[str, Any]) -> list[Any]:
    """The graph outputs of `model` for `feeds`, node after node; slow, for tests and verification.

    Raises:
        InputError: an input without initializer is not fed, or an operator rejects its inputs.
        UnsupportedError: an operator has no known meaning.
    """
    outputs = [str(output.name) for output in model.graph.outputs]
    found: dict[str, Any] = {}
    for node, results in evaluate_steps(model, feeds, found, keep=outputs):
        del node, results
    return [found[name] for name in outputs]


def evaluate_steps(
    model: ir.Model, feeds: Mapping[str, Any], values: dict[str, Any], keep: Iterable[str] = ()
) -> Iterator[tuple[ir.Node, list[Any]]]:
    """Evaluate `model` node by node: yields each node with its outputs, in the order of the graph.

    Args:
        model: nodes in topological order.
        feeds: a value for each input without initializer.
        values: filled with the values that are alive, by name; one is dropped after its last use, and weights are
            read only while a node needs them. What the caller removes is gone for later nodes too.
        keep: names that are not dropped.

    Raises:
        InputError, UnsupportedError: see `evaluate`.
    """
    functions = _callees_first(model.functions)
    values.update(feeds)
    weights = model.graph.initializers
    for value in model.graph.inputs:
        if value.name not in values and value.name not in weights:
            raise InputError(f"input {value.name!r} is not fed", hint=f"Given: {sorted(feeds)}.")
    last = last_uses(model.graph)
    kept = set(keep)
    values.update((name, _tensor_value(weights[name])) for name in kept if name in weights and name not in values)
    for number, node in enumerate(model.graph):
        used = _used_names(node)
        borrowed = {name: _tensor_value(weights[name]) for name in used if name in weights and name not in values}
        here = {**values, **borrowed} if borrowed else values
        inputs = [None if value is None else here[str(value.name)] for value in node.inputs]
        results = run_node(node, inputs, model.opset_imports, captured=here, functions=functions)
        for output, result in zip(node.outputs, results, strict=False):
            if output.name:
                values[output.name] = result
        yield node, results
        for array in borrowed.values():
            forget(array)
        for name in {*used, *(str(output.name) for output in node.outputs)}:
            if last.get(name, number) <= number and name not in kept:
                values.pop(name, None)


def _used_names(node: ir.Node) -> list[str]:
    """Names of the values that a node reads, those included that its subgraphs take from outside."""
    names = [str(value.name) for value in node.inputs if value is not None]
    for attribute in node.attributes.values():
        bodies = (
            [attribute.value]
            if attribute.type.name == "GRAPH"
            else attribute.value
            if attribute.type.name == "GRAPHS"
            else []
        )
        for body in bodies:
            names += [name for inner in body for name in _used_names(inner)]
            names += [str(value.name) for value in body.outputs]
    return names


def last_uses(graph: ir.Graph) -> dict[str, int]:
    """Name of a value -> number of the last node that reads it."""
    return {name: number for number, node in enumerate(graph) for name in _used_names(node)}


class Evaluator(ReferenceEvaluator):
    """`ReferenceEvaluator` with our fixes, and functions that accept absent optional inputs."""

    def __init__(self, proto: Any, opsets: dict[str, int] | None = None, **options: Any) -> None:
        options["new_ops"] = options.get("new_ops") or [*FIXES, *FASTER]
        super().__init__(proto, opsets, **options)
        if isinstance(proto, onnx.FunctionProto):  # onnx.reference forgets attributes that have defaults
            self.attributes_ += [default.name for default in proto.attribute_proto]

    def _load_impl(self, node: onnx.NodeProto, input_types: Any = None) -> Any:
        if node.domain == "ai.onnx":
            node.domain = ""
        key = (node.domain, node.op_type)
        if key in self.functions_:
            return _call(_ModelFunction, self.functions_[key])
        if key in self.new_ops_:
            return self.new_ops_[key]
        registered = custom.find(node.domain, node.op_type, self.opsets.get(node.domain, 1))
        if registered is not None:
            return lambda proto, params: _Custom(proto, params, registered)
        if node.domain == "" and node.op_type not in _registered():
            schema = onnx.defs.get_schema(node.op_type, self.opsets[""], "")
            if schema.has_function:
                return _call(_Function, Evaluator(schema.function_body))
            if schema.has_context_dependent_function:
                return lambda proto, params: _FunctionOfTypes(proto, params, schema)
        return super()._load_impl(node, input_types)


class _Function(op_run.OpFunction):
    def _run_impl(self, impl: Any, *inputs: Any, **options: Any) -> Any:
        absent = [None] * (len(impl.input_names) - len(inputs))
        return super()._run_impl(impl, *inputs, *absent, **options)

    def _check_and_fix_outputs(self, res: tuple[Any, ...]) -> tuple[Any, ...]:
        return res  # each node of the body was checked; an optional output may be empty


class _ModelFunction(_Function):
    """A function of the model; onnx.reference ignores the defaults of its attributes."""

    op_schema = None  # else a standard operator of the same name, whatever its domain, would be asked

    def __init__(self, proto: onnx.NodeProto, params: dict[str, Any], impl: ReferenceEvaluator) -> None:
        given = {attribute.name for attribute in proto.attribute}
        proto.attribute.extend(a for a in impl.proto_.attribute_proto if a.name not in given)
        for name in impl.attributes_:
            setattr(self, name, None)  # stays, if the call gives none and there is no default
        super().__init__(proto, params, impl=impl)


class _Custom(op_run.OpRun):
    """An operator that the user registered."""

    op_schema = None  # else a standard operator of the same name, whatever its domain, would be asked

    def __init__(self, proto: onnx.NodeProto, params: dict[str, Any], registered: custom.Custom) -> None:
        super().__init__(proto, params)
        self.registered = registered

    def _run(self, *inputs: Any, **attributes: Any) -> tuple[np.ndarray, ...]:
        return self.registered.run(inputs, attributes)


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
            body = self.schema_of_body.get_context_dependent_function(self.onnx_node.SerializeToString(), types)
            self.bodies[key] = Evaluator(onnx.FunctionProto.FromString(body))
        return self._run_impl(self.bodies[key], *inputs)


class _Compiled:
    """A node made ready to run; `key` describes the node that it is valid for."""

    def __init__(
        self,
        proto: onnx.NodeProto,
        opsets: dict[str, int],
        functions: Sequence[onnx.FunctionProto],
        key: tuple[Any, ...] = (),
    ) -> None:
        self.key = key
        self.opsets = opsets
        self.functions = functions
        self.proto = onnx.NodeProto()
        self.proto.CopyFrom(proto)
        self.proto.input[:] = [f"in{i}" for i in range(len(proto.input))]  # "" is refused for an absent input
        self.node: Any = None

    def run(self, inputs: list[Any], captured: Mapping[str, Any]) -> list[Any]:
        """The outputs; UnsupportedError or InputError, naming the node, where it cannot give any."""
        try:
            with np.errstate(all="ignore"):  # overflow and 0/0 are results here, not mistakes
                return self._run(inputs, captured)
        except SardonyxError:
            raise
        except ImportError as error:
            hint = "Install the package that the message names (pip install)."
            raise self._failure(UnsupportedError, error, hint) from error
        except (NotImplementedError, onnx.defs.SchemaError) as error:
            hint = "Register the operator, or express it with standard operators or a model function."
            raise self._failure(UnsupportedError, error, hint) from error
        except Exception as error:  # the evaluator raises whatever numpy does
            shown = ", ".join(_describe(value) for value in inputs)
            hint = f"It was given ({shown}); compare with the operator's definition."
            raise self._failure(InputError, error, hint) from error

    def _run(self, inputs: list[Any], captured: Mapping[str, Any]) -> list[Any]:
        if self.node is None:
            graph = onnx.GraphProto(name="node", node=[self.proto])
            graph.input.extend(onnx.ValueInfoProto(name=name) for name in self.proto.input)
            self.node = Evaluator(graph, self.opsets, functions=self.functions).rt_nodes_[0]
        options = {"context": dict(captured)} if self.node.need_context() else {}
        results = list(self.node.run(*inputs, **options))
        count = len(self.proto.output)
        return (results + [None] * count)[:count]

    def _failure(self, kind: type[Any], error: Exception, hint: str) -> SardonyxError:
        from sardonyx.model.schemas import full_name

        text = str(error).strip().split("\n")[0] or type(error).__name__
        if error.__cause__ is not None and str(error.__cause__):
            text += f" ({error.__cause__})"
        domain, operator = self.proto.domain, self.proto.op_type
        name = full_name(domain, operator, self.opsets[domain])
        return kind(text, node=self.proto.name, operator=name, hint=hint)


_cache: weakref.WeakKeyDictionary[ir.Node, _Compiled] = weakref.WeakKeyDictionary()


def _compiled(node: ir.Node, opset_imports: Mapping[str, int], functions: Iterable[ir.Function]) -> _Compiled:
    functions = tuple(functions)
    opsets = _domains(opset_imports)
    version = node.version or node.metadata_props.get(VERSION_KEY)  # the latter survives being saved
    opsets[node.domain] = int(version or opsets.get(node.domain, 1))  # 1: contrib and function domains
    # Attributes are compared by identity: an edit replaces the Attr object, which the key keeps alive.
    attributes = [_Same(attribute) for attribute in node.attributes.values()]
    key = (node.op_type, len(node.inputs), len(node.outputs), attributes, opsets, functions)
    found = _cache.get(node)
    if found is None or found.key != key:
        from onnx_ir import serde

        protos = [serde.serialize_function(function) for function in functions]
        found = _cache[node] = _Compiled(_complete(serde.serialize_node(node), node), opsets, protos, key)
    return found


def _complete(proto: onnx.NodeProto, node: ir.Node) -> onnx.NodeProto:
    """Serialising drops trailing absent inputs and outputs, which callers count."""
    proto.input.extend([""] * (len(node.inputs) - len(proto.input)))
    proto.output.extend([""] * (len(node.outputs) - len(proto.output)))
    return proto


class _Same:
    """Equal to another only if both hold the very same object."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.held is self.held

    __hash__ = None  # type: ignore[assignment]


def _domains(imports: Mapping[str, int]) -> dict[str, int]:
    return {("" if domain == "ai.onnx" else domain): version for domain, version in imports.items()}


def _call(kind: type[_Function], body: ReferenceEvaluator) -> Any:
    return lambda proto, params: kind(proto, params, impl=body)


@functools.cache
def _registered() -> dict[str, Any]:
    operators: dict[str, Any] = _op_list._build_registered_operators()
    return operators


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
    if array.dtype != object:
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

"""Check a model's structure before anything is built from it.

Works on the protobuf, with explicit stacks, so that no file can exhaust Python's. Every failure is a typed
error that names the node. Graphs whose nodes are out of order are reported, not refused: `load` sorts them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from sardonyx.errors import ModelError, UnsupportedError
from sardonyx.model.schemas import Signature, newest_opset, signature
from sardonyx.model.tensors import check_tensor

MAX_DEPTH = 32  # nested subgraphs; files cannot exceed this anyway (protobuf's own limit)
_ATTRIBUTE_FIELDS: dict[int, str] = {
    onnx.AttributeProto.FLOAT: "f",
    onnx.AttributeProto.INT: "i",
    onnx.AttributeProto.STRING: "s",
    onnx.AttributeProto.TENSOR: "t",
    onnx.AttributeProto.GRAPH: "g",
    onnx.AttributeProto.SPARSE_TENSOR: "sparse_tensor",
    onnx.AttributeProto.TYPE_PROTO: "tp",
    onnx.AttributeProto.FLOATS: "floats",
    onnx.AttributeProto.INTS: "ints",
    onnx.AttributeProto.STRINGS: "strings",
    onnx.AttributeProto.TENSORS: "tensors",
    onnx.AttributeProto.GRAPHS: "graphs",
    onnx.AttributeProto.SPARSE_TENSORS: "sparse_tensors",
    onnx.AttributeProto.TYPE_PROTOS: "type_protos",
}
_TYPE_NAMES: dict[int, str] = {int(number): name for name, number in onnx.AttributeProto.AttributeType.items()}


@dataclass
class _Scope:
    """One graph or function body with the scopes around it."""

    nodes: list[onnx.NodeProto]
    inputs: list[str]
    outputs: list[str]
    initializers: list[str]
    parent: _Scope | None
    depth: int
    owner: str  # for messages
    known: set[str] = field(default_factory=set)  # inputs, initializers, outputs of nodes seen so far
    produced: set[str] = field(default_factory=set)  # every output of every node


def check(proto: onnx.ModelProto, folder: Path | None, raw_bytes: dict[int, int] | None = None) -> bool:
    """Check `proto`; True if some graph's nodes are out of order.

    Args:
        proto: the model; large weights may be left out.
        folder: the folder that external data must lie in.
        raw_bytes: initializer position -> size of raw data left out.

    Raises:
        ModelError: the model breaks the specification.
        UnsupportedError: it needs a newer or older standard than is known here.
    """
    opsets = check_versions(proto)
    if not proto.graph.output:
        raise ModelError("the graph has no outputs", hint="Nothing would be computed; export it again.")
    for position, tensor in enumerate(proto.graph.initializer):
        check_tensor(tensor, folder, raw_bytes=(raw_bytes or {}).get(position))
    functions = _check_functions(proto)
    unsorted = _check_scope(_graph_scope(proto.graph, None), opsets, functions, folder)
    for function in proto.functions:
        scope = _Scope(list(function.node), list(function.input), list(function.output), [], None, 0, function.name)
        own = {**opsets, **_opsets(function.opset_import, f"function {function.name!r}")}
        unsorted |= _check_scope(scope, own, functions, folder)
    return unsorted


def check_versions(proto: onnx.ModelProto) -> dict[str, int]:
    """The model's opsets by domain, after checking that they are known here."""
    if not proto.ir_version or not proto.opset_import:
        hint = "Check that the file is an ONNX model and complete."
        raise ModelError("there is no IR version or no opset in this file", hint=hint)
    if proto.ir_version > onnx.IR_VERSION:
        message = f"IR version {proto.ir_version} is newer than {onnx.IR_VERSION}, the newest known here"
        raise UnsupportedError(message, hint="Upgrade the onnx package (pip install -U onnx).")
    if proto.ir_version < 3:
        message = f"IR version {proto.ir_version} is older than 3, the first with opsets"
        raise UnsupportedError(message, hint="Export the model again with a current exporter.")
    opsets = _opsets(proto.opset_import, "the model")
    for domain, version in opsets.items():
        newest = newest_opset(domain)
        if version < 1:
            raise ModelError(f"opset {version} of {domain or 'ai.onnx'!r} does not exist; the first is 1")
        if newest is not None and version > newest:
            message = f"opset {version} of {domain or 'ai.onnx'!r} is newer than {newest}, the newest known here"
            raise UnsupportedError(message, hint="Upgrade the onnx package, or export with a lower opset.")
    return opsets


def _opsets(imports: Iterable[onnx.OperatorSetIdProto], owner: str) -> dict[str, int]:
    opsets: dict[str, int] = {}
    imports = list(imports)
    _check_text([entry.domain for entry in imports], owner)
    for entry in imports:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        if opsets.setdefault(domain, entry.version) != entry.version:
            raise ModelError(f"{owner} imports two versions of {domain or 'ai.onnx'!r}")
    return opsets


# ---- names and order ------------------------------------------------------------------------------------


def _graph_scope(graph: onnx.GraphProto, parent: _Scope | None, owner: str = "the graph") -> _Scope:
    _check_text([graph.name, *(info.name for info in graph.value_info)], owner)
    initializers = [tensor.name for tensor in graph.initializer]
    initializers += [tensor.values.name for tensor in graph.sparse_initializer]
    inputs, outputs = [v.name for v in graph.input], [v.name for v in graph.output]
    depth = 0 if parent is None else parent.depth + 1
    return _Scope(list(graph.node), inputs, outputs, initializers, parent, depth, owner)


def _check_scope(root: _Scope, opsets: dict[str, int], functions: set, folder: Path | None) -> bool:
    """Check a graph and, iteratively, the graphs inside it; True if nodes are out of order anywhere."""
    unsorted = False
    pending = [root]
    while pending:
        scope = pending.pop()
        if scope.depth > MAX_DEPTH:
            raise ModelError(f"subgraphs are nested deeper than {MAX_DEPTH}", node=scope.owner)
        _check_text([*scope.inputs, *scope.outputs, *scope.initializers], scope.owner)
        for node in scope.nodes:
            _check_text(_texts(node), scope.owner)
        _declare(scope)
        late = False
        for node in scope.nodes:
            late |= _check_inputs(node, scope)
            scope.known.update(node.output)
            _check_node(node, opsets, functions)
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.TENSOR:
                    check_tensor(attribute.t, folder)
                for graph in _subgraphs(attribute):
                    for tensor in graph.initializer:
                        check_tensor(tensor, folder)
                    pending.append(_graph_scope(graph, scope, _node_name(node)))
        if late:
            _check_acyclic(scope.nodes)
            unsorted = True
        for name in scope.outputs:
            if not name or (name not in scope.known and not _visible(name, scope.parent)):
                hint = "Name a value that a node produces."
                raise ModelError(f"output {name!r} of {scope.owner} is produced by no node", hint=hint)
    return unsorted


def _check_text(texts: Iterable[object], owner: str) -> None:
    """Protobuf hands out bytes where a text is no UTF-8."""
    for text in texts:
        if not isinstance(text, str):
            hint = "The file is damaged; export or download it again."
            raise ModelError(f"a name in {owner} is not valid UTF-8: {text!r}", hint=hint)


def _texts(node: onnx.NodeProto) -> Iterator[object]:
    yield from (node.name, node.op_type, node.domain, node.overload)
    yield from node.input
    yield from node.output
    for attribute in node.attribute:
        yield attribute.name
        yield attribute.ref_attr_name


def _declare(scope: _Scope) -> None:
    """Collect the names of a scope; each may be given once."""
    _unique(scope.inputs, scope, "input")
    _unique(scope.initializers, scope, "initializer")
    scope.known.update(scope.inputs, scope.initializers, [""])
    for node in scope.nodes:
        for name in node.output:
            if name and (name in scope.produced or name in scope.known):
                message = f"value {name!r} is produced twice in {scope.owner}"
                hint = "Every value of a graph needs a name of its own."
                raise ModelError(message, node=_node_name(node), operator=node.op_type, hint=hint)
            scope.produced.add(name)


def _unique(names: list[str], scope: _Scope, what: str) -> None:
    if len(set(names)) == len(names) and "" not in names:
        return
    twice = next((name for name in names if not name or names.count(name) > 1), "")
    raise ModelError(f"{what} {twice!r} of {scope.owner} is unnamed or given twice")


def _check_inputs(node: onnx.NodeProto, scope: _Scope) -> bool:
    """True if an input is produced later in the same graph."""
    late = False
    for name in node.input:
        if name in scope.known:
            continue
        if name in scope.produced:
            late = True
        elif not _visible(name, scope.parent):
            message = f"input {name!r} is produced by no node and is no input or initializer"
            hint = "The graph was cut or renamed incompletely; export it again."
            raise ModelError(message, node=_node_name(node), operator=node.op_type, hint=hint)
    return late


def _visible(name: str, scope: _Scope | None) -> bool:
    while scope is not None:
        if name in scope.known or name in scope.produced:
            return True
        scope = scope.parent
    return False


def _check_acyclic(nodes: list[onnx.NodeProto]) -> None:
    """Raise ModelError with the nodes of a cycle, captured values of subgraphs counted as inputs."""
    producer = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    needs = [{producer[n] for n in _used_names(node) if n in producer} for node in nodes]
    users: list[list[int]] = [[] for _ in nodes]
    for i, needed in enumerate(needs):
        for j in needed:
            users[j].append(i)
    missing = [len(needed) for needed in needs]
    ready = [i for i, count in enumerate(missing) if count == 0]
    while ready:
        for user in users[ready.pop()]:
            missing[user] -= 1
            if missing[user] == 0:
                ready.append(user)
    stuck = [i for i, count in enumerate(missing) if count > 0]
    if not stuck:
        return
    # From any stuck node, walking to a stuck node that it needs must come round.
    walk = [stuck[0]]
    while walk[-1] not in walk[:-1]:
        walk.append(next(j for j in needs[walk[-1]] if missing[j] > 0))
    cycle = walk[walk.index(walk[-1]) :][::-1]
    shown = " -> ".join(_node_name(nodes[i]) for i in cycle[:8])
    first = nodes[cycle[0]]
    hint = "ONNX graphs are acyclic; express loops with Loop or Scan."
    raise ModelError(f"the graph has a cycle: {shown}", node=_node_name(first), operator=first.op_type, hint=hint)


def _used_names(node: onnx.NodeProto) -> Iterator[str]:
    """Input names of a node and of every node inside its subgraphs (local ones included: harmless)."""
    pending = [node]
    while pending:
        current = pending.pop()
        yield from current.input
        for attribute in current.attribute:
            for graph in _subgraphs(attribute):
                yield from (output.name for output in graph.output)
                pending.extend(graph.node)


# ---- functions ------------------------------------------------------------------------------------------


def _check_functions(proto: onnx.ModelProto) -> set[tuple[str, str, str]]:
    bodies: dict[tuple[str, str, str], onnx.FunctionProto] = {}
    for function in proto.functions:
        _check_text([function.name, function.domain, function.overload, *function.attribute], "the functions")
        for node in _all_nodes(function.node):
            _check_text(_texts(node), function.name)
        key = ("" if function.domain == "ai.onnx" else function.domain, function.name, function.overload)
        if key in bodies:
            raise ModelError(f"function {function.name!r} is defined twice")
        bodies[key] = function
    calls = {key: {_callee(node) for node in _all_nodes(body.node)} & bodies.keys() for key, body in bodies.items()}
    finished: set[tuple[str, str, str]] = set()
    for start in bodies:  # depth first, with an explicit stack of (function, callees still to visit)
        stack = [] if start in finished else [(start, iter(calls[start]))]
        active = [start]
        while stack:
            callee = next(stack[-1][1], None)
            if callee is None:
                finished.add(stack.pop()[0])
                active.pop()
            elif callee in active:
                names = [key[1] for key in [*active[active.index(callee) :], callee]]
                hint = "ONNX functions cannot recurse; use Loop."
                raise ModelError(f"functions call themselves: {' -> '.join(names)}", operator=callee[1], hint=hint)
            elif callee not in finished:
                stack.append((callee, iter(calls[callee])))
                active.append(callee)
    return set(bodies)


def _callee(node: onnx.NodeProto) -> tuple[str, str, str]:
    return ("" if node.domain == "ai.onnx" else node.domain, node.op_type, node.overload)


def _all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    pending = list(nodes)
    while pending:
        node = pending.pop()
        yield node
        for attribute in node.attribute:
            for graph in _subgraphs(attribute):
                pending.extend(graph.node)


# ---- one node -------------------------------------------------------------------------------------------


def _check_node(node: onnx.NodeProto, opsets: dict[str, int], functions: set) -> None:
    """Attributes and arity against the schema; operators without schema are left to lowering."""
    key = _callee(node)
    _check_attributes_once(node)
    if key in functions:
        return
    domain = key[0]
    if domain not in opsets:
        hint = f"Add {domain or 'ai.onnx'!r} to the model's opset_import."
        message = f"the domain {domain!r} is not imported"
        raise ModelError(message, node=_node_name(node), operator=node.op_type, hint=hint)
    found = signature(domain, node.op_type, opsets[domain])
    if found is None:
        return
    problem = _attribute_problem(node, found.attributes) or _arity_problem(node, found)
    if problem:
        given = ", ".join(sorted(attribute.name for attribute in node.attribute)) or "none"
        hint = f"{found.name} has the attributes {sorted(found.attributes)}; this node: {given}."
        if "put" in problem:
            hint = f"See {found.name} in the ONNX operator list."
        raise ModelError(f"{problem} (opset {opsets[domain]})", node=_node_name(node), operator=found.name, hint=hint)


def _check_attributes_once(node: onnx.NodeProto) -> None:
    names = [attribute.name for attribute in node.attribute]
    if not node.op_type or len(set(names)) != len(names):
        what = "an attribute is given twice" if node.op_type else "the node has no operator"
        raise ModelError(what, node=_node_name(node), operator=node.op_type)


def _attribute_problem(node: onnx.NodeProto, attributes: dict[str, tuple[int, bool]]) -> str | None:
    for attribute in node.attribute:
        if attribute.name not in attributes:
            return f"unknown attribute {attribute.name!r}"
        expected = attributes[attribute.name][0]
        if attribute.type == onnx.AttributeProto.UNDEFINED and not attribute.ref_attr_name:
            attribute.type = _guess_type(attribute, expected)  # written by very old exporters
        if not _is_text(attribute):
            return f"attribute {attribute.name!r} is not valid UTF-8"
        if attribute.type != expected:
            have, want = _TYPE_NAMES.get(attribute.type, attribute.type), _TYPE_NAMES.get(expected, expected)
            return f"attribute {attribute.name!r} is {have}, must be {want}"
    given = {attribute.name for attribute in node.attribute}
    for name, (_, required) in attributes.items():
        if required and name not in given:
            return f"attribute {name!r} is missing"
    return None


def _is_text(attribute: onnx.AttributeProto) -> bool:
    try:
        for text in (attribute.s, *attribute.strings):
            text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _guess_type(attribute: onnx.AttributeProto, expected: int) -> int:
    filled = _ATTRIBUTE_FIELDS.get(expected)
    present = {descriptor.name for descriptor, _ in attribute.ListFields()}
    return expected if filled in present or not present - {"name", "doc_string"} else attribute.type


def _arity_problem(node: onnx.NodeProto, found: Signature) -> str | None:
    if len(node.input) not in found.inputs:
        return f"{len(node.input)} inputs, must be {_span(found.inputs)}"
    if len(node.output) not in found.outputs:
        return f"{len(node.output)} outputs, must be {_span(found.outputs)}"
    for position, (name, required) in enumerate(zip(node.input, found.required_inputs, strict=False)):
        if required and not name:
            return f"input {position} ({found.schema.inputs[position].name}) is empty but required"
    return None


def _span(counts: range) -> str:
    low, high = counts.start, counts.stop - 1
    if low == high:
        return str(low)
    return f"{low} or more" if high > 1000 else f"{low} to {high}"


def _subgraphs(attribute: onnx.AttributeProto) -> list[onnx.GraphProto]:
    if attribute.type == onnx.AttributeProto.GRAPH:
        return [attribute.g]
    if attribute.type == onnx.AttributeProto.GRAPHS:
        return list(attribute.graphs)
    return []


def _node_name(node: onnx.NodeProto) -> str:
    """Nodes may be unnamed; the value they produce then tells them apart."""
    return node.name or next((f"-> {name}" for name in node.output if name), "<unnamed>")

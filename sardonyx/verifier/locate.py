"""The first node that differs between two ONNX models: both are walked at once, and each node is asked three things.

Is it the same node? It has a twin: by the name of its output, or else by its operator and the twins of its inputs.
Does it say the same? Same attributes, version and weights: then equal inputs give equal outputs, it is not run again.
Does it compute the same? Only where it says something else, or its inputs differ, is it run and compared.

Values die after their last use, so memory holds a cut of the graph, and those of the second model only where they
differ from the first's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from sardonyx.model.schemas import operator_name
from sardonyx.runtime.mapped import forget
from sardonyx.runtime.reference import evaluate_steps, last_uses, run_node
from sardonyx.verifier.causes import causes
from sardonyx.verifier.compare import Difference, compare
from sardonyx.verifier.tolerance import UNIT, Tolerance, reduction_length

_SHOWN = 3  # values that a report shows


@dataclass(frozen=True)
class Suspect:
    """The first node that computes something else than its twin.

    Attributes:
        node: its name.
        operator: its operator with version.
        output: the value that differs.
        place: what produced it in the source: a layer, or a line; "" where unknown.
        difference: how far apart.
        position: where the largest difference is.
        expected: values there, of the truth.
        actual: values there, of the model under test.
        causes: the usual reasons, most likely first.
    """

    node: str
    operator: str
    output: str
    place: str
    difference: Difference
    position: tuple[int, ...] = ()
    expected: list[float] = field(default_factory=list)
    actual: list[float] = field(default_factory=list)
    causes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        place = f" (from {self.place})" if self.place else ""
        values = f": {self.actual} instead of {self.expected} at {list(self.position)}" if self.expected else ""
        reasons = "".join(f"\n  perhaps: {cause}" for cause in self.causes)
        return f"first node that differs: {self.node!r} ({self.operator}){place}{values}{reasons}"


def first_difference(truth: ir.Model, tested: ir.Model, feeds: Mapping[str, Any]) -> Suspect | None:
    """The first node of `tested`, in its order, that computes something else than its twin in `truth`.

    Args:
        truth: the model that is right.
        tested: another form of it.
        feeds: inputs of `truth` by name; those of `tested` are taken by name, else by position.
    """
    return _Walk(truth, tested, feeds).run()


class _Walk:
    def __init__(self, truth: ir.Model, tested: ir.Model, feeds: Mapping[str, Any]):
        self.truth, self.tested = truth, tested
        self.by_output = {str(o.name): node for node in truth.graph for o in node.outputs if o.name}
        self.known: dict[str, Any] = {}  # values of the truth that are alive
        self.steps = evaluate_steps(truth, feeds, self.known, keep=self.by_output)
        self.order = {node: number for number, node in enumerate(truth.graph)}
        self.last_use = last_uses(truth.graph)
        self.done = -1  # number of the last node of the truth that was run
        self.awaited = {str(o.name) for node in tested.graph for o in node.outputs}  # names still to be compared
        self.twin: dict[str, str] = {}  # value of the tested model -> value of the truth that it should equal
        self.exact: set[str] = set()  # values of the tested model that are bit for bit their twin's
        self.values: dict[str, Any] = {}  # of the tested model, where they are not the truth's own
        names = [str(v.name) for v in truth.graph.inputs if v.name not in truth.graph.initializers]
        for number, value in enumerate(v for v in tested.graph.inputs if v.name not in tested.graph.initializers):
            name = str(value.name)
            source = name if name in feeds else names[number] if number < len(names) else ""
            if source in feeds:
                self.twin[name] = source
                self.exact.add(name)
        self.feeds = feeds
        self.wanted = {str(value.name) for graph in (truth.graph, tested.graph) for value in graph.outputs}

    def run(self) -> Suspect | None:
        last = last_uses(self.tested.graph)
        for number, node in enumerate(self.tested.graph):
            suspect = self.visit(node)
            if suspect is not None:
                return suspect
            self.awaited -= {str(output.name) for output in node.outputs}
            # Outputs of the graph are compared at the end.
            self.release(name for name, use in last.items() if use == number and name not in self.wanted)
        return self.outputs()

    def visit(self, node: ir.Node) -> Suspect | None:
        """Match, and if needed run and compare, one node of the tested model."""
        twin = self.find(node)
        if twin is not None:
            self.advance(twin)
        inputs_exact = all(self.is_exact(value, node, twin) for value in node.inputs)
        if twin is not None and inputs_exact and self.aligned(node, twin) and self.says_the_same(node, twin):
            for own, other in zip(node.outputs, twin.outputs, strict=False):
                self.twin[str(own.name)] = str(other.name)
                self.exact.add(str(own.name))
            return None
        try:
            results = run_node(
                node, [self.value(v) for v in node.inputs], self.tested.opset_imports, captured=self.captured(node)
            )
        except Exception as problem:
            failed = compare(np.ones(1), np.zeros(0), Tolerance(0, 0))
            return self.suspect(node, twin, node.outputs[0], failed, None, None, [str(problem)])
        for number, (own, value) in enumerate(zip(node.outputs, results, strict=False)):
            self.values[str(own.name)] = value
            suspect = self.compare_output(node, twin, number, inputs_exact)
            if suspect is not None:
                return suspect
        return None

    def compare_output(self, node: ir.Node, twin: ir.Node | None, number: int, exact: bool) -> Suspect | None:
        """Compare one output with that of the twin; or with the value of the same name, where nodes were fused."""
        own = node.outputs[number]
        names = [str(twin.outputs[number].name)] if twin is not None and number < len(twin.outputs) else []
        if own.name in self.by_output and own.name not in names:
            self.advance(self.by_output[own.name])
            names.append(own.name)
        suspect = None
        for name in names:
            expected, actual = self.known.get(name), np.asarray(self.values[str(own.name)])
            if not isinstance(expected, np.ndarray):
                continue
            found = compare(expected, actual, _tolerance(node, exact))
            if not found.failed:
                self.twin[str(own.name)] = name
                if np.array_equal(expected, actual):
                    self.exact.add(str(own.name))
                    self.values.pop(str(own.name))
                return None
            suspect = suspect or self.suspect(node, twin, own, found, expected, actual, [])
        return suspect

    def is_exact(self, value: ir.Value | None, node: ir.Node, twin: ir.Node | None) -> bool:
        """Whether an input of `node` is bit for bit that of its twin."""
        return value is None or str(value.name) in self.exact or self.same_weight(value, node, twin)

    def outputs(self) -> Suspect | None:
        """Outputs without a twin are compared by position at the end."""
        for own, other in zip(self.tested.graph.outputs, self.truth.graph.outputs, strict=False):
            if str(own.name) in self.twin or own.producer() is None:
                continue
            for _ in self.steps:
                pass
            expected, actual = np.asarray(self.known[str(other.name)]), np.asarray(self.value(own))
            found = compare(expected, actual, Tolerance(UNIT["float32"], 1e3))
            if found.failed:
                node = own.producer()
                assert node is not None
                return self.suspect(node, other.producer(), own, found, expected, actual, [])
        return None

    def find(self, node: ir.Node) -> ir.Node | None:
        """The twin of a node."""
        named = self.by_output.get(str(node.outputs[0].name))
        if named is not None and named.op_type == node.op_type:
            return named
        for value in node.inputs:
            source = self.twin.get(str(value.name)) if value is not None else None
            if source is None:
                continue
            for user in _users(self.truth, source):
                fits = user.op_type == node.op_type and str(user.outputs[0].name) not in self.twin.values()
                if fits and self.aligned(node, user):
                    return user
        return named

    def aligned(self, node: ir.Node, twin: ir.Node) -> bool:
        """Whether the inputs that are no weights are twins, one by one."""
        if len(node.inputs) != len(twin.inputs):
            return False
        for own, other in zip(node.inputs, twin.inputs, strict=True):
            if own is None or other is None:
                if own is not other:
                    return False
            elif own.is_initializer() and other.is_initializer():
                continue
            elif self.twin.get(str(own.name)) != str(other.name):
                return False
        return True

    def says_the_same(self, node: ir.Node, twin: ir.Node) -> bool:
        """Same operator, version, attributes."""
        if operator_name(node, self.tested.opset_imports) != operator_name(twin, self.truth.opset_imports):
            return False
        mine, theirs = ({n: _plain(a) for n, a in each.attributes.items()} for each in (node, twin))
        return mine.keys() == theirs.keys() and all(_equal(mine[name], theirs[name]) for name in mine)

    def same_weight(self, value: ir.Value, node: ir.Node, twin: ir.Node | None) -> bool:
        """Whether the weight has the same bytes as the one in the same place of the twin."""
        if twin is None or not value.is_initializer() or len(node.inputs) != len(twin.inputs):
            return False
        other = twin.inputs[list(node.inputs).index(value)]
        if other is None or not other.is_initializer():
            return False
        mine, theirs = value.const_value, other.const_value
        assert mine is not None
        assert theirs is not None
        if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
            return False
        try:
            return _equal(mine.numpy(), theirs.numpy())
        finally:
            forget(mine.numpy())

    def advance(self, twin: ir.Node) -> None:
        """Run the truth until `twin` is done."""
        while self.done < self.order[twin]:
            next(self.steps)
            self.done += 1

    def value(self, value: ir.Value | None) -> Any:
        if value is None:
            return None
        name = str(value.name)
        if name in self.values:
            return self.values[name]
        if value.is_initializer() and value.const_value is not None:
            return value.const_value.numpy()
        if name in self.twin:
            source = self.twin[name]
            return self.known[source] if source in self.known else self.feeds[source]
        raise KeyError(name)

    def captured(self, node: ir.Node) -> dict[str, Any]:
        """Values that subgraphs may take from outside."""
        if not any(attribute.type.name in ("GRAPH", "GRAPHS") for attribute in node.attributes.values()):
            return {}
        named = {name: self.known[source] for name, source in self.twin.items() if source in self.known}
        weights = {name: self.value(value) for name, value in self.tested.graph.initializers.items()}
        return {**weights, **named, **self.values}

    def release(self, names: Iterable[str]) -> None:
        """Values of the tested model are dead; those of the truth are once it is past them and they were compared."""
        for name in names:
            self.values.pop(name, None)
        for name in [name for name in self.known if name not in self.awaited]:
            if self.last_use.get(name, -1) <= self.done and name not in self.wanted:
                del self.known[name]

    def suspect(
        self,
        node: ir.Node,
        twin: ir.Node | None,
        output: ir.Value,
        found: Difference,
        expected: Any,
        actual: Any,
        extra: list[str],
    ) -> Suspect:
        culprit = self.inserted(node) or node
        position: tuple[int, ...] = ()
        shown: tuple[list[float], list[float]] = ([], [])
        if isinstance(expected, np.ndarray) and isinstance(actual, np.ndarray):
            position, shown = worst_values(expected, actual)
        reasons = extra + causes(culprit, twin, expected, actual)
        name = operator_name(culprit, self.tested.opset_imports)
        return Suspect(culprit.name or "", name, str(output.name), place_of(culprit), found, position, *shown, reasons)

    def inserted(self, node: ir.Node) -> ir.Node | None:
        """A node without a twin among those that feed `node`: it was put in, and is to blame."""
        for value in node.inputs:
            producer = value.producer() if value is not None else None
            if producer is not None and all(str(o.name) not in self.twin for o in producer.outputs):
                return self.inserted(producer) or producer
        return None


def place_of(node: ir.Node) -> str:
    """Where exporters say that a node comes from: module scopes, or the line of the model's source."""
    properties = node.metadata_props
    trace = properties.get("pkg.torch.onnx.stack_trace", "")
    lines = [line.strip() for line in trace.splitlines() if line.strip().startswith("File ")]
    scope = properties.get("pkg.torch.onnx.name_scopes") or properties.get("namespace") or ""
    return ", ".join(filter(None, [scope, lines[-1] if lines else ""]))


def _tolerance(node: ir.Node, exact: bool) -> Tolerance:
    """With equal inputs only the node's own rounding counts; else what came before may have grown."""
    kind = node.outputs[0].dtype
    unit = UNIT.get({"FLOAT16": "float16", "BFLOAT16": "bfloat16"}.get(kind.name if kind else "", "float32"), 2.0**-24)
    return Tolerance(unit, reduction_length(node, {}) if exact else 1e4)


def _users(model: ir.Model, name: str) -> list[ir.Node]:
    for value in model.graph.inputs:
        if value.name == name:
            return [usage.node for usage in value.uses()]
    for node in model.graph:
        for output in node.outputs:
            if output.name == name:
                return [usage.node for usage in output.uses()]
    return []


def _plain(attribute: ir.Attr) -> Any:
    value = attribute.value
    if isinstance(value, ir.Graph):
        return "\n".join(str(node) for node in value)
    return value.numpy() if hasattr(value, "numpy") else value


def _equal(mine: Any, theirs: Any) -> bool:
    """Bit for bit, a piece at a time, so that two large weights are not both copied."""
    if not isinstance(mine, np.ndarray) or not isinstance(theirs, np.ndarray):
        return bool(np.array_equal(np.asarray(mine, object), np.asarray(theirs, object)))
    if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
        return False
    if mine.dtype.kind == "O":
        return bool(np.array_equal(mine, theirs))
    left, right = (np.ascontiguousarray(a).reshape(-1).view(np.uint8) for a in (mine, theirs))
    step = 1 << 20
    return all(np.array_equal(left[at : at + step], right[at : at + step]) for at in range(0, left.size, step))


def worst_values(expected: np.ndarray, actual: np.ndarray) -> tuple[tuple[int, ...], tuple[list[float], list[float]]]:
    """Where the largest difference is, and a few values from there on."""
    if expected.shape != actual.shape or expected.size == 0 or expected.dtype.kind in "OUS":
        return (), ([], [])
    error = np.abs(expected.astype(np.float64) - actual.astype(np.float64))
    flat = int(np.argmax(np.where(np.isnan(error), np.inf, error)))
    position = tuple(int(i) for i in np.unravel_index(flat, expected.shape))
    window = slice(flat, flat + _SHOWN)
    return position, tuple([float(v) for v in a.reshape(-1)[window]] for a in (expected, actual))  # type: ignore[return-value]

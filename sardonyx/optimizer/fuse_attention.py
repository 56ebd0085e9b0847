"""Fuse the attention that exporters spell out: MatMul, scale, mask, Softmax, MatMul become one FusedAttention.

    q ---[* or / number]--- MatMul ---[* or / number]---[+ mask]--- Softmax(last axis) --- MatMul --- out
    k ---[* or / number]------'                                                              v ---'

k is [..., D, N] here, as MatMul reads it. Numbers may be known only at run time. Casts of floats to floats may stand
anywhere between: exporters leave them where a Softmax was asked for in float. The result differs from the original by
rounding alone: the factors are multiplied together first, and the division by the sum of exponentials comes last.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import onnx_ir as ir

from sardonyx.model.inline import infer_types
from sardonyx.model.schemas import version_of

__all__ = ["DOMAIN", "FuseAttention", "Match", "match"]

DOMAIN = "ai.sardonyx"
_LOG = logging.getLogger(__name__)


@dataclass
class Match:
    """The operands of an attention, and the nodes that compute it now.

    ``factors`` are numbers that the scores are multiplied by, or divided by where ``divide`` is 1. ``nodes`` begin with
    the last one.
    """

    q: ir.Value
    k: ir.Value
    v: ir.Value
    mask: ir.Value | None = None
    factors: list[ir.Value] = field(default_factory=list)
    divide: list[int] = field(default_factory=list)
    nodes: list[ir.Node] = field(default_factory=list)


class FuseAttention(ir.passes.InPlacePass):
    """Replaces every match. Shapes and element types are inferred only for a model that has Softmax between MatMuls."""

    def requires(self, model: ir.Model) -> None:
        """Any model will do."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace what matches, in the graph and its subgraphs."""
        found = [node for node in model.graph.all_nodes() if _is(node, "Softmax") and _feeds_product(node)]
        if found:
            infer_types(model)
        modified = False
        for node in found:
            result = match(node, version_of(node, model.opset_imports))
            if isinstance(result, str):
                _LOG.debug("attention at %s is not fused: %s", node.name, result)
                continue
            _replace(result)
            model.opset_imports[DOMAIN] = 1
            modified = True
        return ir.passes.PassResult(model, modified)


def match(softmax: ir.Node, opset: int) -> Match | str:
    """The attention around a Softmax node of `opset`, or why there is none."""
    if not _is_last_axis(softmax, opset):
        return "Softmax is not along the last axis"
    casts: list[ir.Node] = []
    probabilities = softmax.outputs[0]
    while not (problem := _inner(probabilities, "the probabilities")):
        ((last, place),) = ((usage.node, usage.idx) for usage in probabilities.uses())
        if not _is_idle_cast(last):
            break
        casts.append(last)
        probabilities = last.outputs[0]
    if problem:
        return problem
    if not _is(last, "MatMul") or place != 0:
        return "the probabilities are not the left operand of a MatMul"
    scores = _scores(softmax)
    if isinstance(scores, str):
        return scores
    scores.nodes[:0] = [last, *casts, softmax]
    right = last.inputs[1]
    assert right is not None
    scores.v = right
    return _check(scores, last)


def _scores(softmax: ir.Node) -> Match | str:
    """What Softmax is taken of: a scaled product, or the sum of one and a mask."""
    given = softmax.inputs[0]
    assert given is not None
    casts: list[ir.Node] = []
    source = _uncast(given, casts)
    found = _scaled_product(source)
    add = source.producer()
    if isinstance(found, Match):
        found.nodes[:0] = casts
        return found
    if add is None or not _is(add, "Add"):
        return found
    problem = _inner(source, "the masked scores")
    if problem:
        return problem
    for scores, mask in (tuple(add.inputs), tuple(add.inputs)[::-1]):
        found = _scaled_product(scores)
        if isinstance(found, Match):
            found.mask = mask
            found.nodes[:0] = [*casts, add]
            return found
    return found


def _scaled_product(value: ir.Value | None) -> Match | str:
    """``q k * factors``; factors of q and k themselves count as well."""
    if value is None:
        return "an operand is missing"
    factors: list[ir.Value] = []
    divide: list[int] = []
    nodes: list[ir.Node] = []
    value = _peel(value, factors, divide, nodes)
    product = value.producer()
    problem = _inner(value, "the scores")
    if product is None or not _is(product, "MatMul"):
        return "the scores are not a MatMul"
    if problem:
        return problem
    nodes.append(product)
    q, k = product.inputs
    assert q is not None
    assert k is not None
    q, k = (_peel(operand, factors, divide, nodes) for operand in (q, k))
    return Match(q, k, k, None, factors, divide, nodes)


def _peel(value: ir.Value, factors: list[ir.Value], divide: list[int], nodes: list[ir.Node]) -> ir.Value:
    """`value` without the numbers that it is multiplied or divided by, which are appended to the lists."""
    value = _uncast(value, nodes)
    node = value.producer()
    while node is not None and (_is(node, "Mul") or _is(node, "Div")) and not _inner(value, ""):
        x, y = node.inputs
        if x is not None and _is_number(x) and node.op_type == "Mul":
            x, y = y, x
        if x is None or y is None or not _is_number(y):
            break
        factors.append(y)
        divide.append(int(node.op_type == "Div"))
        nodes.append(node)
        value = _uncast(x, nodes)
        node = value.producer()
    return value


def _uncast(value: ir.Value, nodes: list[ir.Node]) -> ir.Value:
    """`value` before casts that change nothing, which are appended to the list."""
    node = value.producer()
    while node is not None and _is_idle_cast(node) and not _inner(value, ""):
        nodes.append(node)
        assert node.inputs[0] is not None
        value = node.inputs[0]
        node = value.producer()
    return value


def _check(found: Match, last: ir.Node) -> Match | str:
    operands = [found.q, found.k, found.v, *found.factors, *([] if found.mask is None else [found.mask])]
    for value in operands:
        if value.dtype is None:
            return f"the element type of {value.name} is not known"
        if value.dtype != ir.DataType.FLOAT:
            return f"{value.name} is {value.dtype.name.lower()}, not float"
    for value in (found.q, found.k, found.v):
        if value.shape is None or len(value.shape) not in (2, 3, 4):
            return f"the rank of {value.name} is not known, or not 2, 3 or 4"
        if value.const_value is not None:
            return f"{value.name} is a weight, which a plain product reads faster"
    if any(node.graph is not last.graph for node in found.nodes):
        return "the nodes are not all in one graph"
    return found


def _replace(found: Match) -> None:
    last = found.nodes[0]
    graph, old = last.graph, last.outputs[0]
    assert graph is not None
    divide = ir.AttrInt64s("divide", found.divide)
    inputs = [found.q, found.k, found.v, found.mask, *found.factors]
    node = ir.Node(DOMAIN, "FusedAttention", inputs, [divide], name=last.name, num_outputs=1)
    new = node.outputs[0]
    new.name, new.type, new.shape = old.name, old.type, old.shape
    graph.insert_before(last, node)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    graph.remove(found.nodes, safe=True)


# Small questions.


def _is(node: ir.Node, operator: str) -> bool:
    return node.op_type == operator and node.domain in ("", "ai.onnx")


def _feeds_product(softmax: ir.Node) -> bool:
    return any(_is(usage.node, "MatMul") or _is(usage.node, "Cast") for usage in softmax.outputs[0].uses())


def _is_idle_cast(node: ir.Node) -> bool:
    """Whether `node` casts floats to floats; types have to be inferred."""
    source = node.inputs[0] if _is(node, "Cast") else None
    return source is not None and source.dtype == ir.DataType.FLOAT and node.attributes["to"].value == source.dtype


def _is_last_axis(softmax: ir.Node, opset: int) -> bool:
    attribute = softmax.attributes.get("axis")
    axis = attribute.value if attribute is not None else (-1 if opset >= 13 else 1)
    shape = softmax.inputs[0].shape if softmax.inputs[0] is not None else None
    return axis == -1 or (shape is not None and axis == len(shape) - 1)


def _inner(value: ir.Value, what: str) -> str:
    """Why `value` has to stay, or an empty text when its one consumer can take it over."""
    if value.is_graph_output():
        return f"{what} are an output"
    return "" if len(list(value.uses())) == 1 else f"{what} are used elsewhere, too"


def _is_number(value: ir.Value) -> bool:
    return value.shape is not None and len(value.shape) <= 1 and all(dim == 1 for dim in value.shape)

"""How often each value is needed in memory.

A value with several consumers is normally computed once and stored. But where all of them are element-wise and meet
again in one node, as in ``x * sigmoid(x)``, the whole region becomes one expression and the value never needs memory.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from sardonyx.ops import registry

MOST_NODES = 12  # of a region


def count_uses(graph: ir.Graph, opset: Callable[[str], int]) -> dict[ir.Value, int]:
    """Consumers of each value of `graph` and its subgraphs; 1 where they meet again element by element."""
    uses: dict[ir.Value, int] = {}
    elementwise: dict[ir.Node, bool] = {}
    position: dict[ir.Node, int] = {}

    def visit(current: ir.Graph) -> None:
        for node in current:
            position[node] = len(position)
            row = registry.find(node.domain, node.op_type, node.version or opset(node.domain))
            elementwise[node] = row is not None and row.elementwise
            for value in node.inputs:
                if value is not None:
                    uses[value] = uses.get(value, 0) + 1
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.GRAPH:
                    visit(attribute.value)
                    _count_captured(attribute.value, node, uses)
        for value in current.outputs:
            uses[value] = uses.get(value, 0) + 1

    visit(graph)
    for value, count in list(uses.items()):
        if count > 1 and _meets_again(value, elementwise, position):
            uses[value] = 1
    return uses


def _count_captured(graph: ir.Graph, node: ir.Node, uses: dict[ir.Value, int]) -> None:
    """A value that a subgraph reads may be read on each iteration: it is never worth computing anew."""
    own = set(graph.inputs) | {output for inner in graph for output in inner.outputs}
    for inner in graph:
        for value in inner.inputs:
            if value is not None and value not in own:
                uses[value] = uses.get(value, 0) + 2


def _meets_again(value: ir.Value, elementwise: dict[ir.Node, bool], position: dict[ir.Node, int]) -> bool:
    if value.is_graph_output():
        return False
    frontier = {usage.node for usage in value.uses()}
    for _ in range(MOST_NODES):
        if any(node not in position or not elementwise.get(node) for node in frontier):
            return False
        node = min(frontier, key=lambda n: position[n])
        frontier.discard(node)
        if not frontier:
            return True
        if any(output.is_graph_output() for output in node.outputs):
            return False
        frontier |= {usage.node for output in node.outputs for usage in output.uses()}
    return False

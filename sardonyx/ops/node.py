"""What an operator function sees of its node."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir


class Node:
    """A graph node: names, attributes, version.

    Attributes:
        name: the node's own name, or one made from its first output.
        op_type, domain, opset: which operator, as which version.
        outputs: names of the outputs; an empty string where one is not wanted.
        ir: the `onnx_ir.Node` itself.
    """

    def __init__(self, node: ir.Node, opset: int):
        self.ir = node
        self.op_type = node.op_type
        self.domain = node.domain
        self.opset = opset
        self.outputs = [output.name or "" for output in node.outputs]
        self.name = node.name or next((name for name in self.outputs if name), node.op_type)

    def attr(self, name: str, default: Any = None) -> Any:
        """The value of an attribute as a Python value (numpy for tensors), or `default`."""
        attribute = self.ir.attributes.get(name)
        if attribute is None:
            return default
        value = attribute.value
        if attribute.type == ir.AttributeType.TENSOR:
            return value.numpy()
        if attribute.type in (ir.AttributeType.INTS, ir.AttributeType.FLOATS, ir.AttributeType.STRINGS):
            return list(value)
        return value

    def graph(self, name: str) -> ir.Graph:
        """A subgraph attribute."""
        return self.ir.attributes[name].value

    def wants(self, number: int) -> bool:
        """True when output `number` is used by name."""
        return number < len(self.outputs) and bool(self.outputs[number])

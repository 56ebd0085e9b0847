"""Operators made of other operators: lowers a standard operator as a part of the node at hand."""

from __future__ import annotations

from typing import Any

from sardonyx.compiler.lower import Lowering, Unsupported
from sardonyx.compiler.tensor import Tensor
from sardonyx.ops import registry
from sardonyx.ops.node import Node

OPSET = 22  # whose definitions the parts follow


class Part(Node):
    """A standard node with attributes of its own; name and errors are those of the node that it is a part of."""

    def __init__(self, whole: Node, op_type: str, opset: int, outputs: int, attributes: dict[str, Any]):
        self.ir = whole.ir
        self.name = whole.name
        self.op_type = op_type
        self.domain = ""
        self.opset = opset
        self.outputs = [f"{op_type}{number}" for number in range(outputs)]
        self.attributes = attributes

    def attr(self, name: str, default: Any = None) -> Any:
        """The value of an attribute, or `default`."""
        return self.attributes.get(name, default)


def standard(
    ctx: Lowering, node: Node, op_type: str, *inputs: Tensor | None, opset: int = OPSET, outputs: int = 1,
    **attributes: Any,
) -> Any:  # fmt: skip
    """What the function of standard operator `op_type` gives: a tensor, or a tuple where `outputs` is not 1.

    Raises:
        Unsupported: there is no native code for it.
    """
    found = registry.find("", op_type, opset)
    if found is None:
        raise Unsupported(f"no native code for {op_type}")
    result = found.lower(ctx, Part(node, op_type, opset, outputs, attributes), *inputs)
    if outputs == 1 and isinstance(result, tuple | list):
        return result[0]
    return result

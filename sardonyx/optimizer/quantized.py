"""What passes over quantised models have in common: QuantizeLinear, DequantizeLinear, and numbers in their units."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

_LOG = logging.getLogger(__name__)
STANDARD = ("", "ai.onnx")
MS = "com.microsoft"
BYTES = (ir.DataType.INT8, ir.DataType.UINT8)
NARROW = (*BYTES, ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT2, ir.DataType.UINT2)


@dataclass(frozen=True)
class Parameters:
    """Scale and zero point of quantised values.

    Attributes:
        scale, zero: as the node has them; no zero point is 0.
        dtype: of the quantised values.
        axis: of `scale` where it has more than one element; may be negative.
        block: elements of `axis` that share a scale; 0: there are no blocks.
    """

    scale: ir.Value
    zero: ir.Value | None
    dtype: ir.DataType
    axis: int = 1
    block: int = 0

    @property
    def single(self) -> bool:
        """One scale and one zero point for all elements, a number or a vector of one."""
        return not self.block and all(_is_one(value) for value in (self.scale, self.zero) if value is not None)

    @property
    def known(self) -> bool:
        """Both are constants."""
        return all(value.const_value is not None for value in (self.scale, self.zero) if value is not None)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Constant scale and zero point, in float32 and int32."""
        zero = np.zeros((), np.int32) if self.zero is None else array_of(self.zero).astype(np.int32)
        return array_of(self.scale).astype(np.float32), zero

    def same(self, other: Parameters) -> bool:
        """Equal for certain: a number stands for the same in both."""
        if self.dtype != other.dtype or not (self.single and other.single):
            return False
        pairs = ((self.scale, other.scale), (self.zero, other.zero))
        if all(x is y for x, y in pairs):
            return True
        if not (self.known and other.known):
            return False
        return all(np.array_equal(x.ravel(), y.ravel()) for x, y in zip(self.arrays(), other.arrays(), strict=True))

    def quantized(self, values: np.ndarray) -> np.ndarray:
        """`values` as QuantizeLinear gives them, of one scale or one for each index of `axis`."""
        scale, zero = self.arrays()
        if not self.single:
            shape = [-1 if i == self.axis % values.ndim else 1 for i in range(values.ndim)]
            scale, zero = scale.reshape(shape), zero.reshape(shape) if zero.size > 1 else zero
        elif values.ndim == 0:
            scale, zero = scale.reshape(()), zero.reshape(())
        numbers = np.rint(values.astype(np.float32) / scale) + zero
        low, high = limits(self.dtype)
        return np.clip(np.nan_to_num(numbers, nan=0.0), low, high).astype(self.dtype.numpy())


@dataclass(frozen=True)
class Quantized:
    """What a value is quantised as: `data` with `parameters`, dequantised by `node`."""

    data: ir.Value
    parameters: Parameters
    node: ir.Node


def limits(dtype: ir.DataType) -> tuple[int, int]:
    """The least and greatest number of an integer type."""
    bits = int(dtype.bitwidth)
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if dtype.is_signed() else (0, (1 << bits) - 1)


def is_operator(node: ir.Node | None, *operators: str) -> bool:
    """True for a node of one of the standard's `operators`."""
    return node is not None and node.op_type in operators and node.domain in STANDARD


def is_quantize(node: ir.Node | None, operator: str = "QuantizeLinear") -> bool:
    """True for QuantizeLinear (or DequantizeLinear), of the standard or of com.microsoft."""
    return node is not None and node.op_type == operator and node.domain in (*STANDARD, MS)


def array_of(value: ir.Value) -> np.ndarray:
    """The constant that `value` is."""
    assert value.const_value is not None
    return value.const_value.numpy()


def parameters_of(node: ir.Node) -> Parameters | str:
    """Scale and zero point of a QuantizeLinear or DequantizeLinear node in float32, or why it can't be used."""
    scale = node.inputs[1] if len(node.inputs) > 1 else None
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if scale is None or scale.dtype != ir.DataType.FLOAT:
        return "the scale is not float32"
    if scale.const_value is not None and not _are_positive(array_of(scale)):
        return "a scale is not a positive number"
    if number(node, "precision", 0) not in (0, int(ir.DataType.FLOAT)):
        return "it is divided in another precision"
    if node.op_type == "DequantizeLinear" and number(node, "output_dtype", 0) not in (0, int(ir.DataType.FLOAT)):
        return "it is dequantised to another type than float32"
    source = node.inputs[0] if node.op_type == "DequantizeLinear" else None
    asked = number(node, "output_dtype", 0) or int(ir.DataType.UINT8)
    dtype = ir.DataType(asked) if source is None else source.dtype
    if zero is not None and zero.dtype is not None:
        dtype = zero.dtype
    if dtype is None:
        return "its type is not known"
    return Parameters(scale, zero, dtype, number(node, "axis", 1), number(node, "block_size", 0))


def dequantized(value: ir.Value | None, dtypes: Sequence[ir.DataType] = BYTES) -> Quantized | None:
    """What DequantizeLinear makes `value` of, if that is one of `dtypes`."""
    node = None if value is None else value.producer()
    if node is None or not is_quantize(node, "DequantizeLinear") or node.inputs[0] is None:
        return None
    found = parameters_of(node)
    if isinstance(found, str) or found.dtype not in dtypes:
        return None
    return Quantized(node.inputs[0], found, node)


def number(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def replace_each(
    model: ir.Model, operators: Sequence[str], domain: str, fuse: Callable[[ir.Model, ir.Node], str], refusal: str
) -> ir.passes.PassResult:
    """Offer each node of the standard's `operators`, in the graph and its subgraphs, to `fuse`: it returns why not.

    Args:
        model: gets an import of `domain`, whose nodes `fuse` puts in, where any was replaced.
        operators: what to look for.
        domain: of the new nodes.
        fuse: replaces a node, or says why it stays.
        refusal: what is logged then, with the node's name and the reason.
    """
    modified = False
    for node in list(model.graph.all_nodes()):
        if not is_operator(node, *operators):
            continue
        problem = fuse(model, node)
        if problem:
            _LOG.debug(refusal, node.name, problem)
            continue
        model.opset_imports[domain] = 1
        modified = True
    return ir.passes.PassResult(model, modified)


def only_use(value: ir.Value) -> bool:
    """True when one input of one node is all that reads `value`."""
    return not value.is_graph_output() and len(value.uses()) == 1


def constant(model: ir.Model, name: str, content: np.ndarray | ir.Tensor) -> ir.Value:
    """`content` as an initializer of the main graph, called `name` or alike."""
    names, wanted, count = model.graph.initializers, name, 0
    while wanted in names:
        count += 1
        wanted = f"{name}_{count}"
    if not isinstance(content, ir.Tensor):
        content = ir.Tensor(np.ascontiguousarray(content).reshape(np.shape(content)))
    content.name = wanted
    shape = ir.Shape(list(content.numpy().shape))
    value = ir.Value(name=wanted, type=ir.TensorType(content.dtype), shape=shape, const_value=content)
    model.graph.register_initializer(value)
    return value


def insert(
    before: ir.Node,
    operator: str,
    inputs: Sequence[ir.Value | None],
    *,
    like: ir.Value,
    dtype: ir.DataType,
    name: str = "",
    domain: str = "",
    version: int | None = None,
    attributes: Sequence[ir.Attr] = (),
) -> ir.Value:
    """A new node before another; its output is shaped as `like`. `name` is that of node and output alike."""
    name = name or f"{like.name}/{operator}"
    node = ir.Node(domain, operator, inputs, attributes, version=version, name=name, num_outputs=1)
    output = node.outputs[0]
    output.name, output.type, output.shape = name, ir.TensorType(dtype), like.shape
    assert before.graph is not None
    before.graph.insert_before(before, node)
    return output


def replace(old: ir.Value, new: ir.Value) -> None:
    """Let all readers of `old` read `new`; its node, and what only that one needed, go."""
    if old.is_graph_output():
        new.name, old.name = old.name, f"{old.name}/before"
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    remove_unread(old.producer())


def remove_unread(node: ir.Node | None) -> None:
    """Remove a node that nobody reads, and the nodes before it that nobody reads then."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if node is None or node.graph is None:
            continue
        if any(output.uses() or output.is_graph_output() for output in node.outputs):
            continue
        waiting += [value.producer() for value in node.inputs if value is not None]
        node.graph.remove(node, safe=True)


def _are_positive(scales: np.ndarray) -> bool:
    return bool(np.all((scales > 0) & np.isfinite(scales)))


def _is_one(value: ir.Value) -> bool:
    if value.const_value is not None:
        return value.const_value.size == 1
    return value.shape is not None and all(dim == 1 for dim in value.shape)

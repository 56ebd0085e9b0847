"""Bring QuantizeLinear and DequantizeLinear next to the arithmetic, so that whatever moves data moves bytes.

    DequantizeLinear -> move                becomes   move -> DequantizeLinear
    move -> QuantizeLinear                  becomes   QuantizeLinear -> move
    DequantizeLinear -> QuantizeLinear      vanishes where both have the same scale and zero point
    QuantizeLinear of a weight              becomes the bytes

A *move* takes each element of its result from its input, or compares: Reshape, Transpose, Concat, MaxPool, ... .
Rounding and saturation keep the order of numbers, so all of this is exact.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from sardonyx.model.schemas import version_of
from sardonyx.optimizer import quantized as qz
from sardonyx.optimizer.quantized import Parameters, Quantized

__all__ = ["MoveQuantization"]

_LOG = logging.getLogger(__name__)
COPIES = (
    "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather", "Expand", "Tile", "Identity",
    "DepthToSpace", "SpaceToDepth", "Split",
)  # fmt: skip
SELECTING = ("Slice", "Gather")  # quantising before them may be more work
BYTES_SINCE = {"MaxPool": 12}  # versions before took floats alone, and meant the same


class MoveQuantization(ir.passes.InPlacePass):
    """Moves until nothing moves any more."""

    def requires(self, model: ir.Model) -> None:
        """Any model will do."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Quantise weights, merge equal nodes, move dequantisation down, then quantisation up."""
        nodes = list(model.graph.all_nodes())
        if not any(qz.is_quantize(node) or qz.is_quantize(node, "DequantizeLinear") for node in nodes):
            return ir.passes.PassResult(model, modified=False)
        modified = False
        steps: tuple[tuple[Callable[[ir.Model, ir.Node], bool], bool], ...] = (
            (quantize_weight, False), (merge, False), (move_down, False), (cancel, False), (move_up, True),
            (cancel, False), (merge, False),
        )  # fmt: skip
        for step, backwards in steps:
            nodes = list(model.graph.all_nodes())
            for node in reversed(nodes) if backwards else nodes:
                if node.graph is not None and step(model, node):
                    modified = True
        return ir.passes.PassResult(model, modified)


def quantize_weight(model: ir.Model, node: ir.Node) -> bool:
    """A weight that is stored in floats and quantised on each run, as training with quantisation leaves it."""
    source = node.inputs[0] if qz.is_quantize(node) else None
    if source is None or source.const_value is None or node.outputs[0].is_graph_output():
        return False
    found = qz.parameters_of(node)
    if isinstance(found, str) or not found.known or found.block or found.dtype not in qz.BYTES:
        return False
    if source.dtype != ir.DataType.FLOAT or found.arrays()[0].ndim > 1:
        return False
    new = qz.constant(model, f"{node.outputs[0].name}/bytes", found.quantized(qz.array_of(source)))
    qz.replace(node.outputs[0], new)
    return True


def merge(model: ir.Model, node: ir.Node) -> bool:
    """Several quantisations of one value to the same scale and zero point: the first will do."""
    source = node.inputs[0] if qz.is_quantize(node) else None
    own = qz.parameters_of(node)
    if source is None or isinstance(own, str):
        return False
    merged = False
    for usage in tuple(source.uses()):
        other = usage.node
        if other is node or not qz.is_quantize(other) or other.graph is not node.graph:
            continue
        theirs = qz.parameters_of(other)
        if isinstance(theirs, str) or not own.same(theirs) or other.outputs[0].is_graph_output():
            continue
        qz.replace(other.outputs[0], node.outputs[0])
        merged = True
    return merged


def cancel(model: ir.Model, node: ir.Node) -> bool:
    """Quantised again to what it was before."""
    if not qz.is_quantize(node) or node.outputs[0].is_graph_output():
        return False
    before, own = qz.dequantized(node.inputs[0]), qz.parameters_of(node)
    if before is None or isinstance(own, str) or not own.same(before.parameters):
        return False
    qz.replace(node.outputs[0], before.data)
    return True


def move_down(model: ir.Model, node: ir.Node) -> bool:
    """DequantizeLinear before a move: the bytes are moved, and then dequantised."""
    problem = _no_move(model, node)
    if problem:
        return False
    sources = [qz.dequantized(value) for value in _data_inputs(node)]
    first = sources[0] if sources else None
    if first is None and node.op_type == "Transpose":  # weights of few bits
        first = qz.dequantized(node.inputs[0], qz.NARROW)
        sources = [first]
    if first is None:
        return False
    parameters = _moved_parameters(model, node, first)
    if parameters is None or any(s is None or not (s is first or s.parameters.same(first.parameters)) for s in sources):
        return False
    rest = _further_inputs(model, node, first.parameters)
    if rest is None or (rest and node.op_type == "Pad" and not _keeps(node, first.parameters)):
        return False
    moved = _move_bytes(model, node, [s.data for s in sources if s is not None], rest, first.parameters.dtype)
    attributes = () if parameters.single else (ir.AttrInt64("axis", parameters.axis),)
    if parameters.block:
        attributes = (*attributes, ir.AttrInt64("block_size", parameters.block))
    inputs = (parameters.scale, parameters.zero)
    for old, new in zip(tuple(node.outputs), moved, strict=False):
        if not (old.uses() or old.is_graph_output()):
            continue
        floats = qz.insert(
            node, "DequantizeLinear", [new, *inputs], like=old, dtype=ir.DataType.FLOAT, domain=first.node.domain,
            version=first.node.version, attributes=attributes,
        )  # fmt: skip
        qz.replace(old, floats)
    return True


def move_up(model: ir.Model, node: ir.Node) -> bool:
    """A move before QuantizeLinear: quantised first, then moved; and again, as long as there is another before it."""
    moved = False
    waiting = [node]
    while waiting:
        node = waiting.pop()
        found = _lift(model, node)
        if isinstance(found, str):
            _LOG.debug("QuantizeLinear %s stays: %s", node.name, found)
            continue
        moved = True
        waiting += found
    return moved


def _lift(model: ir.Model, node: ir.Node) -> list[ir.Node] | str:
    """The quantisations that took the place of `node`, before the move that was before it."""
    if not qz.is_quantize(node) or node.inputs[0] is None:
        return "it is another operator"
    value, own = node.inputs[0], qz.parameters_of(node)
    move = value.producer()
    if isinstance(own, str) or not own.single or not own.known or own.dtype not in qz.BYTES:
        return own if isinstance(own, str) else "its parameters are not two known numbers"
    if move is None or len(move.outputs) != 1 or move.graph is not node.graph:
        return "nothing is moved before it"
    problem = _no_move(model, move) or ("" if qz.only_use(value) else "the floats are wanted, too")
    if problem:
        return problem
    sources = _data_inputs(move)
    if move.op_type in SELECTING and any(source is None or not qz.only_use(source) for source in sources):
        return "other parts of the floats are wanted, too"
    rest = _further_inputs(model, move, own)
    if rest is None:
        return "what is padded with is not known"
    made: list[ir.Node] = []
    data = []
    for source in sources:
        assert source is not None
        before = qz.dequantized(source)
        if before is not None and before.parameters.same(own):
            data.append(before.data)
            continue
        new = qz.insert(
            move, "QuantizeLinear", [source, *node.inputs[1:]], like=source, dtype=own.dtype, domain=node.domain,
            version=node.version, attributes=tuple(node.attributes.values()), name=f"{source.name}/{node.name}",
        )  # fmt: skip
        producer = new.producer()
        assert producer is not None
        made.append(producer)
        data.append(new)
    (result,) = _move_bytes(model, move, data, rest, own.dtype)
    qz.replace(node.outputs[0], result)
    return made


# What a move is.


def _no_move(model: ir.Model, node: ir.Node) -> str:
    """Why `node` moves no bytes; an empty text if it does."""
    if not node.inputs or node.inputs[0] is None or node.domain not in qz.STANDARD:
        return "no operator of the standard"
    if node.op_type in COPIES or node.op_type == "Concat":
        return ""
    if node.op_type == "MaxPool":
        return "the positions of maxima are wanted" if any(o.uses() for o in node.outputs[1:]) else ""
    if node.op_type == "Resize":
        return "" if _is_nearest(node) else "it computes with its elements"
    if node.op_type == "Pad":
        return "it pads with a float" if version_of(node, model.opset_imports) < 11 else ""
    return "it computes with its elements"


def _is_nearest(node: ir.Node) -> bool:
    mode, place = node.attributes.get("mode"), node.attributes.get("coordinate_transformation_mode")
    beyond = place is not None and place.as_string() == "tf_crop_and_resize"
    return not beyond and (mode is None or mode.as_string() == "nearest")


def _data_inputs(node: ir.Node) -> list[ir.Value | None]:
    """The inputs that are moved."""
    return list(node.inputs) if node.op_type == "Concat" else [node.inputs[0]]


def _further_inputs(model: ir.Model, node: ir.Node, parameters: Parameters) -> list[ir.Value | None] | None:
    """The other inputs, for data of `parameters`; None where they can't be had."""
    if node.op_type == "Concat":
        return []
    rest = list(node.inputs[1:])
    if node.op_type != "Pad" or _pad_mode(node) != "constant":
        return rest
    value = _padding(node)
    if value is None or not parameters.known:
        return None
    filler = qz.constant(model, f"{node.name}/padding", parameters.quantized(value.reshape(())))
    rest += [None] * (2 - len(rest))
    rest[1] = filler
    return rest


def _pad_mode(node: ir.Node) -> str:
    mode = node.attributes.get("mode")
    return "constant" if mode is None else mode.as_string()


def _padding(node: ir.Node) -> np.ndarray | None:
    """What Pad puts around, if that is known."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        return np.zeros((), np.float32)
    return None if value.const_value is None else qz.array_of(value)


def _keeps(node: ir.Node, parameters: Parameters) -> bool:
    """Whether what Pad puts around is one of the numbers that bytes can say."""
    value = _padding(node)
    if _pad_mode(node) != "constant":
        return True
    if value is None or not (parameters.known and parameters.single):
        return False
    (scale,), (zero,) = (array.ravel() for array in parameters.arrays())
    said = np.float32(int(parameters.quantized(value.reshape(()))) - zero) * scale
    return bool(said == value.ravel()[0])


def _moved_parameters(model: ir.Model, node: ir.Node, source: Quantized) -> Parameters | None:
    """The parameters of the moved bytes; None where those of different channels would be mixed."""
    old = source.parameters
    if old.single:
        return old
    if node.op_type != "Transpose" or source.data.const_value is None or not old.known:
        return None
    order = _order(node, len(source.data.const_value.shape))
    scale, zero, turned = old.scale, old.zero, old.axis % len(order)
    if old.block:
        if any(value is not None and qz.array_of(value).ndim != len(order) for value in (scale, zero)):
            return None
        scale = _transposed(model, node, scale, order)
        zero = None if zero is None else _transposed(model, node, zero, order)
    return Parameters(scale, zero, old.dtype, order.index(turned), old.block)


def _transposed(model: ir.Model, node: ir.Node, value: ir.Value, order: list[int]) -> ir.Value:
    """A constant of any type, its axes rearranged now."""
    tensor = value.const_value
    assert tensor is not None
    moved = ir.Tensor(np.ascontiguousarray(tensor.numpy().transpose(order)), dtype=tensor.dtype)
    return qz.constant(model, f"{value.name}/{node.name}", moved)


def _order(node: ir.Node, rank: int) -> list[int]:
    order = node.attributes.get("perm")
    return list(range(rank))[::-1] if order is None else [int(axis) for axis in order.as_ints()]


def _move_bytes(
    model: ir.Model, node: ir.Node, data: list[ir.Value], rest: list[ir.Value | None], dtype: ir.DataType
) -> list[ir.Value]:
    """The outputs of the same move of bytes, before `node`; a weight is transposed now."""
    if node.op_type == "Transpose" and data[0].const_value is not None:
        return [_transposed(model, node, data[0], _order(node, len(data[0].const_value.shape)))]
    version = version_of(node, model.opset_imports)
    attributes = [a for a in node.attributes.values() if not (node.op_type == "MaxPool" and a.name == "storage_order")]
    count = 1 if node.op_type == "MaxPool" else len(node.outputs)
    new = ir.Node(
        "", node.op_type, [*data, *rest], attributes, version=max(version, BYTES_SINCE.get(node.op_type, 0)),
        name=f"{node.name}/bytes", num_outputs=count,
    )  # fmt: skip
    for value, old in zip(new.outputs, node.outputs, strict=False):
        value.name = f"{old.name}/bytes" if old.name else ""
        value.type, value.shape = ir.TensorType(dtype), old.shape
    assert node.graph is not None
    node.graph.insert_before(node, new)
    return list(new.outputs)

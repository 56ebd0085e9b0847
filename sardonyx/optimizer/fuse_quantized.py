"""Compute on quantised values themselves: DequantizeLinear -> operator -> QuantizeLinear becomes an operator on bytes.

    x, w -> DequantizeLinear -> Conv | MatMul | Gemm | Add | ... [-> Relu | Clip] -> QuantizeLinear
    x, w ---------------------> QLinearConv | QLinearMatMul | QGemm | QLinearAdd | ... [-> Clip] ->

Products whose result stays a float become products of bytes times the scales (ConvInteger, MatMulIntegerToFloat). Where
nothing fits, the nodes stay as they are and compute in floats, on bytes read once for each reader.

How results differ from those of the nodes replaced: products are summed exactly instead of in float32, and scales are
multiplied together first, so a quantised result can differ by one step where the sum is within rounding of the middle
between two; a float bias is rounded to a multiple of both scales, which is less than half a step (or else the product
ends in floats). Relu and Clip are exact, and vanish where the quantised range lies inside theirs.
"""

from __future__ import annotations

import logging

import numpy as np
import onnx_ir as ir

from sardonyx.model.schemas import version_of
from sardonyx.optimizer import quantized as qz
from sardonyx.optimizer.quantized import Parameters
from sardonyx.optimizer.quantized_rules import PRODUCTS, RULES, Output

__all__ = ["FuseQuantized"]

_LOG = logging.getLogger(__name__)
CLIP_OF_BYTES = 13


class FuseQuantized(ir.passes.InPlacePass):
    """Replaces every match; first those that end in QuantizeLinear, then products that end in floats."""

    def requires(self, model: ir.Model) -> None:
        """Any model will do; `MoveQuantization` before it finds more."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace what matches, in the graph and its subgraphs."""
        nodes = list(model.graph.all_nodes())
        if not any(qz.is_quantize(node, "DequantizeLinear") for node in nodes):
            return ir.passes.PassResult(model, modified=False)
        modified = False
        for fuse in (_fuse, _fuse_product, _split):
            for node in list(model.graph.all_nodes()):
                if node.graph is None:
                    continue
                problem = fuse(model, node)
                if problem:
                    _LOG.debug("%s %s stays: %s", node.op_type, node.name, problem)
                modified |= not problem
        if modified:
            model.opset_imports.setdefault(qz.MS, 1)
        return ir.passes.PassResult(model, modified)


def _fuse(model: ir.Model, node: ir.Node) -> str:
    """The operator before a QuantizeLinear on bytes; else why not."""
    if not qz.is_quantize(node) or node.inputs[0] is None:
        return "it quantises nothing"
    found = qz.parameters_of(node)
    if isinstance(found, str):
        return found
    if not (found.single and found.known) or found.dtype not in qz.BYTES:
        return "its scale and zero point are not two known numbers of bytes"
    peeled = _peel(model, node.inputs[0], found)
    if isinstance(peeled, str):
        return peeled
    value, *ends = peeled
    result = _on_bytes(model, node, value, found)
    if isinstance(result, str):
        return result
    kind, old = found.dtype, node.outputs[0]
    if tuple(ends) != qz.limits(kind):
        bounds = [qz.constant(model, f"{node.name}/bound", np.asarray(end, kind.numpy())) for end in ends]
        result = qz.insert(node, "Clip", [result, *bounds], like=old, dtype=kind, version=CLIP_OF_BYTES)
    if old.is_graph_output() and (result.producer() is None or result.is_graph_output()):
        result = qz.insert(node, "Identity", [result], like=old, dtype=kind)
    qz.replace(old, result)
    return ""


def _on_bytes(model: ir.Model, node: ir.Node, value: ir.Value, found: Parameters) -> ir.Value | str:
    """`value`, quantised by `node`, computed on bytes."""
    core, before = value.producer(), qz.dequantized(value)
    if core is None or core.graph is not node.graph:
        return "nothing is computed before it"
    if before is not None and before.parameters.same(found):
        return before.data
    if core.op_type not in RULES or core.domain not in qz.STANDARD:
        return f"{core.op_type} has no form on bytes"
    if not qz.only_use(value):
        return "the floats are wanted, too"
    zero = found.zero
    if zero is None:
        zero = qz.constant(model, f"{node.name}/zero", np.zeros((), found.dtype.numpy()))
    return RULES[core.op_type](model, core, Output(node, Parameters(found.scale, zero, found.dtype)))


def _peel(model: ir.Model, value: ir.Value, found: Parameters) -> tuple[ir.Value, int, int] | str:
    """`value` before Relu and Clip, and the quantised numbers between which these keep it.

    Quantisation is monotone, so a bound on floats is the quantised bound on quantised numbers, exactly.
    """
    low, high = qz.limits(found.dtype)
    node = value.producer()
    while qz.is_operator(node, "Relu", "Clip"):
        assert node is not None
        bounds = _bounds(model, node)
        if isinstance(bounds, str):
            return bounds
        if not qz.only_use(value) or node.inputs[0] is None:
            return "the floats are wanted, too"
        least, most = (None if bound is None else _in_steps(bound, found) for bound in bounds)
        # These come first: what they let pass is bounded by what was peeled before.
        low, high = (min(max(_clip(end, least, most), low), high) for end in qz.limits(found.dtype))
        value = node.inputs[0]
        node = value.producer()
    return value, low, high


def _in_steps(bound: float, found: Parameters) -> int:
    return int(found.quantized(np.asarray(bound, np.float32)).ravel()[0])


def _clip(x: int, low: int | None, high: int | None) -> int:
    x = x if low is None else max(x, low)
    return x if high is None else min(x, high)


def _bounds(model: ir.Model, node: ir.Node) -> tuple[float | None, float | None] | str:
    """What Relu or Clip keeps its input between."""
    if node.op_type == "Relu":
        return 0.0, None
    if version_of(node, model.opset_imports) < 11:
        given = [node.attributes.get(name) for name in ("min", "max")]
        ends = [None if a is None else a.as_float() for a in given]
        return ends[0], ends[1]
    values = [node.inputs[i] if len(node.inputs) > i else None for i in (1, 2)]
    if any(value is not None and value.const_value is None for value in values):
        return "the bounds of Clip are not known"
    ends = [None if value is None else float(qz.array_of(value).ravel()[0]) for value in values]
    if any(end is not None and np.isnan(end) for end in ends):
        return "a bound of Clip is NaN"
    return ends[0], ends[1]


def _fuse_product(model: ir.Model, node: ir.Node) -> str:
    """A product of dequantised values, given as floats."""
    if node.op_type not in PRODUCTS or node.domain not in qz.STANDARD:
        return "it is no product"
    result = PRODUCTS[node.op_type](model, node)
    if isinstance(result, str):
        return result
    qz.replace(node.outputs[0], result)
    return ""


def _split(model: ir.Model, node: ir.Node) -> str:
    """A dequantisation for each of its readers: then only the bytes are ever in memory."""
    if not qz.is_quantize(node, "DequantizeLinear") or node.inputs[0] is None:
        return "it dequantises nothing"
    if all(value is None or value.const_value is not None for value in node.inputs):
        return "it is a constant"
    usages = [usage for usage in node.outputs[0].uses() if usage.node.graph is node.graph]
    if len(usages) < 2:
        return "it has one reader"
    floats = node.outputs[0]
    for usage in usages[0 if floats.is_graph_output() else 1 :]:
        own = qz.insert(
            node, node.op_type, node.inputs, like=floats, dtype=floats.dtype or ir.DataType.FLOAT, domain=node.domain,
            version=node.version, attributes=tuple(node.attributes.values()), name=f"{floats.name}/{usage.node.name}",
        )  # fmt: skip
        usage.node.replace_input_with(usage.idx, own)
    return ""

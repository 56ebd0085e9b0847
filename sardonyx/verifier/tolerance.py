"""What rounding may do to an output: from the arithmetic of the graph, not one constant for all.

Model: each floating-point operation is off by at most half a unit in the last place of its type, errors of different
operations are independent, and a sum of K terms of like size is off by about sqrt(K) of them in the direction of its
own magnitude (Higham & Mary, "A new approach to probabilistic rounding error analysis", SIAM J. Sci. Comput. 2019).
Along a path of the graph the squares of these add up:

    allowed = SAFETY * u * sqrt(sum of K over the longest path) * largest value of the output

Depth matters, width does not. An exponential (softmax, sigmoid) turns an absolute error of its argument into a relative
one: its smallest value says how large the argument is, and so its error; its slope, how much of that shows. A model
that magnifies rounding (a steep attention) shows by how much when its inputs are moved by a unit in the last place,
which is two of u: what every operation on the way does, and not the first alone, is SAFETY * sqrt(sum of K) / 2 times
that, of which NOISE times are allowed at most.
Where two stages round differently at a quantisation, one step of the quantised type is what a value may move by: the
verdict is then by signal-to-noise ratio, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

# Half a unit in the last place, relative.
UNIT = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
SAFETY = 2.0
NOISE = 16.0  # at most so many times what moving the inputs by a unit in the last place does
FLOOR = 1e-7  # of values near zero: absolute

# Metadata of a node whose inputs the source quantises while running, which the ONNX model does not.
SOURCE_QUANTISES = "source_quantises"

# How much of an error of the argument shows in the output, relative to its largest value: the largest slope.
_EXPONENTIALS = {"Exp": 1.0, "Sigmoid": 0.25, "Softmax": 0.5}
_TRANSFORMS = {"LOGISTIC": "Sigmoid", "SOFTMAX": "Softmax", "SOFTMAX_ZERO": "Softmax"}
_MOVES = {
    "Concat", "Expand", "Flatten", "Gather", "GatherND", "Identity", "MaxPool", "Reshape", "Slice", "Split", "Squeeze",
    "Tile", "Transpose", "Unsqueeze",
}  # fmt: skip
_QUANTISERS = {
    "QuantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "ConvInteger",
    "QLinearConv",
    "QLinearMatMul",
    "DynamicQuantizeMatMul",
    "QAttention",
}


@dataclass(frozen=True)
class Tolerance:
    """How much an output may be off.

    Attributes:
        unit: half a unit in the last place of the coarsest type on the way.
        terms: sum of the lengths of reductions on the longest path to the output.
        quantised: whether values are quantised on the way.
        quantised_snr: least signal-to-noise ratio, in dB, then.
        noise: relative change of the output when the inputs move by a unit in the last place, if it was measured.
        exponential: slope of the exponential that it is of what was computed; 0: it is none.
        step: one step of the quantised type that it comes from; 0: it comes from none.
        summed: sum of the magnitudes of the terms that make it, where the model itself tells: they may cancel.
    """

    unit: float
    terms: float
    quantised: bool = False
    quantised_snr: float = 25.0
    noise: float = 0.0
    exponential: float = 0.0
    step: float = 0.0
    summed: float = 0.0

    def allowed(self, peak: float, least: float = 1.0) -> float:
        """The largest absolute difference for an output; `peak` and `least` are its magnitudes, but for 0."""
        argument = max(1.0, -self.exponential * math.log(least)) if self.exponential and least > 0 else 1.0
        rounding = SAFETY * math.sqrt(max(1.0, self.terms))
        own = argument * rounding * self.unit * max(peak, self.summed)
        magnified = min(NOISE, rounding / 2) * self.noise * peak
        return max(own, magnified) + FLOOR * min(1.0, max(peak, 1e-3))


def tolerances(
    model: ir.Model, sizes: Mapping[str, int] | None = None, from_source: bool = False
) -> dict[str, Tolerance]:
    """The tolerance of every value of the graph of `model`, by name.

    Args:
        model: its inner shapes are used as far as they are known.
        sizes: of dynamic dimensions.
        from_source: whether it is compared with the source that it was made from.
    """
    return _of_nodes(model.graph, sizes or {}, {}, from_source)


def _of_nodes(
    nodes: Iterable[ir.Node], sizes: Mapping[str, int], outside: Mapping[str, Tolerance], from_source: bool
) -> dict[str, Tolerance]:
    """The tolerances of what `nodes` compute; the body of an If or a Loop reads values from `outside`."""
    found = dict(outside)
    exact = Tolerance(0.0, 0.0)
    for node in nodes:
        sources = [found.get(str(value.name), exact) for value in node.inputs if value is not None]
        for body in (
            attribute.value for attribute in node.attributes.values() if attribute.type == ir.AttributeType.GRAPH
        ):
            inner = _of_nodes(body, sizes, found, from_source)
            sources += [inner.get(str(value.name), exact) for value in body.outputs]
        terms = max((source.terms for source in sources), default=0.0) + reduction_length(node, sizes)
        unit = max((source.unit for source in sources), default=0.0)
        if node.op_type in ("Shape", "Size"):
            terms, unit = 0.0, 0.0
        quantised = node.op_type in _QUANTISERS or any(source.quantised for source in sources)
        quantised = quantised or (from_source and SOURCE_QUANTISES in node.metadata_props)
        moves = node.op_type in _MOVES
        slopes = [source.exponential for source in sources if moves]
        exponential = _slope(node) or max(slopes, default=0.0)
        step = _step(node) or (max((source.step for source in sources), default=0.0) if moves else 0.0)
        summed = _summed(node) or (max((source.summed for source in sources), default=0.0) if moves else 0.0)
        for output in node.outputs:
            kind = output.dtype.name.lower() if output.dtype is not None else "float"
            own = UNIT.get({"float": "float32", "double": "float64"}.get(kind, kind), 0.0)
            found[str(output.name)] = Tolerance(
                max(unit, own), terms, quantised, exponential=exponential, step=step, summed=summed
            )
    return found


def _slope(node: ir.Node) -> float:
    """The largest slope of the exponential that the outputs are of what was summed; 0: they are none."""
    transform = node.attributes.get_string("post_transform", "") if node.domain == "ai.onnx.ml" else ""
    return _EXPONENTIALS.get(_TRANSFORMS.get(transform, node.op_type), 0.0)


def _summed(node: ir.Node) -> float:
    """The terms of a support vector machine are coefficients times kernels, which are at most 1 where it says so."""
    bounded = node.attributes.get_string("kernel_type", "") in ("RBF", "SIGMOID")
    coefficients = node.attributes.get("coefficients")
    if node.op_type != "SVMRegressor" or not bounded or coefficients is None:
        return 0.0
    return sum(abs(value) for value in coefficients.as_floats())


def _step(node: ir.Node) -> float:
    """What a value moves by when it is quantised to the next number."""
    if node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear"):
        return 1.0
    if node.op_type != "DequantizeLinear" or node.inputs[0] is None or node.inputs[0].const_value is not None:
        return 0.0
    scale = node.inputs[1].const_value if node.inputs[1] is not None else None
    return float(scale.numpy().max()) if scale is not None and scale.size else 0.0


def reduction_length(node: ir.Node, sizes: Mapping[str, int]) -> float:
    """How many terms are summed for one element of the output; 1 for an element-wise operator."""
    if node.op_type in ("MatMul", "Gemm", "FusedMatMul") and node.inputs[0] is not None:
        transposed = node.op_type == "Gemm" and bool(node.attributes.get_int("transA", 0))
        return _size(node.inputs[0], 0 if transposed else -1, sizes)
    if node.op_type in ("Conv", "ConvTranspose") and len(node.inputs) > 1 and node.inputs[1] is not None:
        shape = node.inputs[1].shape
        whole = [dim if isinstance(dim, int) else 1 for dim in shape] if shape is not None else [1, 256]
        return float(math.prod(whole[1:] if node.op_type == "Conv" else [whole[0], *whole[2:]]))
    if node.op_type in ("LSTM", "GRU", "RNN") and len(node.inputs) > 2 and node.inputs[0] is not None:
        steps = _size(node.inputs[0], 0, sizes)
        return steps * (_size(node.inputs[1], -1, sizes) + _size(node.inputs[2], -1, sizes))
    if node.op_type.startswith("TreeEnsemble"):
        trees = node.attributes.get("nodes_treeids") or node.attributes.get("tree_roots")
        return float(len(set(trees.as_ints()))) if trees is not None else 100.0
    if node.op_type.startswith("SVM"):
        vectors = node.attributes.get("support_vectors")
        supports = node.attributes.get_ints("vectors_per_class", [node.attributes.get_int("n_supports", 0)])
        width = _size(node.inputs[0], -1, sizes)
        return width + sum(supports) if vectors is not None else width
    if node.op_type == "GlobalAveragePool" and node.inputs[0] is not None and node.inputs[0].shape is not None:
        return math.prod(_size(node.inputs[0], axis, sizes) for axis in range(2, len(node.inputs[0].shape)))
    if node.op_type == "AveragePool":
        return float(math.prod(node.attributes.get_ints("kernel_shape", [1])))
    if node.op_type in _OVER_AXES:
        return _size(node.inputs[0], -1, sizes)
    if node.op_type.startswith("Reduce"):
        before, after = (_elements(value, sizes) for value in (node.inputs[0], node.outputs[0]))
        return max(1.0, before / max(1.0, after))
    return 1.0


_OVER_AXES = {
    "Softmax",
    "LogSoftmax",
    "LayerNormalization",
    "InstanceNormalization",
    "GroupNormalization",
    "RMSNormalization",
    "LpNormalization",
    "CumSum",
    "Attention",
    "Einsum",
    "LinearClassifier",
    "LinearRegressor",
    "Normalizer",
}


def _size(value: ir.Value | None, axis: int, sizes: Mapping[str, int]) -> float:
    if value is None or value.shape is None or not value.shape:
        return 256.0  # unknown: a common width
    dim = value.shape[axis]
    return float(dim if isinstance(dim, int) else sizes.get(str(dim.value), 64))


def _elements(value: ir.Value | None, sizes: Mapping[str, int]) -> float:
    if value is None or value.shape is None:
        return 256.0
    return math.prod(_size(value, axis, sizes) for axis in range(len(value.shape)))

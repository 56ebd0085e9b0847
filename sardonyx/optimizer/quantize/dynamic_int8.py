"""``dynamic-int8``: weights of 8 bits; activations are rounded by their own range at each run. Needs no data.

    x ---- DynamicQuantizeLinear ---- MatMulInteger ---- Cast ---- Mul ---- (+ bias)
                  '-- scale ----------- Mul(weight's scales) ---------'

All of it is the standard's (opset 11), so other runtimes run it too; but for LSTM, which becomes ONNX Runtime's
com.microsoft.DynamicQuantizeLSTM. GRU and RNN have no such form: their weights alone become int8 (opset 13).
Normalisation, softmax and whatever else is no product of a constant stay in float.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sardonyx.optimizer.fold import fold_batch_normalization
from sardonyx.optimizer.quantize.graph import (
    add_constant,
    add_node,
    array_of,
    editable,
    finish,
    int_of,
    is_op,
    replace_output,
    summary,
    unknown,
)
from sardonyx.optimizer.quantize.numbers import channel_scales, round_weight
from sardonyx.optimizer.quantize.parameters import one_of
from sardonyx.optimizer.quantize.recurrent import (
    MICROSOFT,
    RECURRENT,
    dynamic_lstm,
    is_dynamic,
    recurrent_layers,
    store_weights,
    why_float,
)
from sardonyx.optimizer.step import Applied, Context, Step, step

__all__ = ["DynamicInt8"]


@step("dynamic-int8")
@dataclass(frozen=True)
class DynamicInt8(Step):
    """Dynamic quantisation to 8 bits.

    Attributes:
        per_channel: a scale for each output channel of a weight; False: one for all.
        weight_scale: "max": the largest weight is the end of the scale; "mse": least squared error.
        reduce_range: weights of 7 bits, see `StaticInt8`.
        convolutions: Conv, too, as ConvInteger.
        recurrent: LSTM, GRU and RNN, too, in subgraphs as well; False for runtimes without DynamicQuantizeLSTM.
        smallest: weights with fewer elements stay in float: rounding would cost more than it saves.
        skip: names of nodes that stay in float.
    """

    per_channel: bool = True
    weight_scale: str = "max"
    reduce_range: bool = False
    convolutions: bool = False
    recurrent: bool = True
    smallest: int = 256
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        one_of("weight_scale", self.weight_scale, ("max", "mse"))

    def apply(self, model: ir.Model, context: Context) -> Applied:
        """See `Step.apply`."""
        weights_alone = any(is_op(node, *RECURRENT) and not is_dynamic(node) for node in model.graph.all_nodes())
        work = editable(model, 13 if self.recurrent and weights_alone else 11)
        if self.convolutions:
            fold_batch_normalization(work)
        notes = unknown(work, self.skip)
        found: dict[ir.Node, None] = {}
        kept: list[tuple[str, str]] = []
        for node in work.graph:
            reason = self._why_not(node)
            if reason is None:
                found[node] = None
            elif reason:
                kept.append((str(node.name), reason))
        layers = self._layers(work, kept) if self.recurrent else 0
        notes += summary(kept)
        if not found and not layers:
            return Applied(model, False, [*notes, "there is no product to quantise"])
        rounded: dict[ir.Value, list[ir.Value]] = {}
        for node in found:
            self._rewrite(node, rounded)
        if any(node.domain == MICROSOFT for node in work.graph.all_nodes()):
            work.opset_imports[MICROSOFT] = 1
        notes += [f"{count} {what}" for count, what in ((len(found), "products are int8"),
                  (layers, "recurrent layers have weights of int8")) if count]  # fmt: skip
        return Applied(finish(work), True, notes)

    def _layers(self, model: ir.Model, kept: list[tuple[str, str]]) -> int:
        """How many recurrent layers became int8; those that did not, to `kept`."""
        constants: dict[ir.Value, list[ir.Value]] = {}
        floats: dict[ir.Value, ir.Value] = {}
        done = 0
        for node in recurrent_layers(model):
            reason = why_float(node, self.skip, self.smallest)
            if reason:
                kept.append((str(node.name), reason))
                continue
            if is_dynamic(node):
                dynamic_lstm(model, node, self._integers, constants)
            else:
                store_weights(model, node, self._integers, floats)
            done += 1
        return done

    def _why_not(self, node: ir.Node) -> str | None:
        """None: it can be quantised; "": nobody asked for it; else the reason that keeps it in float."""
        if not is_op(node, "MatMul", "Gemm", *(["Conv"] if self.convolutions else [])):
            return ""
        if node.name in self.skip:
            return "as asked"
        if any(value is None or value.dtype != ir.DataType.FLOAT for value in node.inputs[:2]):
            return "its inputs are not known to be float32"
        array = array_of(node.inputs[1])
        if array is None:
            return "its weight is no constant" if is_op(node, "Conv", "Gemm") else "both inputs are computed"
        if array.size < self.smallest:
            return "its weight is small"
        if not np.isfinite(array).all():
            return "its weight holds NaN or infinity"
        return _odd_form(node)

    def _rewrite(self, node: ir.Node, rounded: dict[ir.Value, list[ir.Value]]) -> None:
        x = node.inputs[0]
        assert x is not None
        if x not in rounded:
            rounded[x] = _rounded_input(node, x)
        if node.op_type == "Conv":
            return self._conv(node, rounded[x])
        return self._product(node, rounded[x])

    def _integers(self, array: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
        limit = 63 if self.reduce_range else 127
        chosen = axis if self.per_channel else None
        scale = channel_scales(array, chosen, limit, self.weight_scale == "mse")
        scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
        return round_weight(array, scale, chosen, limit), scale

    def _product(self, node: ir.Node, x: list[ir.Value]) -> None:
        graph, weight = node.graph, array_of(node.inputs[1])
        assert isinstance(graph, ir.Graph)
        assert weight is not None
        if node.op_type == "Gemm":
            weight = (weight.T if int_of(node, "transB") else weight) * np.float32(
                node.attributes.get_float("alpha", 1.0))  # fmt: skip
        integers, scale = self._integers(weight, weight.ndim - 1)
        name = str(node.inputs[1].name)  # type: ignore[union-attr]
        stored = add_constant(graph, f"{name}.int8", integers)
        zero = add_constant(graph, f"{name}.zero", np.zeros((), np.int8))
        inputs = [x[0], stored, x[2], zero]
        sums = add_node(
            node, "MatMulInteger", inputs, f"{node.name}.sums", like=node.outputs[0], dtype=ir.DataType.INT32
        )
        factors = add_constant(graph, f"{name}.scale", scale)
        bias = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
        _scale_back(node, sums, x[1], factors, _times(node, bias))

    def _conv(self, node: ir.Node, x: list[ir.Value]) -> None:
        graph, weight = node.graph, array_of(node.inputs[1])
        assert isinstance(graph, ir.Graph)
        assert weight is not None
        integers, scale = self._integers(weight, 0)
        name, rank = str(node.inputs[1].name), weight.ndim  # type: ignore[union-attr]
        # uint8 around 128: ONNX Runtime's ConvInteger knows no int8 weights.
        stored = add_constant(graph, f"{name}.uint8", (integers.astype(np.int16) + 128).astype(np.uint8))
        zero = add_constant(graph, f"{name}.zero", np.asarray(128, np.uint8))
        inputs, attributes = [x[0], stored, x[2], zero], dict(node.attributes)
        sums = add_node(
            node, "ConvInteger", inputs, f"{node.name}.sums", {key: each.value for key, each in attributes.items()},
            like=node.outputs[0], dtype=ir.DataType.INT32,
        )  # fmt: skip
        shape = (-1, *[1] * (rank - 2)) if self.per_channel else ()
        factors = add_constant(graph, f"{name}.scale", scale.reshape(shape))
        bias = array_of(node.inputs[2]) if len(node.inputs) > 2 else None
        added = None if bias is None else add_constant(graph, f"{node.name}.bias", bias.reshape(-1, *[1] * (rank - 2)))
        _scale_back(node, sums, x[1], factors, added)


def _odd_form(node: ir.Node) -> str | None:
    """Attributes and shapes that the integer operators do not have."""
    if node.op_type == "Gemm" and int_of(node, "transA"):
        return "its input is transposed"
    weight = array_of(node.inputs[1])
    assert weight is not None
    if node.op_type == "MatMul" and weight.ndim != 2:
        return "its weight is no matrix"
    if (
        node.op_type == "Conv"
        and len(node.inputs) > 2
        and node.inputs[2] is not None
        and array_of(node.inputs[2]) is None
    ):
        return "its bias is no constant"
    return None


def _rounded_input(node: ir.Node, x: ir.Value) -> list[ir.Value]:
    """uint8 values, scale and zero point of `x`, once for all that read it."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    output = add_node(node, "DynamicQuantizeLinear", [x], f"{x.name}.q", like=x, dtype=ir.DataType.UINT8)
    producer = output.producer()
    assert producer is not None
    producer.resize_outputs(3)
    for other, suffix, dtype in zip(producer.outputs[1:], ("scale", "zero"), (ir.DataType.FLOAT, ir.DataType.UINT8)):
        other.name, other.shape, other.type = f"{output.name}.{suffix}", ir.Shape([]), ir.TensorType(dtype)
    return list(producer.outputs)


def _times(node: ir.Node, bias: ir.Value | None) -> ir.Value | None:
    """The bias of a Gemm times beta."""
    beta = node.attributes.get_float("beta", 1.0)
    if bias is None or beta == 1.0:
        return bias
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    factor = add_constant(graph, f"{node.name}.beta", np.asarray(beta, np.float32))
    return add_node(node, "Mul", [bias, factor], f"{node.name}.bias", like=bias)


def _scale_back(node: ir.Node, sums: ir.Value, scale: ir.Value, factors: ir.Value, bias: ir.Value | None) -> None:
    """Floats of the sums, in place of `node`."""
    old, graph = node.outputs[0], node.graph
    assert isinstance(graph, ir.Graph)
    floats = add_node(node, "Cast", [sums], f"{node.name}.floats", {"to": int(ir.DataType.FLOAT)}, like=old)
    both = add_node(node, "Mul", [scale, factors], f"{node.name}.scales", like=factors)
    result = add_node(node, "Mul", [floats, both], f"{node.name}.product", like=old)
    if bias is not None:
        result = add_node(node, "Add", [result, bias], f"{node.name}.sum", like=old)
    replace_output(old, result)
    graph.remove(node, safe=True)

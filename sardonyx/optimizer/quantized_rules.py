"""The forms on bytes that operators between DequantizeLinear and QuantizeLinear have: a rule each.

A rule makes the new node before the old one and gives its output, or says why it can't.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sardonyx.model.schemas import version_of
from sardonyx.optimizer import quantized as qz
from sardonyx.optimizer.quantized import Parameters, Quantized

__all__ = ["PRODUCTS", "RULES", "Output"]

Made = ir.Value | str  # the new output, or why there is none
FLOAT = ir.DataType.FLOAT
INT32 = ir.DataType.INT32
MOST_BIAS = float((1 << 30) - 1)
EXTREME = "its scales are too far apart"
SINCE_INTEGER = 10  # QLinearConv, QLinearMatMul, ConvInteger


@dataclass(frozen=True)
class Output:
    """The QuantizeLinear node that a rule stands for; its zero point is there."""

    node: ir.Node
    parameters: Parameters

    def inputs(self) -> tuple[ir.Value, ir.Value | None]:
        """Scale and zero point."""
        return self.parameters.scale, self.parameters.zero


@dataclass(frozen=True)
class Operand:
    """A quantised operand as integer operators take it; scale and zero point may be vectors."""

    data: ir.Value
    scale: ir.Value
    zero: ir.Value
    parameters: Parameters

    def inputs(self) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Data, scale, zero point."""
        return self.data, self.scale, self.zero


def _activation(model: ir.Model, value: ir.Value | None) -> Operand | None:
    """An operand with one scale."""
    found = qz.dequantized(value)
    return _operand(model, found) if found is not None and found.parameters.single else None


def _weight(model: ir.Model, value: ir.Value | None, axis: int) -> Operand | None:
    """A known operand with one scale, or one for each index of `axis`; few bits are widened."""
    found = qz.dequantized(value, qz.NARROW)
    if found is None or found.parameters.block or not found.parameters.known or found.data.const_value is None:
        return None
    rank = len(found.data.const_value.shape)
    return _operand(model, found) if found.parameters.single or found.parameters.axis % rank == axis else None


def _operand(model: ir.Model, found: Quantized) -> Operand:
    data, zero, kind = found.data, found.parameters.zero, found.parameters.dtype
    if kind not in qz.BYTES:
        kind = ir.DataType.INT8 if kind.is_signed() else ir.DataType.UINT8
        data = qz.constant(model, f"{data.name}/bytes", qz.array_of(data).astype(kind.numpy()))
        if zero is not None:
            zero = qz.constant(model, f"{zero.name}/bytes", qz.array_of(zero).astype(kind.numpy()))
    if zero is None:
        zero = qz.constant(model, f"{data.name}/zero", np.zeros((), kind.numpy()))
    parameters = Parameters(found.parameters.scale, zero, kind, found.parameters.axis)
    return Operand(data, parameters.scale, zero, parameters)


def _integer_bias(
    model: ir.Model, value: ir.Value | None, unit: np.ndarray, step: float, name: str
) -> ir.Value | str | None:
    """A known bias in multiples of `unit` as int32; None where there is none."""
    if value is None:
        return None
    bias = _floats(value)
    if bias is None:
        return "the bias is not known"
    units = np.broadcast_to(unit.ravel().astype(np.float64), bias.reshape(-1).shape) if unit.size > 1 else unit.ravel()
    numbers = np.rint(bias.reshape(-1).astype(np.float64) / units)
    if not np.all(np.abs(numbers) < MOST_BIAS):
        return "the bias has no int32 form"
    rounded = np.abs(numbers * units - bias.reshape(-1)).max(initial=0.0)
    if rounded > step / 2:
        return "units of the bias are coarser than the output's"
    return qz.constant(model, name, numbers.astype(np.int32))


def _are_ordinary(unit: np.ndarray, step: float) -> bool:
    """True where the scales' ratio is a normal float32: it is what sums are multiplied by."""
    ratio = np.abs(unit.astype(np.float64)) / step
    return bool(np.all((ratio > 1e-30) & (ratio < 1e30)))


def _floats(value: ir.Value) -> np.ndarray | None:
    """A known value in float64, stored so or dequantised."""
    if value.const_value is not None:
        return qz.array_of(value).astype(np.float64)
    found = qz.dequantized(value, (*qz.BYTES, INT32))
    if found is None or not found.parameters.known or found.parameters.block or found.data.const_value is None:
        return None
    scale, zero = found.parameters.arrays()
    data = qz.array_of(found.data).astype(np.float64)
    if data.ndim > 1 and not found.parameters.single:
        return None
    return (data - zero.reshape(zero.shape if zero.size > 1 else ())) * scale.astype(np.float64).reshape(
        scale.shape if scale.size > 1 else ()
    )


# Products.


def _conv_operands(model: ir.Model, node: ir.Node) -> tuple[Operand, Operand] | str:
    x, w = _activation(model, node.inputs[0]), _weight(model, node.inputs[1], 0)
    if x is None or w is None or not x.parameters.known:
        return "its data or weights are not bytes of known scales"
    return x, w


def conv(model: ir.Model, node: ir.Node, wanted: Output) -> Made:
    """Conv as QLinearConv."""
    operands = _conv_operands(model, node)
    if isinstance(operands, str):
        return operands
    x, w = operands
    step = float(wanted.parameters.arrays()[0].ravel()[0])
    unit = x.parameters.arrays()[0] * w.parameters.arrays()[0]
    if not _are_ordinary(unit, step):
        return EXTREME
    bias = _integer_bias(model, _input(node, 2), unit, step, f"{node.name}/bias")
    if isinstance(bias, str):
        return bias
    inputs = [*x.inputs(), *w.inputs(), *wanted.inputs(), bias]
    return _made(wanted, node, "QLinearConv", inputs, version=SINCE_INTEGER, attributes=node.attributes.values())


def float_conv(model: ir.Model, node: ir.Node) -> Made:
    """Conv as ConvInteger, then times the scales, plus the bias."""
    operands = _conv_operands(model, node)
    if isinstance(operands, str):
        return operands
    x, w = operands
    rank = len(w.data.shape or ())
    bias = _input(node, 2)
    known = None if bias is None else _floats(bias)
    if bias is not None and known is None:
        return "the bias is not known"
    old, channels = node.outputs[0], (-1, *(1,) * (rank - 2))
    scale = (x.parameters.arrays()[0] * w.parameters.arrays()[0]).astype(np.float32)
    factor = qz.constant(model, f"{node.name}/scale", scale.reshape(channels) if scale.size > 1 else scale.reshape(()))
    inputs = [x.data, w.data, x.zero, w.zero]
    attributes = tuple(node.attributes.values())
    sums = qz.insert(node, "ConvInteger", inputs, like=old, dtype=INT32, version=SINCE_INTEGER, attributes=attributes)
    to = (ir.AttrInt64("to", int(FLOAT)),)
    floats = qz.insert(node, "Cast", [sums], like=old, dtype=FLOAT, attributes=to)
    result = qz.insert(node, "Mul", [floats, factor], like=old, dtype=FLOAT)
    if known is None:
        return result
    added = qz.constant(model, f"{node.name}/bias", known.astype(np.float32).reshape(channels))
    return qz.insert(node, "Add", [result, added], like=old, dtype=FLOAT)


def _matmul_operands(model: ir.Model, node: ir.Node) -> tuple[Operand, Operand] | str:
    a = _activation(model, node.inputs[0])
    b = _activation(model, node.inputs[1]) or _weight(model, node.inputs[1], 1)
    if a is None or b is None:
        return "an operand is not bytes of one scale, or of one for each column"
    if not b.parameters.single and len(qz.array_of(b.data).shape) != 2:
        return "scales of the columns of more than one matrix"
    return a, b


def matmul(model: ir.Model, node: ir.Node, wanted: Output) -> Made:
    """MatMul as QLinearMatMul."""
    operands = _matmul_operands(model, node)
    if isinstance(operands, str):
        return operands
    a, b = operands
    if not (a.parameters.known and b.parameters.known):
        return "its scales are not known"
    unit, step = a.parameters.arrays()[0] * b.parameters.arrays()[0], wanted.parameters.arrays()[0]
    if not _are_ordinary(unit, float(step.ravel()[0])):
        return EXTREME
    return _made(wanted, node, "QLinearMatMul", [*a.inputs(), *b.inputs(), *wanted.inputs()], version=SINCE_INTEGER)


def float_matmul(model: ir.Model, node: ir.Node) -> Made:
    """MatMul as MatMulIntegerToFloat."""
    operands = _matmul_operands(model, node)
    if isinstance(operands, str):
        return operands
    a, b = operands
    inputs = [a.data, b.data, a.scale, b.scale, a.zero, b.zero]
    return qz.insert(
        node, "MatMulIntegerToFloat", inputs, like=node.outputs[0], dtype=FLOAT, domain=qz.MS, version=1
    )  # fmt: skip


def _gemm_operands(model: ir.Model, node: ir.Node) -> tuple[Operand, Operand] | str:
    axis = 0 if qz.number(node, "transB", 0) else 1
    a = _activation(model, node.inputs[0])
    b = _activation(model, node.inputs[1]) or _weight(model, node.inputs[1], axis)
    if a is None or b is None:
        return "an operand is not bytes of one scale, or of one for each column"
    return a, b


def gemm(model: ir.Model, node: ir.Node, wanted: Output) -> Made:
    """Gemm as QGemm."""
    operands = _gemm_operands(model, node)
    if isinstance(operands, str):
        return operands
    a, b = operands
    alpha, beta = _real(node, "alpha", 1.0), _real(node, "beta", 1.0)
    if not (a.parameters.known and b.parameters.known) or alpha == 0.0:
        return "its scales are not known"
    step = float(wanted.parameters.arrays()[0].ravel()[0])
    unit = a.parameters.arrays()[0] * b.parameters.arrays()[0] * np.float32(alpha)
    if not _are_ordinary(unit, step):
        return EXTREME
    bias = None if beta == 0.0 else _bias_row(model, node, unit / np.float32(beta), step / abs(beta))
    if isinstance(bias, str):
        return bias
    return _qgemm(node, [*a.inputs(), *b.inputs(), bias, *wanted.inputs()], wanted.node, wanted.parameters.dtype)


def _bias_row(model: ir.Model, node: ir.Node, unit: np.ndarray, step: float) -> ir.Value | str | None:
    value = _input(node, 2)
    if value is None:
        return None
    known = _floats(value)
    if known is None or (known.ndim > 1 and known.size != known.shape[-1]):
        return "the bias is not a known row"
    if unit.size > 1 and known.size == 1:
        return "one bias for columns of different scales"
    return _integer_bias(model, value, unit, step, f"{node.name}/bias")


def float_gemm(model: ir.Model, node: ir.Node) -> Made:
    """Gemm as QGemm without quantisation, plus its third input."""
    operands = _gemm_operands(model, node)
    if isinstance(operands, str):
        return operands
    a, b = operands
    beta, added = _real(node, "beta", 1.0), _input(node, 2)
    if added is not None and beta != 1.0:
        return "beta is not 1"
    result = _qgemm(node, [*a.inputs(), *b.inputs()], node, FLOAT)
    return result if added is None else qz.insert(node, "Add", [result, added], like=node.outputs[0], dtype=FLOAT)


def _qgemm(node: ir.Node, inputs: Sequence[ir.Value | None], after: ir.Node, dtype: ir.DataType) -> ir.Value:
    attributes = [a for a in node.attributes.values() if a.name in ("alpha", "transA", "transB")]
    return qz.insert(
        node, "QGemm", inputs, like=after.outputs[0], dtype=dtype, domain=qz.MS, version=1, attributes=attributes,
        name=f"{after.outputs[0].name}/QGemm",
    )  # fmt: skip


# Element by element, and pooling.


def _binary(name: str) -> Callable[[ir.Model, ir.Node, Output], Made]:
    def rule(model: ir.Model, node: ir.Node, wanted: Output) -> Made:
        a, b = (_activation(model, value) for value in node.inputs)
        if a is None or b is None or {a.parameters.dtype, b.parameters.dtype} != {wanted.parameters.dtype}:
            return "its operands are not bytes of the type of its result"
        return _made(wanted, node, name, [*a.inputs(), *b.inputs(), *wanted.inputs()], domain=qz.MS, version=1)

    return rule


def _through(name: str, *names: str) -> Callable[[ir.Model, ir.Node, Output], Made]:
    """A rule for an operator of one tensor, which keeps its attributes `names`."""

    def rule(model: ir.Model, node: ir.Node, wanted: Output) -> Made:
        x = _activation(model, node.inputs[0])
        if x is None or x.parameters.dtype != wanted.parameters.dtype:
            return "its input is not bytes of the type of its result"
        attributes = [a for a in node.attributes.values() if a.name in names]
        if name == "QLinearSoftmax":
            attributes.append(ir.AttrInt64("opset", version_of(node, model.opset_imports)))
            if "axis" not in node.attributes:
                attributes.append(ir.AttrInt64("axis", -1 if version_of(node, model.opset_imports) >= 13 else 1))
        inputs = [*x.inputs(), *wanted.inputs()]
        return _made(wanted, node, name, inputs, domain=qz.MS, version=1, attributes=attributes)

    return rule


def _average_pool(model: ir.Model, node: ir.Node, wanted: Output) -> Made:
    dilations = node.attributes.get("dilations")
    if dilations is not None and any(step != 1 for step in dilations.as_ints()):
        return "it has dilations"
    names = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")
    return _through("QLinearAveragePool", *names)(model, node, wanted)


def _spatial_mean(model: ir.Model, node: ir.Node, wanted: Output) -> Made:
    """ReduceMean over all positions of an image, which is what exporters make of global pooling.

    (The mean over the last axis of three may be one over features; these lie side by side, where pixels' channels do.)
    """
    x, axes = node.inputs[0], _input(node, 1)
    attribute = node.attributes.get("axes")
    given = list(attribute.as_ints()) if attribute is not None else []
    if axes is not None and axes.const_value is not None:
        given = qz.array_of(axes).ravel().tolist()
    rank = len(x.shape) if x is not None and x.shape is not None else 0
    if rank < 4 or sorted(axis % rank for axis in given) != list(range(2, rank)):
        return "it is no mean over all positions of an image"
    pooled = _through("QLinearGlobalAveragePool")(model, node, wanted)
    if isinstance(pooled, str) or qz.number(node, "keepdims", 1):
        return pooled
    pooled.shape = None
    return qz.insert(node, "Flatten", [pooled], like=wanted.node.outputs[0], dtype=wanted.parameters.dtype)


def _made(
    wanted: Output,
    node: ir.Node,
    operator: str,
    inputs: Sequence[ir.Value | None],
    *,
    domain: str = "",
    version: int | None = None,
    attributes: Sequence[ir.Attr] | object = (),
) -> ir.Value:
    """The new node in the place of `node`, with the type of the quantised output."""
    old = wanted.node.outputs[0]
    given = list(inputs) if inputs[-1] is not None else list(inputs[:-1])
    return qz.insert(
        node, operator, given, like=old, dtype=wanted.parameters.dtype, domain=domain, version=version,
        attributes=tuple(attributes), name=f"{old.name}/{operator}",  # type: ignore[arg-type]
    )  # fmt: skip


def _input(node: ir.Node, number: int) -> ir.Value | None:
    return node.inputs[number] if len(node.inputs) > number else None


def _real(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_float()


# Operator -> its form on bytes.
RULES: dict[str, Callable[[ir.Model, ir.Node, Output], Made]] = {
    "Conv": conv,
    "MatMul": matmul,
    "Gemm": gemm,
    "Add": _binary("QLinearAdd"),
    "Mul": _binary("QLinearMul"),
    "Sigmoid": _through("QLinearSigmoid"),
    "LeakyRelu": _through("QLinearLeakyRelu", "alpha"),
    "Softmax": _through("QLinearSoftmax", "axis"),
    "AveragePool": _average_pool,
    "GlobalAveragePool": _through("QLinearGlobalAveragePool"),
    "ReduceMean": _spatial_mean,
}
# Products -> their form with a float result.
PRODUCTS: dict[str, Callable[[ir.Model, ir.Node], Made]] = {
    "Conv": float_conv,
    "MatMul": float_matmul,
    "Gemm": float_gemm,
}

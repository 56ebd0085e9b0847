"""``weights-int4``: weights of products as 4 bits, in blocks; what they are multiplied by stays float.

MatMul and Gemm become com.microsoft.MatMulNBits, which ONNX Runtime, OpenVINO and Sardonyx run, or, as "qdq", the
standard's DequantizeLinear in blocks (opset 21). With data, "gptq" chooses integers by what they do to the outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir

from sardonyx.errors import OptimizationError
from sardonyx.optimizer.quantize.blocks import MIDDLE, Blocks, gptq_blocks, half_quadratic, nearest, pack
from sardonyx.optimizer.quantize.feeds import check_data
from sardonyx.optimizer.quantize.gram import descended, grams, matrix
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
from sardonyx.optimizer.quantize.plan import Product
from sardonyx.optimizer.quantize.write import write_weight
from sardonyx.optimizer.step import Applied, Context, Step, step

__all__ = ["WeightsInt4"]

MICROSOFT = "com.microsoft"
_LARGEST = 7  # of the integers of a convolution, by size


@dataclass
class Channels:
    """The weight of a convolution: int4, of its shape, and a scale for each output channel."""

    integers: np.ndarray
    scale: np.ndarray


@step("weights-int4")
@dataclass(frozen=True)
class WeightsInt4(Step):
    """Weights of 4 bits in blocks.

    Attributes:
        method: "rtn" (nearest), "hqq" (half-quadratic), "gptq" (needs data).
        block: inputs that share a scale: 16, 32, 64, 128 or 256.
        symmetric: no zero points: a little smaller, a little less exact.
        form: "nbits": MatMulNBits; "qdq": DequantizeLinear with blocks.
        convolutions: Conv, too: a scale for each output channel, always as DequantizeLinear; "gptq" stands for
            `rounding.descent` there.
        smallest: weights with fewer elements stay in float.
        skip: names of nodes whose weights stay in float.
    """

    method: str = "hqq"
    block: int = 32
    symmetric: bool = False
    form: str = "nbits"
    convolutions: bool = False
    smallest: int = 4096
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        one_of("method", self.method, ("rtn", "hqq", "gptq"))
        one_of("block", self.block, (16, 32, 64, 128, 256))
        one_of("form", self.form, ("nbits", "qdq"))

    def apply(self, model: ir.Model, context: Context) -> Applied:
        """See `Step.apply`.

        Raises:
            OptimizationError: "gptq" without data.
        """
        work = editable(model, 21 if self.form == "qdq" or self.convolutions else 7)
        products, kept = [], list[tuple[str, str]]()
        for node in work.graph:
            reason = self._why_not(node)
            if reason is None:
                products.append(Product(node, (0,), 1, None))
            elif reason:
                kept.append((str(node.name), reason))
        notes = [*unknown(work, self.skip), *summary(kept)]
        if not products:
            return Applied(model, False, [*notes, "there is no weight to store as int4"])
        # All matrices come from the model as it was, so writing may begin only when the last one is known.
        for product, rounded in list(self._rounded(work, products, context)):
            self._write(product.node, rounded)
        if any(node.domain == MICROSOFT for node in work.graph):
            work.opset_imports[MICROSOFT] = 1
        return Applied(finish(work), True, [*notes, f"{len(products)} weights are stored as int4"])

    def _why_not(self, node: ir.Node) -> str | None:
        """None: it can be stored; "": it is no product of a constant."""
        if not is_op(node, "MatMul", "Gemm", *(["Conv"] if self.convolutions else [])):
            return ""
        array = array_of(node.inputs[1])
        if array is None:
            return ""
        if node.name in self.skip:
            return "as asked"
        if array.dtype != np.float32 or (array.ndim != 2 and not is_op(node, "Conv")):
            return "its weight is no float32 matrix"
        if is_op(node, "Gemm") and int_of(node, "transA"):
            return "its input is transposed"
        if array.size < self.smallest:
            return "its weight is small"
        value = node.inputs[1]
        assert value is not None
        if value.is_graph_output() or any(usage.idx != 1 for usage in value.uses()):
            return "its weight is read elsewhere, too, as floats"
        return None if np.isfinite(array).all() else "its weight holds NaN or infinity"

    def _rounded(
        self, model: ir.Model, products: list[Product], context: Context
    ) -> Iterator[tuple[Product, Blocks | Channels]]:
        if self.method != "gptq":
            yield from ((product, self._one(product, None)) for product in products)
            return
        if context.data is None:
            hint = "Give data, or choose method hqq, which needs none."
            raise OptimizationError("gptq needs calibration data", hint=hint)
        check_data(model, context.data)
        for number, (product, H) in enumerate(grams(model, products, context.data)):
            context.progress(f"gptq {number + 1}/{len(products)}")
            yield product, self._one(product, H)

    def _one(self, product: Product, H: np.ndarray | None) -> Blocks | Channels:
        """One weight in few bits; `H` holds the Gram matrices of its groups, for "gptq"."""
        array = _weight(product.node)
        rows = matrix(product, array)
        if is_op(product.node, "Conv"):
            return _channels(product, array, H)
        if H is not None:
            return gptq_blocks(rows[0], H[0], self.block, self.symmetric)
        method = nearest if self.method == "rtn" else half_quadratic
        return method(rows[0], self.block, self.symmetric)

    def _write(self, node: ir.Node, blocks: Blocks | Channels) -> None:
        graph, old = node.graph, node.outputs[0]
        assert isinstance(graph, ir.Graph)
        name = str(node.inputs[1].name)  # type: ignore[union-attr]
        if isinstance(blocks, Channels):
            node.replace_input_with(1, write_weight(node, name, blocks.integers, blocks.scale, 0))
            return
        if self.form == "qdq":
            node.replace_input_with(1, self._block_weight(node, name, blocks))
            return
        rows, _, block = blocks.integers.shape
        inputs = [
            node.inputs[0],
            add_constant(graph, f"{name}.int4", pack(blocks.integers)),
            add_constant(graph, f"{name}.scale", blocks.scale.reshape(-1)),
        ]
        if not self.symmetric:
            inputs.append(add_constant(graph, f"{name}.zero", pack(blocks.zero).reshape(-1)))
        attributes = {"K": blocks.columns, "N": rows, "bits": 4, "block_size": block}
        result = add_node(node, "MatMulNBits", inputs, f"{node.name}.int4", attributes, domain=MICROSOFT, like=old)
        for factor, value, operator in _rest_of_gemm(node):
            result = add_node(node, operator, [result, value], f"{node.name}.{factor}", like=old)
        replace_output(old, result)
        graph.remove(node, safe=True)

    def _block_weight(self, node: ir.Node, name: str, blocks: Blocks) -> ir.Value:
        """The weight in its own orientation, as 4-bit integers and the DequantizeLinear that widens them."""
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        transposed = bool(is_op(node, "Gemm") and int_of(node, "transB"))
        axis = 1 if transposed else 0
        integers = blocks.integers.reshape(len(blocks.integers), -1)[:, : blocks.columns]
        dtype, offset = (ml_dtypes.int4, MIDDLE) if self.symmetric else (ml_dtypes.uint4, 0)
        arrays = [(integers.astype(np.int8) - offset).astype(dtype), blocks.scale,
                  (blocks.zero.astype(np.int8) - offset).astype(dtype)]  # fmt: skip
        arrays = [array if transposed else np.ascontiguousarray(array.T) for array in arrays]
        inputs = [
            add_constant(graph, f"{name}.{part}", array) for part, array in zip(("int4", "scale", "zero"), arrays)
        ]
        value = node.inputs[1]
        assert value is not None
        attributes = {"axis": axis, "block_size": self.block}
        return add_node(node, "DequantizeLinear", inputs, f"{name}.dq", attributes, like=value)


def _weight(node: ir.Node) -> np.ndarray:
    array = array_of(node.inputs[1])
    assert array is not None
    return array


def _channels(product: Product, array: np.ndarray, H: np.ndarray | None) -> Channels:
    scale = channel_scales(array, 0, _LARGEST, search=True)
    scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
    if H is None:
        return Channels(round_weight(array, scale, 0, _LARGEST).astype(ml_dtypes.int4), scale)
    return Channels(descended(product, array, scale, H, _LARGEST).astype(ml_dtypes.int4), scale)


def _rest_of_gemm(node: ir.Node) -> Iterator[tuple[str, ir.Value, str]]:
    """What a Gemm does to the product: times alpha, plus beta * bias; as (name, operand, operator)."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    if not is_op(node, "Gemm"):
        return
    alpha, beta = (node.attributes.get_float(key, 1.0) for key in ("alpha", "beta"))
    if alpha != 1.0:
        yield "alpha", add_constant(graph, f"{node.name}.alpha", np.asarray(alpha, np.float32)), "Mul"
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None:
        return
    if beta != 1.0:
        factor = add_constant(graph, f"{node.name}.beta", np.asarray(beta, np.float32))
        bias = add_node(node, "Mul", [bias, factor], f"{node.name}.bias", like=bias)
    yield "sum", bias, "Add"

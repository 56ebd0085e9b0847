"""``weights-int8``: weights are stored as 8 bits and become floats again when the model is loaded.

The file is four times smaller, arithmetic and speed stay what they were. Rows of tables that are looked up (Gather)
have a scale each; only the rows that are looked up become floats.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sardonyx.errors import OptimizationError
from sardonyx.optimizer.quantize.feeds import check_data
from sardonyx.optimizer.quantize.gram import descended, grams
from sardonyx.optimizer.quantize.graph import (
    add_constant,
    add_node,
    array_of,
    consumers,
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
from sardonyx.optimizer.quantize.plan import Product, weight_axis
from sardonyx.optimizer.quantize.recurrent import RECURRENT, place_of, recurrent_layers
from sardonyx.optimizer.quantize.write import write_weight
from sardonyx.optimizer.step import Applied, Context, Step, step

__all__ = ["WeightsInt8"]

_PLACES = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gemm": (1,),
    "MatMul": (0, 1),
    **dict.fromkeys(RECURRENT, (1, 2)),
}


@step("weights-int8")
@dataclass(frozen=True)
class WeightsInt8(Step):
    """Weights of 8 bits.

    Attributes:
        per_channel: a scale for each output channel; False: one for a weight.
        weight_scale: "max": the largest weight is the end of the scale; "mse": least squared error.
        rounding: "nearest", or "descent": what changes the outputs of a layer least, which needs data; see
            `rounding.descent`. Recurrent layers and tables are rounded to the nearest.
        embeddings: tables that Gather looks into, too.
        smallest: weights with fewer elements stay in float.
        skip: names of nodes whose weights stay in float.
    """

    per_channel: bool = True
    weight_scale: str = "max"
    rounding: str = "nearest"
    embeddings: bool = True
    smallest: int = 1024
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        one_of("weight_scale", self.weight_scale, ("max", "mse"))
        one_of("rounding", self.rounding, ("nearest", "descent"))

    def apply(self, model: ir.Model, context: Context) -> Applied:
        """See `Step.apply`.

        Raises:
            OptimizationError: "descent" without data.
        """
        work = editable(model, 13)
        done, kept = 0, list[tuple[str, str]]()
        better = self._descended(work, context)
        stored: dict[tuple, ir.Value] = {}
        inside = [node for node in recurrent_layers(work) if node.graph is not work.graph]
        for node in [*work.graph, *inside]:
            if self.embeddings and is_op(node, "Gather"):
                done += self._table(node)
                continue
            for at in _PLACES.get(node.op_type, ()) if node.domain == "" else ():
                reason = self._why_not(node, at)
                if reason:
                    kept.append((str(node.name), reason))
                elif reason is None:
                    self._store(work, node, at, stored, better)
                    done += 1
        notes = [*unknown(work, self.skip), *summary(kept)]
        if not done:
            return Applied(model, False, [*notes, "there is no weight to store as int8"])
        return Applied(finish(work), True, [*notes, f"{done} weights are stored as int8"])

    def _why_not(self, node: ir.Node, at: int) -> str | None:
        """None: it can be stored; "": there is no weight."""
        value = node.inputs[at] if at < len(node.inputs) else None
        array = array_of(value)
        if array is None or array.dtype != np.float32 or array.ndim < 2:
            return ""
        if node.name in self.skip:
            return "as asked"
        if array.size < self.smallest:
            return ""
        if not _only_weight(value):
            return "its weight is read elsewhere, too, as floats"
        return None if np.isfinite(array).all() else "its weight holds NaN or infinity"

    def _descended(self, model: ir.Model, context: Context) -> dict[ir.Node, np.ndarray]:
        """The integers that `rounding.descent` finds, for layers whose weights nothing else reads."""
        if self.rounding == "nearest":
            return {}
        if context.data is None:
            raise OptimizationError(
                "rounding by descent needs calibration data", hint="Give data, or choose rounding nearest."
            )
        check_data(model, context.data)
        products = [
            Product(node, (0,), 1, None)
            for node in model.graph
            if is_op(node, "Conv", "Gemm", "MatMul") and self._why_not(node, 1) is None
        ]
        products = [product for product in products if len(consumers(_weight_of(product))) == 1]
        found = {}
        for number, (product, H) in enumerate(grams(model, products, context.data)):
            context.progress(f"rounding {number + 1}/{len(products)}")
            array = array_of(product.node.inputs[1])
            assert array is not None
            _, scale = self._integers(array, self._axis(product.node, 1))
            found[product.node] = descended(product, array, scale, H)
        return found

    def _store(
        self, model: ir.Model, node: ir.Node, at: int, stored: dict[tuple, ir.Value], better: dict[ir.Node, np.ndarray]
    ) -> None:
        value, array = node.inputs[at], array_of(node.inputs[at])
        assert value is not None
        assert array is not None
        axis = self._axis(node, at)
        key = (value, axis)
        if key not in stored:
            integers, scale = self._integers(array, axis)
            integers = better.get(node, integers)
            stored[key] = write_weight(place_of(model, node), str(value.name), integers, scale, axis)
        node.replace_input_with(at, stored[key])

    def _axis(self, node: ir.Node, at: int) -> int | None:
        if not self.per_channel:
            return None
        if is_op(node, *RECURRENT):  # [directions, gates * hidden, inputs]
            return 1
        return weight_axis(Product(node, (1 - at,), at, None))

    def _integers(self, array: np.ndarray, axis: int | None) -> tuple[np.ndarray, np.ndarray]:
        scale = channel_scales(array, axis, search=self.weight_scale == "mse")
        scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
        return round_weight(array, scale, axis), scale

    def _table(self, node: ir.Node) -> bool:
        """Rows of integers, looked up together with their scales."""
        value, array = node.inputs[0], array_of(node.inputs[0])
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        if value is None or array is None or array.dtype != np.float32 or array.ndim != 2 or array.size < self.smallest:
            return False
        if int_of(node, "axis") != 0 or node.name in self.skip or not np.isfinite(array).all():
            return False
        if not all(is_op(usage.node, "Gather") and usage.idx == 0 for usage in value.uses()):
            return False  # the floats are needed anyway
        integers, scale = self._integers(array, 0)
        name, old, rows = str(value.name), node.outputs[0], node.inputs[1]
        table = add_constant(graph, f"{name}.int8", integers)
        scales = add_constant(graph, f"{name}.scale", scale.reshape(-1, 1))
        found = add_node(node, "Gather", [table, rows], f"{node.name}.int8", like=old, dtype=ir.DataType.INT8)
        floats = add_node(node, "Cast", [found], f"{node.name}.floats", {"to": int(ir.DataType.FLOAT)}, like=old)
        factors = add_node(node, "Gather", [scales, rows], f"{node.name}.scales")
        factors.type = old.type
        replace_output(old, add_node(node, "Mul", [floats, factors], f"{node.name}.rows", like=old))
        graph.remove(node, safe=True)
        return True


def _weight_of(product: Product) -> ir.Value:
    value = product.node.inputs[1]
    assert value is not None
    return value


def _only_weight(value: ir.Value | None) -> bool:
    """Whether the floats are needed by nothing but products."""
    assert value is not None
    places = [usage.idx in _PLACES.get(usage.node.op_type, ()) and not usage.node.domain for usage in value.uses()]
    return all(places) and not value.is_graph_output()

"""``static-int8``: weights and activations of 8 bits, their scales fixed by calibration; standard ONNX (QDQ).

What is quantised: see `plan.py`. How ranges are chosen: see `ranges.py`. B. Jacob et al., "Quantization and training of
neural networks for efficient integer-arithmetic-only inference", arXiv:1712.05877.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from sardonyx.optimizer.data import Data
from sardonyx.optimizer.fold import fold_batch_normalization
from sardonyx.optimizer.quantize.calibration import Method, calibrate
from sardonyx.optimizer.quantize.correction import mean_shifts
from sardonyx.optimizer.quantize.feeds import calibration_data
from sardonyx.optimizer.quantize.gram import descended, grams
from sardonyx.optimizer.quantize.graph import (
    array_of,
    consumers,
    editable,
    finish,
    int_of,
    is_op,
    unknown,
)
from sardonyx.optimizer.quantize.numbers import SMALLEST, Grid, channel_scales, round_weight, scale_shape
from sardonyx.optimizer.quantize.parameters import between, one_of
from sardonyx.optimizer.quantize.plan import Choice, Plan, Product, make_plan, weight_axis
from sardonyx.optimizer.quantize.ranges import METHODS
from sardonyx.optimizer.quantize.write import Weight, write_qdq
from sardonyx.optimizer.step import Applied, Context, Step, step

__all__ = ["Decision", "StaticInt8"]

_BIAS_LIMIT = 2.0**29  # a bias in units of both scales stays below it: less than 2^30, which integer kernels want


@dataclass
class Decision:
    """A model in float, and what is to become of it.

    Attributes:
        model: a copy, batch normalisation folded.
        plan: what is rounded.
        grids: to what, for each value of the plan.
        weights: and each weight.
        notes: what the user should know.
    """

    model: ir.Model
    plan: Plan
    grids: dict[ir.Value, Grid]
    weights: dict[ir.Node, Weight]
    notes: list[str]


@step("static-int8")
@dataclass(frozen=True)
class StaticInt8(Step):
    """Static quantisation to 8 bits.

    Attributes:
        activations: uint8 or int8.
        symmetric: the zero point of activations is the middle.
        per_channel: a scale for each output channel of a weight; False: one for all.
        calibration: how the range of an activation is chosen: minmax, percentile, entropy, mse.
        percentile: of values that are kept, for "percentile".
        weight_scale: "max": the largest weight is the end of the scale; "mse": least squared error.
        rounding: of weights. "nearest", or "descent": what changes the outputs least, see `rounding.descent`.
        bias_correction: biases take back the mean shift that rounded weights cause, see `correction.py`.
        reduce_range: weights of 7 bits, which cannot overflow where pairs of products are added in 16 bits (other
            runtimes, on AVX2 without VNNI).
        skip, skip_first, skip_last, dynamic_products, share_concat, integer_outputs: see `plan.Choice`.
    """

    activations: str = "uint8"
    symmetric: bool = False
    per_channel: bool = True
    calibration: str = "minmax"
    percentile: float = 99.99
    weight_scale: str = "max"
    rounding: str = "nearest"
    bias_correction: bool = False
    reduce_range: bool = False
    skip: tuple[str, ...] = ()
    skip_first: bool = False
    skip_last: bool = False
    dynamic_products: bool = False
    share_concat: bool = False
    integer_outputs: bool = False

    def __post_init__(self) -> None:
        one_of("activations", self.activations, ("uint8", "int8"))
        one_of("calibration", self.calibration, METHODS)
        one_of("weight_scale", self.weight_scale, ("max", "mse"))
        one_of("rounding", self.rounding, ("nearest", "descent"))
        between("percentile", self.percentile, 50, 100)

    def apply(self, model: ir.Model, context: Context) -> Applied:
        """See `Step.apply`; without data, ranges come from random inputs and from batch normalisation."""
        found = self.decide(model, context)
        if not found.plan.products:
            return Applied(model, False, [*found.notes, "there is no product to quantise"])
        write_qdq(found.model, found.plan, found.grids, found.weights)
        return Applied(finish(found.model), True, [*found.notes, f"{len(found.plan.products)} products are int8"])

    def decide(self, model: ir.Model, context: Context) -> Decision:
        """Everything but writing it down.

        Raises:
            InputError: the data do not fit.
            OptimizationError: the model cannot be brought to opset 13, or be run.
        """
        work = editable(model, 13)
        statistics = fold_batch_normalization(work)
        plan = make_plan(work, self._choice())
        notes = [*unknown(work, self.skip), *plan.notes]
        if not plan.products:
            return Decision(work, plan, {}, {}, notes)
        context.progress("calibration")
        data = calibration_data(work, context, notes)
        method = Method(self.calibration, self.percentile, self.activations, self.symmetric)
        grids = calibrate(work, plan, data, method, statistics, notes)
        context.progress("weights")
        weights = self._weights(plan, grids)
        if self.rounding == "descent":
            self._improve(work, plan, weights, data, context)
        if self.bias_correction:
            context.progress("bias correction")
            self._correct(work, plan, grids, weights, data, notes)
        return Decision(work, plan, grids, weights, notes)

    def _choice(self) -> Choice:
        fields: dict[str, Any] = {name: getattr(self, name) for name in Choice.__dataclass_fields__}
        return Choice(**fields)

    @property
    def _limit(self) -> int:
        return 63 if self.reduce_range else 127

    def _weights(self, plan: Plan, grids: dict[ir.Value, Grid]) -> dict[ir.Node, Weight]:
        found = {}
        for product in plan.products:
            if product.weight is None:
                continue
            array = _array(product)
            bias = None if product.bias is None else array_of(product.node.inputs[product.bias])
            axis = weight_axis(product) if self.per_channel else None
            (at,) = product.data
            scale = self._scale(product, array, axis, bias, grids[product.node.inputs[at]])  # type: ignore[index]
            found[product.node] = Weight(round_weight(array, scale, axis, self._limit), scale, axis, bias)
        return found

    def _improve(
        self, model: ir.Model, plan: Plan, weights: dict[ir.Node, Weight], data: Data, context: Context
    ) -> None:
        """Better integers for the weights of one node each; the scales stay."""
        products = [product for product in plan.products if product.node in weights and _alone(product)]
        for number, (product, H) in enumerate(grams(model, products, data)):
            context.progress(f"rounding {number + 1}/{len(products)}")
            weight = weights[product.node]
            weight.integers = descended(product, _array(product), weight.scale, H, self._limit)

    def _correct(
        self,
        model: ir.Model,
        plan: Plan,
        grids: dict[ir.Value, Grid],
        weights: dict[ir.Node, Weight],
        data: Data,
        notes: list[str],
    ) -> None:
        """Take the mean shifts from the biases, of the products that have one or can be given one."""
        able = [p for p in plan.products if p.node in weights and (p.bias is not None or _may_get_bias(p))]
        if len(able) < len(weights):
            notes.append(f"{len(weights) - len(able)} products have no bias that could be corrected")
        errors = {}
        for product in able:
            weight, array = weights[product.node], _array(product)
            steps = weight.scale.reshape(scale_shape(array.ndim, weight.axis))
            errors[product] = weight.integers * steps - array
        for node, shift in mean_shifts(model, errors, data).items():
            weight = weights[node]
            weight.bias = -shift if weight.bias is None else weight.bias - shift

    def _scale(
        self, product: Product, array: np.ndarray, axis: int | None, bias: np.ndarray | None, grid: Grid
    ) -> np.ndarray:
        """Scales of a weight, large enough for the bias to fit into int32, and for channels of zeros."""
        scale = channel_scales(array, axis, self._limit, self.weight_scale == "mse")
        if bias is not None:
            size = np.abs(bias) if axis is not None else np.max(np.abs(bias), initial=0.0)
            scale = np.maximum(scale, size / (float(grid.scale) * _BIAS_LIMIT))
        return np.where(scale > 0, np.maximum(scale, SMALLEST), 1.0).astype(np.float32)


def _array(product: Product) -> np.ndarray:
    assert product.weight is not None
    array = array_of(product.node.inputs[product.weight])
    assert array is not None
    return array


def _alone(product: Product) -> bool:
    """Whether no other node reads the weight, which would then be stored twice."""
    assert product.weight is not None
    value = product.node.inputs[product.weight]
    return value is not None and len(consumers(value)) == 1


def _may_get_bias(product: Product) -> bool:
    node = product.node
    free = len(node.inputs) < 3 or node.inputs[2] is None
    if is_op(node, "Gemm"):
        return free and node.attributes.get_float("alpha", 1.0) == 1.0 and node.attributes.get_float("beta", 1.0) == 1.0
    return free and (is_op(node, "Conv") or (is_op(node, "ConvTranspose") and int_of(node, "group", 1) == 1))

"""``static-int8``: weights and activations of 8 bits, their scales fixed by calibration; standard ONNX (QDQ).

What is quantised: see `plan.py`. How ranges are chosen: see `ranges.py`. B. Jacob et al., "Quantization and training of
neural networks for efficient integer-arithmetic-only inference", arXiv:1712.05877.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from sardonyx.optimizer.quantize.calibration import Method, calibrate
from sardonyx.optimizer.quantize.feeds import calibration_data
from sardonyx.optimizer.quantize.graph import array_of, editable, finish, fold_batch_norm
from sardonyx.optimizer.quantize.numbers import SMALLEST, Grid, channel_scales, round_weight
from sardonyx.optimizer.quantize.parameters import between, one_of
from sardonyx.optimizer.quantize.plan import Choice, Plan, Product, make_plan, weight_axis
from sardonyx.optimizer.quantize.ranges import METHODS
from sardonyx.optimizer.quantize.write import Weight, write_qdq
from sardonyx.optimizer.step import Applied, Context, Step, step

__all__ = ["StaticInt8"]

_BIAS_LIMIT = 2.0**30  # a bias in units of both scales stays below it, and leaves room for the sum


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
        between("percentile", self.percentile, 50, 100)

    def apply(self, model: ir.Model, context: Context) -> Applied:
        """See `Step.apply`; without data, ranges come from random inputs and from batch normalisation."""
        work = editable(model, 13)
        statistics = fold_batch_norm(work)
        plan = make_plan(work, self._choice())
        notes = plan.notes
        if not plan.products:
            return Applied(model, False, [*notes, "there is no product to quantise"])
        context.progress("calibration")
        data = calibration_data(work, context, notes)
        method = Method(self.calibration, self.percentile, self.activations, self.symmetric)
        grids = calibrate(work, plan, data, method, statistics, notes)
        context.progress("weights")
        weights = self._weights(plan, grids)
        write_qdq(work, plan, grids, weights)
        notes.append(f"{len(plan.products)} products are int8")
        return Applied(finish(work), True, notes)

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
            array, bias = (None if at is None else array_of(product.node.inputs[at])
                           for at in (product.weight, product.bias))  # fmt: skip
            assert array is not None
            axis = weight_axis(product) if self.per_channel else None
            (at,) = product.data
            scale = self._scale(product, array, axis, bias, grids[product.node.inputs[at]])  # type: ignore[index]
            found[product.node] = Weight(round_weight(array, scale, axis, self._limit), scale, axis, bias)
        return found

    def _scale(
        self, product: Product, array: np.ndarray, axis: int | None, bias: np.ndarray | None, grid: Grid
    ) -> np.ndarray:
        """Scales of a weight, large enough for the bias to fit into int32, and for channels of zeros."""
        scale = channel_scales(array, axis, self._limit, self.weight_scale == "mse")
        if bias is not None:
            size = np.abs(bias) if axis is not None else np.max(np.abs(bias), initial=0.0)
            scale = np.maximum(scale, size / (float(grid.scale) * _BIAS_LIMIT))
        return np.where(scale > 0, np.maximum(scale, SMALLEST), 1.0).astype(np.float32)

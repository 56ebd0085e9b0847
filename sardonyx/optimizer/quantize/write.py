"""Write what was decided into the graph: QuantizeLinear and DequantizeLinear around what becomes integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sardonyx.optimizer.quantize.graph import add_constant, add_node
from sardonyx.optimizer.quantize.numbers import Grid
from sardonyx.optimizer.quantize.plan import Plan, Product

__all__ = ["Weight", "write_qdq", "write_value", "write_weight"]


@dataclass
class Weight:
    """A quantised weight and the bias that goes with it.

    Attributes:
        integers: int8, of the weight's shape.
        scale: float32, one for each index of `axis`, or one.
        axis: see `plan.weight_axis`; None: one scale.
        bias: float32; None: there is none, or it stays as it is.
    """

    integers: np.ndarray
    scale: np.ndarray
    axis: int | None
    bias: np.ndarray | None


def write_qdq(model: ir.Model, plan: Plan, grids: Mapping[ir.Value, Grid], weights: Mapping[ir.Node, Weight]) -> None:
    """Let values of `plan` pass through QuantizeLinear and DequantizeLinear; weights become int8, biases int32."""
    read = {product.node: product.node.inputs[product.data[0]] for product in plan.products}
    for value, readers in plan.values.items():
        if readers:
            write_value(value, readers, grids[value])
    stored: dict[tuple, ir.Value] = {}
    for product in plan.products:
        if product.weight is None:
            continue
        weight = weights[product.node]
        at = product.weight
        name = str(product.node.inputs[at].name)  # type: ignore[union-attr]
        key = (name, weight.axis, weight.scale.tobytes(), weight.integers.tobytes())
        if key not in stored:
            stored[key] = write_weight(product.node, name, weight.integers, weight.scale, weight.axis)
        product.node.replace_input_with(at, stored[key])
        if weight.bias is not None:
            source = read[product.node]
            assert source is not None
            _write_bias(product, weight, grids[source])


def write_value(value: ir.Value, readers: list[ir.Node], grid: Grid) -> ir.Value:
    """Let `readers` read `value` rounded to `grid`; all others, and the outputs of the graph, read it as it is."""
    graph = readers[0].graph
    assert isinstance(graph, ir.Graph)
    name = str(value.name)
    scale = add_constant(graph, f"{name}.scale", np.asarray(grid.scale, np.float32))
    zero = add_constant(graph, f"{name}.zero", np.asarray(grid.zero, grid.dtype))
    dtype = ir.DataType.from_numpy(np.dtype(grid.dtype))
    places: dict[ir.Node, list[int]] = {}
    for usage in value.uses():
        if usage.node in readers:
            places.setdefault(usage.node, []).append(usage.idx)
    integers = add_node(readers[0], "QuantizeLinear", [value, scale, zero], f"{name}.q", like=value, dtype=dtype)
    rounded = add_node(readers[0], "DequantizeLinear", [integers, scale, zero], f"{name}.dq", like=value)
    for node, positions in places.items():
        for at in positions:
            node.replace_input_with(at, rounded)
    return rounded


def write_weight(before: ir.Node, name: str, integers: np.ndarray, scale: np.ndarray, axis: int | None) -> ir.Value:
    """A constant of integers and the DequantizeLinear that makes floats of it.

    There is no zero point, which means 0: written out, those of biases are a tenth of a small network's file.
    """
    graph = before.graph
    assert isinstance(graph, ir.Graph)
    inputs = [
        add_constant(graph, f"{name}.{integers.dtype.name}", integers),
        add_constant(graph, f"{name}.scale", np.asarray(scale, np.float32)),
    ]
    output = add_node(
        before, "DequantizeLinear", inputs, f"{name}.dq", None if axis is None else {"axis": axis},
        like=inputs[0], dtype=ir.DataType.FLOAT,
    )  # fmt: skip
    return output


def _write_bias(product: Product, weight: Weight, grid: Grid) -> None:
    """In units of both scales, so that it can be added to the sums of integers."""
    assert weight.bias is not None
    at = 2 if product.bias is None else product.bias
    if len(product.node.inputs) <= at:
        product.node.resize_inputs(at + 1)
    old = product.node.inputs[at]
    scale = np.asarray(grid.scale * weight.scale, np.float32)
    limit = 2**31 - 1
    integers = np.clip(np.rint(weight.bias.astype(np.float64) / scale), -limit, limit).astype(np.int32)
    name = f"{product.node.name}.bias" if old is None else str(old.name)
    axis = None if weight.axis is None else 0
    product.node.replace_input_with(at, write_weight(product.node, name, integers, scale, axis))

"""How much each layer costs in signal-to-noise when it is quantised, and what it gains.

The model is compiled once, with every layer in it twice: in float, and with its input and weight rounded. An input of
switches says, for each run, which of the two counts, so N layers take N runs and no further compilation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from sardonyx.model.schemas import operator_name
from sardonyx.optimizer.data import Data
from sardonyx.optimizer.quantize.feeds import QUIET, calibration_data
from sardonyx.optimizer.quantize.graph import add_constant, add_node, array_of
from sardonyx.optimizer.quantize.numbers import scale_shape
from sardonyx.optimizer.quantize.plan import Product
from sardonyx.optimizer.quantize.static_int8 import Decision, StaticInt8
from sardonyx.optimizer.step import Context
from sardonyx.runtime.options import SessionOptions
from sardonyx.runtime.session import Session

__all__ = ["Sensitivity", "sensitivity"]

_EXACT = 200.0  # dB that stand for "no difference"
_SWITCHES = "sardonyx.switches"
_SAMPLES = 4


@dataclass(frozen=True)
class Sensitivity:
    """One layer.

    Attributes:
        node: its name.
        operator: with version, such as ``Conv-11``.
        snr: dB of the model's outputs (the worst of them) when this layer alone is quantised; or, for
            ``all_but=True``, when all others are. 200: no difference.
        bytes_saved: by storing its weight as int8.
        milliseconds: that its node takes in float now, the most that there is to gain; 0 where it was not measured.
    """

    node: str
    operator: str
    snr: float
    bytes_saved: int
    milliseconds: float

    def to_json(self) -> dict[str, Any]:
        """The fields, by name."""
        return asdict(self)


def sensitivity(
    model: ir.Model,
    context: Context,
    step: StaticInt8 | None = None,
    *,
    all_but: bool = False,
    samples: int = _SAMPLES,
) -> list[Sensitivity]:
    """What it costs to quantise each product of `model`, the most expensive first.

    What lies between products (pooling, sums) stays in float here; it follows the products and costs little.

    Args:
        model: the model in float; it is not changed.
        context: data to calibrate and to measure with; see `Step`.
        step: how layers are quantised; None: `StaticInt8` as it is by default.
        all_but: quantise all other layers instead; the layers that hurt come first then, too.
        samples: at most so many samples of the data are measured with.

    Returns:
        A row for each product that `step` quantises; none if there is none.

    Raises:
        InputError: the data do not fit the model.
        SardonyxError: the model cannot be compiled or run.
    """
    found = (step or StaticInt8()).decide(model, context)
    if not found.plan.products:
        return []
    data = calibration_data(found.model, context, [])
    some = Data(data.feeds[:samples])
    times = _times(model, some)
    rows = [(product, str(product.node.name), operator_name(product.node, found.model.opset_imports), _saved(product))
            for product in found.plan.products]  # fmt: skip
    context.progress("sensitivity")
    ratios = _measure(found, some, all_but, context)
    result = [
        Sensitivity(name, operator, ratio, saved, times.get(name, 0.0))
        for (_, name, operator, saved), ratio in zip(rows, ratios, strict=True)
    ]
    return sorted(result, key=lambda row: -row.snr if all_but else row.snr)


def _saved(product: Product) -> int:
    array = None if product.weight is None else array_of(product.node.inputs[product.weight])
    return 0 if array is None else 3 * array.size


def _times(model: ir.Model, data: Data) -> dict[str, float]:
    """Milliseconds of each node; nodes that are computed within another one have none."""
    session = Session(model, SessionOptions(progress=False, profile=True))
    feeds = {port.name: data.feeds[0][port.name] for port in session.inputs}
    for _ in range(3):
        session.run(feeds)
    times: dict[str, float] = {}
    for step in session.profile().steps:
        times[step.name] = times.get(step.name, 0.0) + step.milliseconds
    return times


def _measure(found: Decision, data: Data, all_but: bool, context: Context) -> list[float]:
    products = found.plan.products
    _insert_switches(found)
    session = Session(found.model, QUIET)
    names = [port.name for port in session.inputs if port.name != _SWITCHES]
    worst = np.full(len(products), _EXACT)
    noise: list[list[np.ndarray]] = [[] for _ in products]
    signal: list[np.ndarray] = []
    for feeds in data:
        given = {name: feeds[name] for name in names}
        expected = _run(session, given, np.zeros(len(products), bool))
        signal.append(np.array([_power(array) for array in expected]))
        for number in range(len(products)):
            switches = np.full(len(products), all_but)
            switches[number] = not all_but
            actual = _run(session, given, switches)
            noise[number].append(np.array([_power(b - a) for a, b in zip(expected, actual, strict=True)]))
    total = np.sum(signal, axis=0)
    for number, parts in enumerate(noise):
        lost = np.sum(parts, axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.where(lost > 0, 10 * np.log10(np.maximum(total, 1e-300) / lost), _EXACT)
        worst[number] = min(_EXACT, float(np.min(ratios, initial=_EXACT)))
    return [float(value) for value in worst]


def _run(session: Session, feeds: dict[str, np.ndarray], switches: np.ndarray) -> list[np.ndarray]:
    """The outputs that are numbers, float64; those that are floats, if there are any."""
    values = [
        np.asarray(value) for value in session.run(feeds | {_SWITCHES: switches}) if isinstance(value, np.ndarray)
    ]
    floats = [value for value in values if value.dtype.kind not in "biuOSU"]
    return [value.astype(np.float64) for value in floats or [value for value in values if value.dtype.kind in "biu"]]


def _power(x: np.ndarray) -> float:
    return float(np.sum(np.square(np.nan_to_num(x))))


def _insert_switches(found: Decision) -> None:
    """Give each product a rounded twin, and let a switch choose."""
    graph, products = found.model.graph, found.plan.products
    shape = ir.Shape([len(products)])
    switches = ir.Value(name=_SWITCHES, type=ir.TensorType(ir.DataType.BOOL), shape=shape)
    graph.inputs.append(switches)
    for number, product in enumerate(products):
        node = product.node
        at = add_constant(graph, f"{node.name}.number", np.asarray(number, np.int64))
        switch = add_node(node, "Gather", [switches, at], f"{node.name}.switch")
        switch.type, switch.shape = ir.TensorType(ir.DataType.BOOL), ir.Shape([])
        old = node.outputs[0]
        readers = [(usage.node, usage.idx) for usage in old.uses()]
        twin = _twin(found, product)
        _choose(graph, old, switch, twin, readers)
    graph.sort()


def _twin(found: Decision, product: Product) -> ir.Value:
    node = product.node
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    inputs: list[ir.Value | None] = list(node.inputs)
    for at in product.data:
        value = node.inputs[at]
        assert value is not None
        grid = found.grids[_original(value)]
        scale = add_constant(graph, f"{node.name}.scale", np.asarray(grid.scale, np.float32))
        zero = add_constant(graph, f"{node.name}.zero", np.asarray(grid.zero, grid.dtype))
        dtype = ir.DataType.from_numpy(np.dtype(grid.dtype))
        integers = add_node(
            node, "QuantizeLinear", [value, scale, zero], f"{node.name}.integers", like=value, dtype=dtype
        )
        inputs[at] = add_node(node, "DequantizeLinear", [integers, scale, zero], f"{node.name}.rounded", like=value)
    if product.weight is not None:
        weight = found.weights[node]
        steps = weight.scale.reshape(scale_shape(weight.integers.ndim, weight.axis))
        inputs[product.weight] = add_constant(graph, f"{node.name}.weight", weight.integers * steps)
        if weight.bias is not None:
            inputs = [*inputs[:2], add_constant(graph, f"{node.name}.bias", weight.bias)]
    attributes = {key: each.value for key, each in node.attributes.items()}
    return add_node(node, node.op_type, inputs, f"{node.name}.twin", attributes, like=node.outputs[0])


_CHOSEN = "sardonyx.chosen"


def _original(value: ir.Value) -> ir.Value:
    """The value that the plan knows, where `value` is what a switch made of it."""
    return value.meta.get(_CHOSEN, value)


def _choose(
    graph: ir.Graph, old: ir.Value, switch: ir.Value, twin: ir.Value, readers: Sequence[tuple[ir.Node, int]]
) -> None:
    """``Where(switch, twin, old)`` in place of `old`, also among the outputs of the graph, where it takes its name."""
    producer = old.producer()
    assert producer is not None
    name = str(old.name)
    chosen = add_node(producer, "Where", [switch, twin, old], f"{name}.chosen", like=old)
    chosen.meta[_CHOSEN] = old
    for node, at in readers:
        node.replace_input_with(at, chosen)
    if old.is_graph_output():
        graph.outputs[:] = [chosen if value is old else value for value in graph.outputs]
        old.name, chosen.name = f"{name}.float", name

"""Run the model on data and choose a grid for each value that is to be rounded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sardonyx.optimizer.activations import activations
from sardonyx.optimizer.data import Data
from sardonyx.optimizer.quantize.feeds import QUIET
from sardonyx.optimizer.quantize.graph import array_of, is_op
from sardonyx.optimizer.quantize.numbers import Grid
from sardonyx.optimizer.quantize.observers import Histogram, Range
from sardonyx.optimizer.quantize.plan import Plan
from sardonyx.optimizer.quantize.ranges import choose, needs_histogram

__all__ = ["Method", "calibrate", "observe"]

_DEVIATIONS = 6.0  # of a batch normalisation's output that are kept (arXiv:1906.04721, section 4)


@dataclass(frozen=True)
class Method:
    """How grids are chosen; see `ranges.choose`."""

    name: str = "minmax"
    percentile: float = 99.99
    dtype: str = "uint8"
    symmetric: bool = False


def observe(model: ir.Model, plan: Plan, data: Data, histogram: bool) -> dict[ir.Value, Range]:
    """For each root of `plan` what its sources were, over all of `data`.

    Raises:
        InputError: a value is NaN or infinite.
    """
    kind = Histogram if histogram else Range
    sources = plan.sources()
    seen: dict[ir.Value, Range] = {root: kind(str(values[0].name)) for root, values in sources.items()}
    roots = {str(value.name): root for root, values in sources.items() for value in values}
    for values in activations(model, list(roots), data, QUIET):
        for name, array in values.items():
            seen[roots[name]].update(np.asarray(array))
    return seen


def calibrate(
    model: ir.Model,
    plan: Plan,
    data: Data,
    method: Method,
    statistics: Mapping[str, tuple[np.ndarray, np.ndarray]],
    notes: list[str],
) -> dict[ir.Value, Grid]:
    """The grid of each value of `plan`; values that share a scale have the same one.

    Args:
        model: see `editable`.
        plan: what is rounded.
        data: samples; where they were made up, what batch normalisation knew of a value counts instead.
        method: how the ends of a range are chosen.
        statistics: what `fold_batch_normalization` returned.
        notes: is told of values that never change.
    """
    seen = observe(model, plan, data, needs_histogram(method.name))
    grids = {}
    for root, values in plan.sources().items():
        known = [found for value in values if (found := _known(value, statistics)) is not None]
        if data.generated and len(known) == len(values):
            seen[root] = _as_range(root, known)
        grids[root] = choose(seen[root], method.name, method.percentile, method.dtype, method.symmetric)
    constant = [str(root.name) for root, each in seen.items() if each.low == each.high]
    if constant:
        notes.append(f"{len(constant)} values never changed on the data, {constant[0]!r} for one")
    return {value: grids[plan.root(value)] for value in plan.values}


def _as_range(root: ir.Value, known: list[tuple[float, float]]) -> Range:
    found = Range(str(root.name))
    found.low, found.high = min(low for low, _ in known), max(high for _, high in known)
    return found


def _known(value: ir.Value, statistics: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> tuple[float, float] | None:
    """The range of what batch normalisation gave, through the Relu or Clip after it."""
    bounds = []
    while value.name not in statistics:
        node = value.producer()
        if not is_op(node, "Relu", "Clip"):
            return None
        assert node is not None
        bounds.append(_bounds(node))
        value = node.inputs[0]  # type: ignore[assignment]
    mean, deviation = statistics[str(value.name)]
    low, high = np.min(mean - _DEVIATIONS * deviation), np.max(mean + _DEVIATIONS * deviation)
    for least, most in reversed(bounds):
        low, high = np.clip(low, least, most), np.clip(high, least, most)
    return float(low), float(high)


def _bounds(node: ir.Node) -> tuple[float, float]:
    if node.op_type == "Relu":
        return 0.0, np.inf
    ends = [array_of(value) for value in (*node.inputs[1:3], None, None)][:2]
    low, high = (default if end is None else float(end) for end, default in zip(ends, (-np.inf, np.inf)))
    return low, high

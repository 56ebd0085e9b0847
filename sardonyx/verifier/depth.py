"""The error along the depth of a network: what a report plots.

The values of evenly spread points are compared, so that a picture shows where an error enters and how it grows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from sardonyx.errors import SardonyxError
from sardonyx.model.inline import infer_types
from sardonyx.model.load import load
from sardonyx.verifier.compare import compare
from sardonyx.verifier.observe import Observe, observe_onnx, points_of
from sardonyx.verifier.stages import Feeds, OnnxStage, SourceStage, Stage
from sardonyx.verifier.tolerance import Tolerance, tolerances

POINTS = 64
_AT_ONCE = 16


@dataclass(frozen=True)
class Depth:
    """One compared value inside the network.

    Attributes:
        value: its name.
        place: what makes it.
        relative: largest difference over the largest magnitude.
        allowed: what rounding may do, likewise.
    """

    value: str
    place: str
    relative: float
    allowed: float


def along_depth(truth: Stage, tested: Stage, feeds: Feeds, progress: Callable[[str], None]) -> list[Depth]:
    """Differences at up to `POINTS` inner values, in order; empty where the stages share no inner values."""
    if not isinstance(tested, OnnxStage):
        return []
    model = load(tested.path)
    infer_types(model)
    if isinstance(truth, SourceStage) and not truth.opened.points():
        truth = OnnxStage(tested.path, "reference")  # the source shows no inner values
    observe: Observe
    if isinstance(truth, SourceStage):
        points = [point for point in truth.opened.points() if point.value]
        observe = partial(truth.opened.observe, feeds)
    else:
        known = {str(output.name) for node in load(truth.path).graph for output in node.outputs}
        points = [point for point in points_of(model) if point.name in known]
        provider = truth.provider if isinstance(truth, OnnxStage) else "reference"
        observe = partial(observe_onnx, truth.path, provider, feeds)
    chosen = [points[i] for i in sorted({int(i) for i in np.linspace(0, len(points) - 1, POINTS)})] if points else []
    allowed = tolerances(model)
    found: list[Depth] = []
    for start in range(0, len(chosen), _AT_ONCE):
        part = chosen[start : start + _AT_ONCE]
        progress(f"error along the depth: {start} of {len(chosen)}")
        try:
            expected = observe([point.name for point in part])
            actual = observe_onnx(tested.path, tested.provider, feeds, [point.value for point in part])
        except SardonyxError:
            return found  # a stage that cannot give inner values
        for point in part:
            if point.name not in expected:
                continue
            tolerance = allowed.get(point.value, Tolerance(2.0**-24, 1e3))
            difference = compare(expected[point.name], actual[point.value], tolerance)
            peak = float(np.abs(expected[point.name]).max()) if expected[point.name].size else 0.0
            limit = tolerance.allowed(peak) / peak if peak else 0.0
            found.append(Depth(point.value, point.place, difference.relative, limit))
    return found

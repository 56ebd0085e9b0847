"""Inner values of stages, a few at a time, and the search for the first that differs.

The search looks at some points spread over the interval in question, takes the stretch up to the first that differs,
and goes on inside of it: memory holds a handful of values, and a model of a thousand nodes takes three rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from sardonyx.converters.source import Point
from sardonyx.model.load import load
from sardonyx.model.schemas import operator_name
from sardonyx.verifier.compare import Difference, compare
from sardonyx.verifier.locate import Suspect, place_of, worst_values
from sardonyx.verifier.tolerance import Tolerance, tolerances

_AT_ONCE = 16  # points of a round

Observe = Callable[[Sequence[str]], Mapping[str, np.ndarray]]


def observe_onnx(path: Path, provider: str, feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, Any]:
    """The values called `names` of an ONNX file under a provider."""
    model = load(path)
    if provider == "reference":
        from sardonyx.runtime.reference import evaluate_steps

        values: dict[str, Any] = {}
        missing = set(names)
        for node, _ in evaluate_steps(model, feeds, values, keep=names):
            missing -= {str(output.name) for output in node.outputs}
            if not missing:
                break
        return {name: values[name] for name in names}
    from sardonyx.model.prepare import remove_unused
    from sardonyx.runtime.options import SessionOptions
    from sardonyx.runtime.session import Session

    found = {str(o.name): o for node in model.graph for o in node.outputs}
    model.graph.outputs[:] = [found[name] for name in names]
    remove_unused(model)
    session = Session(model, SessionOptions(providers=(provider,)))
    needed = {port.name for port in session.inputs}
    results = session.run({name: value for name, value in feeds.items() if name in needed})
    return dict(zip(names, results, strict=True))


def points_of(model: ir.Model) -> list[Point]:
    """Every floating-point value of the graph that is known to be a tensor, in order."""
    return [
        Point(str(output.name), str(output.name), place_of(node))
        for node in model.graph
        for output in node.outputs
        if output.name and output.dtype is not None and output.dtype.is_floating_point()
    ]


def first_different_point(
    points: Sequence[Point],
    truth: Observe,
    tested: Observe,
    allowed: Mapping[str, Tolerance],
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[int, Difference, np.ndarray, np.ndarray] | None:
    """The first point where `tested` differs from `truth`, and what is there; None: no point differs.

    Args:
        points: in order of execution; `truth` is asked for their `name`, `tested` for their `value`.
        truth: values by name of points.
        tested: values by name of ONNX values.
        allowed: tolerance by name of ONNX value.
        progress: called with a few words at each round.
    """
    low, high, found = 0, len(points), None
    while low < high:
        step = max(1, (high - low) // _AT_ONCE)
        chosen = sorted({*range(low + step - 1, high, step), high - 1})
        progress(f"comparing {len(chosen)} of {high - low} inner values")
        expected = truth([points[i].name for i in chosen])
        actual = tested([points[i].value for i in chosen])
        hit = None
        for i in chosen:
            if points[i].name not in expected:
                continue
            pair = expected[points[i].name], actual[points[i].value]
            difference = compare(*pair, allowed.get(points[i].value, Tolerance(2.0**-24, 1e3)))
            if difference.failed:
                hit = i, difference, *pair
                break
            low = i + 1
        if hit is None:
            return found
        found, high = hit, hit[0]
    return found


def locate_by_points(
    model: ir.Model,
    points: Sequence[Point],
    truth: Observe,
    tested: Observe,
    progress: Callable[[str], None] = lambda text: None,
) -> Suspect | None:
    """The node of `model` that makes the first point that differs."""
    makers = {str(output.name): node for node in model.graph for output in node.outputs}
    found = first_different_point(points, truth, tested, tolerances(model), progress)
    if found is None:
        return None
    number, difference, expected, actual = found
    point, node = points[number], makers[points[number].value]
    position, shown = worst_values(expected, actual)
    before = f"equal up to {points[number - 1].place or points[number - 1].name}" if number else ""
    return Suspect(
        node.name or "",
        operator_name(node, model.opset_imports),
        point.value,
        point.place or place_of(node),
        difference,
        position,
        *shown,
        [before] if before else [],
    )

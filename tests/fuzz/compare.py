"""A random graph natively and by the reference; where they differ, the first node that does.

How far rounding may carry the two apart is measured, not guessed: the reference runs again with the operands and
results of every operator that rounds disturbed by a few units in the last place. Where that changes nothing, results
may differ by no more than the operators upstream round, and not at all where none does (NaN as NaN).
"""

from __future__ import annotations

import traceback

import numpy as np
import onnx
import onnx_ir as ir
from fuzz.graphs import ROUNDING, Graph, random_graph

from sardonyx import Session, SessionOptions
from sardonyx.errors import SardonyxError
from sardonyx.runtime.reference import run_node

DISTURBED = {"float32": 2e-6, "float64": 4e-15, "float16": 2e-3}  # relative, of each operand and result
MARGIN = 16.0  # times the effect of the disturbances
RUNS = 3
OPTIONS = SessionOptions(cache=False, progress=False, threads=2)


def trial(number: int) -> tuple[str, str]:
    """Try graph `number`: ``("equal" | "wrong" | "bug", details)``."""
    graph = random_graph(number)
    if not graph.nodes:
        return "empty", ""
    model = graph.model()
    references = expected(graph)
    try:
        session = Session(model, OPTIONS)
        problem = differences(session, graph, references)
        if problem is None:
            return "equal", ""
    except Exception:
        problem = traceback.format_exc()
    return "wrong", f"{problem}\n{first_difference(graph, references)}\n{onnx.printer.to_text(model)[:6000]}"


def expected(graph: Graph) -> list[dict[str, np.ndarray]]:
    """All values, as they are and disturbed."""
    nodes = [(node, ir.from_proto(node)) for node in graph.nodes]
    return [graph.values, *(_disturbed(graph, nodes, np.random.default_rng(seed)) for seed in range(RUNS))]


def _disturbed(graph: Graph, nodes: list, rng: np.random.Generator) -> dict[str, np.ndarray]:
    values = {**graph.weights, **graph.feeds}
    for proto, node in nodes:
        rounds = proto.op_type in ROUNDING
        given = [values[name] if name else None for name in proto.input]
        captured = values
        if rounds:
            given = [_shaken(value, rng) for value in given]
            captured = {name: _shaken(value, rng) for name, value in values.items()} if proto.attribute else values
        try:
            results = run_node(node, given, {"": graph.opset}, captured=captured)
        except SardonyxError:  # a size that was disturbed too
            results = [np.full_like(graph.values[name], 0) for name in proto.output]
        for name, result in zip(proto.output, results):
            values[name] = _shaken(np.asarray(result), rng) if rounds else np.asarray(result)
    return values


def _shaken(value: np.ndarray | None, rng: np.random.Generator) -> np.ndarray | None:
    size = None if value is None else DISTURBED.get(str(value.dtype))
    if value is None or size is None:
        return value
    factor = 1 + size * rng.uniform(0.5, 1, value.shape) * rng.choice([-1, 1], value.shape)
    with np.errstate(all="ignore"):
        return np.asarray(value * factor).astype(value.dtype)


def differences(session: Session, graph: Graph, references: list[dict[str, np.ndarray]]) -> str | None:
    """What is wrong with the session's results, or None."""
    rounded = _rounded(graph)
    results = session.run(graph.feeds)
    for port, have in zip(session.outputs, results, strict=True):
        problem = difference(have, [values[port.name] for values in references], rounded=port.name in rounded)
        if problem is not None:
            return f"{port.name}: {problem}"
    return None


def _rounded(graph: Graph) -> set[str]:
    """Values that something which rounds has part in."""
    found: set[str] = set()
    for node in graph.nodes:
        if node.op_type in ROUNDING or not found.isdisjoint(node.input):
            found.update(node.output)
    return found


def difference(have: np.ndarray, references: list[np.ndarray], *, rounded: bool) -> str | None:
    """How `have` differs from the first of `references` by more than the others do, or None."""
    want, *others = references
    if any(other.shape != want.shape for other in others):
        return None  # the size itself hangs on a rounded value
    if have.dtype != want.dtype or have.shape != want.shape:
        return f"{have.dtype}{list(have.shape)} instead of {want.dtype}{list(want.shape)}"
    if want.dtype.kind not in "fiub" or not want.size:
        return None
    with np.errstate(all="ignore"):
        h, w = have.astype(np.float64), want.astype(np.float64)
        spread = np.zeros(want.shape)
        settled = np.ones(want.shape, bool)
        for other in others:
            o = other.astype(np.float64)
            same = (o == w) | (np.isnan(o) & np.isnan(w))
            spread = np.fmax(spread, np.where(same, 0, np.abs(o - w)))
            settled &= same | (np.isfinite(o) & np.isfinite(w))
        if want.dtype.kind != "f":
            settled &= spread == 0
        allowed = MARGIN * spread
        if rounded and want.dtype.kind == "f":
            allowed += 2 * DISTURBED[str(want.dtype)] * np.abs(w) + np.finfo(want.dtype).smallest_normal
        equal = (h == w) | (np.isnan(h) & np.isnan(w)) | (np.abs(h - w) <= allowed)
    wrong = np.argwhere(np.atleast_1d(settled & ~equal))
    if not len(wrong):
        return None
    at = tuple(wrong[0])
    values = np.atleast_1d(have)[at], np.atleast_1d(want)[at], np.atleast_1d(allowed)[at]
    where = f"{len(wrong)} of {want.size} elements differ, first at {list(map(int, at))}"
    return f"{where}: {values[0]!r} instead of {values[1]!r} (allowed {values[2]:.3g})"


def first_difference(graph: Graph, references: list[dict[str, np.ndarray]]) -> str:
    """The first node whose results differ when they alone are the outputs."""
    for node in graph.nodes:
        try:
            session = Session(graph.model(list(node.output)), OPTIONS)
            problem = differences(session, graph, references)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        if problem is not None:
            inputs = ", ".join(f"{n} {graph.values[n].dtype}{list(graph.values[n].shape)}" for n in node.input if n)
            return f"first at node {node.name} ({node.op_type}) of ({inputs}): {problem}"
    return "no node differs by itself: fusion"

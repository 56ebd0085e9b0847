"""Answers that hang on rounding: labels of scores that tie, and rows whose order such scores decide.

Where two scores are closer than rounding may move them, either label, or either order, is right. Nothing else is: the
values themselves are compared as strictly as ever, each row with the one that it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sardonyx.verifier.compare import compare
from sardonyx.verifier.tolerance import Tolerance

Arrays = Sequence[np.ndarray]


def settle_ties(expected: Arrays, actual: Arrays, allowed: Sequence[Tolerance]) -> tuple[list[np.ndarray], int]:
    """`actual` with ties decided as in `expected`, and how many rows had to be moved for that.

    Args:
        expected: outputs of the truth.
        actual: outputs of the stage under test.
        allowed: how much each may be off.
    """
    found, moved = settle_order(expected, actual, allowed)
    return settle_labels(expected, found, allowed), moved


def settle_labels(expected: Arrays, actual: Arrays, allowed: Sequence[Tolerance]) -> list[np.ndarray]:
    """`actual`, where a label that differs because of a tie is the expected one.

    Scores [rows, classes] that agree within their tolerance decide on labels [rows] (integers or text).
    """
    found = list(actual)
    pairs = list(zip(expected, actual, allowed, strict=False))
    scores = [
        (e, 2 * t.allowed(float(np.abs(e).max())))
        for e, a, t in pairs
        if e.dtype.kind == "f" and e.ndim == 2 and e.shape[1] > 1 and e.size and not compare(e, a, t).failed
    ]
    for number, (e, a, _) in enumerate(pairs):
        if e.ndim != 1 or e.dtype.kind not in "iuOU" or e.shape != a.shape:
            continue
        for values, gap in scores:
            if len(values) == len(e):
                best = np.sort(values, axis=1)[:, -2:]
                found[number] = np.where(best[:, 1] - best[:, 0] <= gap, e, found[number])
    return found


def settle_order(expected: Arrays, actual: Arrays, allowed: Sequence[Tolerance]) -> tuple[list[np.ndarray], int]:
    """`actual` with the rows of detections in the expected order where their scores tie, and how many were moved.

    Scores [rows] that descend in both and agree within their tolerance are what rows were sorted by. Within a run of
    them that tie, each expected row is given the nearest of the actual ones; outputs of as many rows move together.
    """
    found = list(actual)
    for e, a, tolerance in zip(expected, actual, allowed, strict=False):
        if not _sorted_scores(e) or not _sorted_scores(a) or compare(e, a, tolerance).failed:
            continue
        members = [
            n
            for n, (one, other) in enumerate(zip(expected, actual, strict=False))
            if one.shape == other.shape and one.ndim and len(one) == len(e) and one.dtype.kind in "fiu"
        ]
        gap = 2 * tolerance.allowed(float(np.abs(e).max()))
        order = _order([expected[n] for n in members], [actual[n] for n in members], e, gap)
        for n in members:
            found[n] = actual[n][order]
        return found, int(np.sum(order != np.arange(len(order))))
    return found, 0


def _sorted_scores(values: np.ndarray) -> bool:
    """Whether these are scores that rows were sorted by."""
    return values.dtype.kind == "f" and values.ndim == 1 and len(values) > 1 and bool(np.all(values[:-1] >= values[1:]))


def _order(expected: Arrays, actual: Arrays, scores: np.ndarray, gap: float) -> np.ndarray:
    """For each expected row, the number of the actual row that stands in its place."""
    order = np.arange(len(scores))
    columns = [_columns(one, other) for one, other in zip(expected, actual, strict=True)]
    truth, tested = (np.concatenate([pair[side] for pair in columns], axis=1) for side in (0, 1))
    starts = np.flatnonzero(np.diff(scores, prepend=np.inf) < -gap)
    for start, stop in zip(starts, [*starts[1:], len(scores)], strict=True):
        left = list(range(start, stop))
        for row in range(start, stop):
            distances = np.abs(tested[left] - truth[row]).max(1)
            order[row] = left.pop(int(distances.argmin()))
    return order


def _columns(expected: np.ndarray, actual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as rows of numbers, relative to the largest of `expected`."""
    peak = float(np.abs(expected).max(initial=0)) or 1.0
    return expected.reshape(len(expected), -1) / peak, actual.reshape(len(actual), -1) / peak

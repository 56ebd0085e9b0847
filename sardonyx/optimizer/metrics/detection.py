"""Mean average precision of boxes, as COCO defines it, over any number of pictures.

A model's outputs are boxes [n, 4] (left, top, right, bottom), scores [n] and classes [n], told apart by shape and type,
or rows [n, 6] of all of them, with a leading dimension of 1 or without. The truth has the same form without scores
(a dictionary of ``boxes`` and ``classes``, or rows [n, 5]); the original's boxes with a score of 0.5 or more are truth
where nothing else is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

SURE = 0.5
LEVELS = np.arange(0.5, 1.0, 0.05)


class Boxes(NamedTuple):
    """Of one picture: [n, 4], [n], [n]."""

    places: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


def mean_average_precision(values: Sequence[Any], truth: Sequence[Any]) -> float:
    """Mean over classes, and over IoU of 0.50, 0.55, ..., 0.95."""
    return float(np.mean([_mean_precision(values, truth, level) for level in LEVELS]))


def map50(values: Sequence[Any], truth: Sequence[Any]) -> float:
    """Mean over classes, where IoU of 0.5 is a hit."""
    return _mean_precision(values, truth, 0.5)


def _mean_precision(values: Sequence[Any], truth: Sequence[Any], level: float) -> float:
    got = [boxes(value) for value in values]
    want = [_certain(boxes(value)) for value in truth]
    known = np.unique(np.concatenate([each.classes for each in want])) if want else np.zeros(0)
    if not known.size:
        return 1.0 if not any(each.places.size for each in got) else 0.0
    return float(np.mean([_precision(got, want, each, level) for each in known]))


def _certain(found: Boxes) -> Boxes:
    keep = found.scores >= SURE
    return Boxes(found.places[keep], found.scores[keep], found.classes[keep])


def _precision(got: Sequence[Boxes], want: Sequence[Boxes], kind: Any, level: float) -> float:
    """Area under precision over recall of one class, precision read at 101 values of recall."""
    hits, scores, total = [], [], 0
    for mine, true in zip(got, want, strict=True):
        chosen = np.flatnonzero(mine.classes == kind)
        chosen = chosen[np.argsort(-mine.scores[chosen], kind="stable")]
        targets = true.places[true.classes == kind]
        total += len(targets)
        hits += _hits(mine.places[chosen], targets, level)
        scores += mine.scores[chosen].tolist()
    if not total:
        return 0.0
    order = np.argsort(-np.asarray(scores), kind="stable")
    right = np.cumsum(np.asarray(hits, float)[order])
    precision = right / np.arange(1, len(order) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(right / total, np.linspace(0, 1, 101), side="left")
    return float(np.mean(np.append(precision, 0.0)[np.minimum(place, len(order))]))


def _hits(mine: np.ndarray, targets: np.ndarray, level: float) -> list[bool]:
    """For boxes, the surest first, whether each finds a target that no other has found."""
    overlap = iou(mine, targets)
    free = np.ones(len(targets), bool)
    found = []
    for row in overlap:
        row = np.where(free, row, -1.0)
        best = int(row.argmax()) if row.size else 0
        hit = bool(row.size) and row[best] >= level
        if hit:
            free[best] = False
        found.append(hit)
    return found


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of each of `a` [n, 4] with each of `b` [m, 4], as [n, m]."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    inside = np.prod(np.clip(high - low, 0, None), axis=2)
    area_a, area_b = (np.prod(np.clip(x[:, 2:] - x[:, :2], 0, None), axis=1) for x in (a, b))
    union = area_a[:, None] + area_b[None] - inside
    return np.divide(inside, union, out=np.zeros_like(inside), where=union > 0)


def boxes(value: Any) -> Boxes:
    """What an output, or a label, holds.

    Raises:
        ValueError: it is not in one of the known forms.
    """
    if isinstance(value, Mapping):
        places = np.asarray(value["boxes"], np.float64).reshape(-1, 4)
        names = value["classes"] if "classes" in value else value.get("labels", np.zeros(len(places)))
        return Boxes(places, np.asarray(value.get("scores", np.ones(len(places))), np.float64), np.asarray(names))
    arrays = list(value) if isinstance(value, (list, tuple)) else [value]
    flat = [np.asarray(each).reshape(np.shape(each)[1:] if np.ndim(each) == 3 else np.shape(each)) for each in arrays]
    rows = next((each for each in flat if each.ndim == 2 and each.shape[1] in (5, 6)), None)
    if rows is not None:
        sure = rows[:, 4] if rows.shape[1] == 6 else np.ones(len(rows))
        return Boxes(rows[:, :4].astype(np.float64), sure.astype(np.float64), rows[:, -1])
    found = [each for each in flat if each.ndim == 2 and each.shape[1] == 4][:1]
    rest = [each.reshape(-1) for each in flat if not any(each is one for one in found)]
    if not found or any(each.size != len(found[0]) for each in rest) or not 1 <= len(rest) <= 2:
        raise ValueError(f"no boxes in arrays of the shapes {[np.shape(each) for each in arrays]}")
    return _told_apart(found[0].astype(np.float64), rest)


def _told_apart(places: np.ndarray, rest: Sequence[np.ndarray]) -> Boxes:
    """Scores are the numbers within [0, 1] that are no integers by type; the other array is the classes."""
    likely = [x.dtype.kind == "f" and bool(np.all((x >= 0) & (x <= 1))) for x in rest]
    if len(rest) == 1:
        only = rest[0]
        nothing = np.zeros(len(places))
        return Boxes(places, only.astype(np.float64), nothing) if likely[0] else Boxes(places, nothing + 1, only)
    first = 1 if likely[1] and not likely[0] else 0
    return Boxes(places, rest[first].astype(np.float64), rest[1 - first])

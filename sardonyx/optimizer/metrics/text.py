"""Metrics of text: edits that make one sequence the other."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

BLANK = 0  # the class of "nothing" in CTC scores


def edit_distance(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Least number of insertions, deletions and substitutions that make `b` of `a` (Levenshtein 1966)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        above, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (x != y))
    return row[-1]


def character_error_rate(values: Sequence[Any], truth: Sequence[Any]) -> float:
    """Edits / length of the truth, over all runs; scores [..., T, C] are decoded first, see `ctc`."""
    return _rate(*([line for value in side for line in lines(value)] for side in (values, truth)))


def word_error_rate(values: Sequence[Any], truth: Sequence[Any]) -> float:
    """Edits of words / words of the truth, over all runs; numbers count as words."""

    def words(value: Any) -> list[Sequence[Hashable]]:
        return [line.split() if isinstance(line, str) else line for line in lines(value)]

    return _rate(*([line for value in side for line in words(value)] for side in (values, truth)))


def _rate(got: Sequence[Sequence[Hashable]], want: Sequence[Sequence[Hashable]]) -> float:
    if len(got) != len(want):
        raise ValueError(f"the model gives {len(got)} lines of text for {len(want)} labels")
    edits = sum(edit_distance(a, b) for a, b in zip(got, want))
    return edits / max(1, sum(len(line) for line in want))


def lines(value: Any) -> list[Any]:
    """The texts, or sequences of numbers, that an output or a label holds."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, (list, tuple)) and (not value or not isinstance(value[0], (list, tuple, str))):
        return [list(value)]
    if isinstance(value, (list, tuple)):
        return list(value)
    array = np.asarray(value)
    if array.dtype.kind in "OSU":
        return [str(each) for each in array.reshape(-1)]
    if array.dtype.kind == "f" and array.ndim >= 2:
        return [ctc(rows) for rows in array.reshape(-1, *array.shape[-2:])]
    return [row.tolist() for row in array.reshape(-1, array.shape[-1] if array.ndim else 1)]


def ctc(rows: np.ndarray) -> list[int]:
    """Scores [T, C] as classes: the best of each moment, repeats once, blanks not at all (Graves et al. 2006)."""
    best = rows.argmax(1)
    changed = np.concatenate([[True], best[1:] != best[:-1]]) if best.size else np.zeros(0, bool)
    return [int(each) for each in best[changed] if each != BLANK]

"""Tables and lists: .csv as the matrix a model takes, files of labels."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sardonyx.converters.source import Input
from sardonyx.errors import InputError
from sardonyx.optimizer.data import Data

if TYPE_CHECKING:
    from sardonyx.optimizer.reading.read import DataOptions

LABELS = ("label", "labels", "y", "target", "class")


def read_table(path: Path, inputs: Sequence[Input], options: DataOptions) -> Data:
    """A .csv whose first line names columns.

    A model with one matrix takes the columns in order; one with several inputs takes the column of each one's name.

    Raises:
        InputError: no rows, a cell that is no number, columns that do not fit.
    """
    head, rows = _rows(path)
    label = options.labels or next((name for name in LABELS if name in head), None)
    if label is not None and label not in head:
        raise InputError(f"{path.name} has no column {label!r}", hint=f"its columns are {', '.join(head)}")
    labels = None
    if label is not None:
        place = head.index(label)
        labels = _labels([row[place] for row in rows])
        head = [name for name in head if name != label]
        rows = [[*row[:place], *row[place + 1 :]] for row in rows]
    step = options.batch
    feeds = [_feeds(path, head, rows[at : at + step], inputs) for at in range(0, len(rows) - step + 1, step)]
    cut = None if labels is None else [labels[number * step : (number + 1) * step] for number in range(len(feeds))]
    return Data(feeds, cut, path.name)


def _rows(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            head, *rows = [row for row in csv.reader(file) if row] or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{str(path)!r} cannot be read as a table: {error}") from error
    if not rows:
        raise InputError(f"{path.name} has no rows", hint="the first line names the columns")
    bad = next((number for number, row in enumerate(rows) if len(row) != len(head)), None)
    if bad is not None:
        raise InputError(f"{path.name}, row {bad + 1}: {len(rows[bad])} cells under {len(head)} names of columns")
    return head, rows


def _feeds(path: Path, head: list[str], rows: list[list[str]], inputs: Sequence[Input]) -> dict[str, np.ndarray]:
    if len(inputs) == 1:
        return {inputs[0].name: _numbers(path, head, rows, inputs[0])}
    missing = [each.name for each in inputs if each.name not in head]
    if missing:
        raise InputError(f"{path.name} has no column for the input {missing[0]!r}", hint=f"columns: {', '.join(head)}")
    found = {}
    for each in inputs:
        place = head.index(each.name)
        column = _numbers(path, [each.name], [[row[place]] for row in rows], each)
        found[each.name] = column if len(each.shape) == 2 else column[:, 0]
    return found


def _numbers(path: Path, head: list[str], rows: list[list[str]], each: Input) -> np.ndarray:
    if each.dtype == "string":
        return np.array(rows, object)
    dtype = np.dtype(each.dtype)
    try:
        return np.array(rows, np.float64).astype(dtype)
    except ValueError:
        place = next((r, c) for r, row in enumerate(rows) for c, cell in enumerate(row) if not _is_number(cell))
        cell = rows[place[0]][place[1]]
        raise InputError(f"{path.name}, column {head[place[1]]!r}: {cell!r} is no number") from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _labels(cells: list[str]) -> np.ndarray:
    if all(_is_number(cell) for cell in cells):
        numbers = np.array(cells, np.float64)
        whole = np.isfinite(numbers).all() and np.array_equal(numbers, np.round(numbers))
        return numbers.astype(np.int64) if whole else numbers
    return np.array(cells, object)


def read_labels(path: Path) -> np.ndarray:
    """Labels from .npy, or from a text file with one in each line.

    Raises:
        InputError: it cannot be read.
    """
    if not path.exists():
        raise InputError(f"there is no file of labels {str(path)!r}")
    try:
        if path.suffix == ".npy":
            found: Any = np.load(path, allow_pickle=False)
            return np.asarray(found)
        return _labels([line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()])
    except (ValueError, EOFError) as error:
        raise InputError(f"labels cannot be read from {str(path)!r}: {error}") from error

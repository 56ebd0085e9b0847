"""Metrics of classes, pixels, vectors and numbers. Each takes the outputs and the truth of all runs, a list of each.

Where the truth is the original's output, it has the form of an output: scores become classes on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sardonyx.errors import InputError

Arrays = Sequence[np.ndarray]


def classes(values: Arrays, axis: int = -1) -> np.ndarray:
    """The class of each row, [N]: the largest of several scores, above or below one half for a single score."""
    return np.concatenate([_classes(np.asarray(value), axis).reshape(-1) for value in values])


def _classes(value: np.ndarray, axis: int) -> np.ndarray:
    if value.dtype.kind != "f" or value.ndim == 0:
        return value
    if value.ndim == 1 and axis == -1 and np.array_equal(value, np.round(value)):
        return value.astype(np.int64)  # labels that came as numbers with a point
    if value.shape[axis] > 1:
        return value.argmax(axis)
    limit = 0.5 if value.size and value.min() >= 0 and value.max() <= 1 else 0.0  # a probability, or a logit
    return (value > limit).astype(np.int64)


def _pair(values: Arrays, truth: Arrays, axis: int = -1) -> tuple[np.ndarray, np.ndarray]:
    got, want = classes(values, axis), classes(truth, axis)
    if got.size != want.size:
        raise InputError(
            f"the model gives {got.size} classes for {want.size} labels",
            hint="one label for each row of the output; another output can be chosen with --metric-output",
        )
    if (got.dtype.kind in "OSU") != (want.dtype.kind in "OSU"):
        return got.astype(str), want.astype(str)
    return got, want


def accuracy(values: Arrays, truth: Arrays) -> float:
    """Share of rows whose class is right."""
    got, want = _pair(values, truth)
    return float(np.mean(got == want))


def top_k(values: Arrays, truth: Arrays, k: int) -> float:
    """Share of rows whose class is among the `k` largest scores."""
    want = classes(truth)
    rows = np.concatenate([np.asarray(value).reshape(-1, np.shape(value)[-1]) for value in values])
    if len(rows) != want.size:
        raise InputError(f"the model gives {len(rows)} rows of scores for {want.size} labels")
    best = np.argsort(-rows, axis=1, kind="stable")[:, :k]
    return float(np.mean((best == want[:, None]).any(1)))


def f1(values: Arrays, truth: Arrays) -> float:
    """Mean over all classes that occur of 2 TP / (2 TP + FP + FN)."""
    got, want = _pair(values, truth)
    found = []
    for each in np.unique(np.concatenate([got, want])):
        right = np.sum((got == each) & (want == each))
        found.append(2 * right / (np.sum(got == each) + np.sum(want == each)))
    return float(np.mean(found))


def mean_iou(values: Arrays, truth: Arrays) -> float:
    """Mean over all classes that occur of intersection / union of pixels; scores are [N, C, H, W]."""
    got = np.concatenate([_pixels(np.asarray(value)) for value in values])
    want = np.concatenate([_pixels(np.asarray(value)) for value in truth])
    if got.size != want.size:
        raise InputError(f"the model gives {got.size} pixels for {want.size} of the labels")
    found = []
    for each in np.unique(np.concatenate([got, want])):
        union = np.sum((got == each) | (want == each))
        found.append(np.sum((got == each) & (want == each)) / union)
    return float(np.mean(found))


def _pixels(value: np.ndarray) -> np.ndarray:
    axis = 1 if value.ndim >= 4 else 0
    return (_classes(value, axis) if value.ndim >= 3 else _classes(value[None], 0)).reshape(-1)


def _flat(values: Arrays) -> np.ndarray:
    return np.concatenate([np.asarray(value, np.float64).reshape(-1) for value in values])


def _cosines(values: Arrays, truth: Arrays) -> np.ndarray:
    found = []
    for got, want in zip(values, truth, strict=True):
        a, b = (np.asarray(x, np.float64).reshape(-1, np.shape(x)[-1] if np.ndim(x) else 1) for x in (got, want))
        length = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        same = np.all(a == b, axis=1)  # two zero vectors are equal, though they have no angle
        dot = np.sum(a * b, axis=1)
        found.append(np.where(same, 1.0, np.divide(dot, length, out=np.zeros_like(dot), where=length > 0)))
    return np.concatenate(found)


def cosine(values: Arrays, truth: Arrays) -> float:
    """Mean cosine of the vectors along the last axis."""
    return float(np.mean(_cosines(values, truth)))


def worst_cosine(values: Arrays, truth: Arrays) -> float:
    """The smallest cosine of the vectors along the last axis."""
    return float(np.min(_cosines(values, truth)))


def ranks(x: np.ndarray) -> np.ndarray:
    """Places in order, from 1; equal numbers share the mean of their places."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def spearman(values: Arrays, truth: Arrays) -> float:
    """Correlation of ranks; 0 where one side is constant."""
    a, b = _flat(values), _flat(truth)
    if a.size != b.size:
        raise InputError(f"the model gives {a.size} numbers for {b.size} labels")
    a, b = ranks(a), ranks(b)
    a, b = a - a.mean(), b - b.mean()
    length = float(np.sqrt(np.sum(a * a) * np.sum(b * b)))
    return float(np.sum(a * b)) / length if length else 0.0


def perplexity(values: Arrays, truth: Arrays) -> float:
    """exp of the mean of -log p(label); values are scores before Softmax. Labels below 0 do not count."""
    total, count = 0.0, 0
    for got, want in zip(values, truth, strict=True):
        rows = np.asarray(got, np.float64)
        rows = rows.reshape(-1, rows.shape[-1])
        labels = np.asarray(want).reshape(-1).astype(np.int64)
        if len(rows) != len(labels):
            raise InputError(f"the model gives {len(rows)} rows of scores for {len(labels)} labels")
        rows, labels = rows[labels >= 0], labels[labels >= 0]
        top = rows.max(1, keepdims=True)
        logs = rows - top - np.log(np.sum(np.exp(rows - top), axis=1, keepdims=True))
        total -= float(np.sum(logs[np.arange(len(labels)), labels]))
        count += len(labels)
    return float(np.exp(total / max(count, 1)))


def rmse(values: Arrays, truth: Arrays) -> float:
    """Root of the mean squared error."""
    a, b = _flat(values), _flat(truth)
    if a.size != b.size:
        raise InputError(f"the model gives {a.size} numbers for {b.size} labels")
    return float(np.sqrt(np.mean((a - b) ** 2)))


def snr(values: Arrays, truth: Arrays) -> float:
    """10 log10(signal / noise), over all elements of all runs; infinite without noise."""
    signal = noise = 0.0
    for got, want in zip(values, truth, strict=True):
        a, b = np.asarray(got, np.float64), np.asarray(want, np.float64)
        if a.shape != b.shape:
            return -float("inf")
        signal += float(np.sum(b * b))
        noise += float(np.sum(np.where(a == b, 0.0, a - b) ** 2))
    if noise == 0:
        return float("inf")
    if not np.isfinite(noise) or signal == 0:
        return -float("inf")
    return 10 * float(np.log10(signal / noise))

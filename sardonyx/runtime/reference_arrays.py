"""Operators that `onnx.reference` computes element by element in Python: the same meaning, whole arrays at a time.

A detector takes minutes there and seconds here. Everything else is as for `reference_fixes`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from onnx.reference.op_run import OpRun

__all__ = ["FASTER"]


# Windows that slide over images.


class _Windows:
    """Where the windows of a convolution or a pooling lie.

    Attributes:
        before, after: padding along each spatial axis; the outermost windows of `ceil_mode` reach beyond it.
        out: number of windows along each axis.
    """

    def __init__(self, size: Sequence[int], kernel: Sequence[int], attributes: dict[str, Any]):
        rank = len(kernel)
        self.kernel = tuple(kernel)
        self.strides = attributes.get("strides") or [1] * rank
        self.dilations = attributes.get("dilations") or [1] * rank
        pads = attributes.get("pads") or [0] * 2 * rank
        self.before, self.after = list(pads[:rank]), list(pads[rank:])
        self.reach = [(k - 1) * d + 1 for k, d in zip(kernel, self.dilations, strict=True)]
        auto = attributes.get("auto_pad") or "NOTSET"
        if auto != "NOTSET":
            self.before, self.after = [0] * rank, [0] * rank
        if auto.startswith("SAME"):
            for axis, (n, s) in enumerate(zip(size, self.strides, strict=True)):
                total = max(0, (-(-n // s) - 1) * s + self.reach[axis] - n)
                self.before[axis] = (total + (auto == "SAME_LOWER")) // 2
                self.after[axis] = total - self.before[axis]
        self.out = [self._count(axis, n, bool(attributes.get("ceil_mode"))) for axis, n in enumerate(size)]

    def _count(self, axis: int, size: int, up: bool) -> int:
        padded, stride = size + self.before[axis] + self.after[axis], self.strides[axis]
        steps = padded - self.reach[axis]
        count = (-(-steps // stride) if up else steps // stride) + 1
        begins_outside = up and (count - 1) * stride >= size + self.before[axis]
        return count - begins_outside

    def of(self, x: np.ndarray, fill: Any) -> np.ndarray:
        """A view [N, C, *out, *kernel] of `x` [N, C, *size], padded with `fill`."""
        lasts = [(o - 1) * s + r for o, s, r in zip(self.out, self.strides, self.reach, strict=True)]
        places = zip(self.before, self.after, lasts, x.shape[2:], strict=True)
        pads = [(low, max(high, last - n - low)) for low, high, last, n in places]
        padded = np.pad(x, [(0, 0), (0, 0), *pads], constant_values=fill)
        view = sliding_window_view(padded, self.reach, tuple(range(2, x.ndim)))
        steps = [slice(None, (o - 1) * s + 1, s) for o, s in zip(self.out, self.strides, strict=True)]
        inside = [slice(None, None, d) for d in self.dilations]
        return view[(slice(None), slice(None), *steps, *inside)]


def _wide(x: np.ndarray) -> np.ndarray:
    """`x` in a type to sum in: float32 at least."""
    return x.astype(np.float32) if x.dtype.itemsize < 4 else x


class Conv(OpRun):
    """Products of weights and windows."""

    def _run(self, x, w, b=None, auto_pad=None, dilations=None, group=None, kernel_shape=None, pads=None, strides=None):
        groups, per_group = group or 1, w.shape[1]
        if x.ndim < 3 or x.shape[1] != per_group * groups or len(w) % groups:
            raise ValueError(f"{x.shape[1:]} channels and places for weights {w.shape} in {groups} groups")
        options = {"auto_pad": auto_pad, "dilations": dilations, "pads": pads, "strides": strides}
        windows = _Windows(x.shape[2:], w.shape[2:], options)
        view, rank = windows.of(_wide(x), 0), x.ndim - 2
        view = view.reshape(len(x), groups, per_group, *view.shape[2:])
        spots, taps = range(3, 3 + rank), range(3 + rank, 3 + 2 * rank)
        columns = view.transpose(0, 1, 2, *taps, *spots)
        columns = columns.reshape(len(x), groups, w[0].size, math.prod(windows.out))
        y = _wide(w).reshape(1, groups, len(w) // groups, -1) @ columns
        y = y.reshape(len(x), len(w), *windows.out)
        if b is not None:
            y = y + _wide(b).reshape(-1, *[1] * rank)
        return (y.astype(x.dtype),)


class ConvTranspose(OpRun):
    """Each element puts the weights, times itself, where its window lies; windows add up where they overlap."""

    def _run(
        self, x, w, b=None, auto_pad=None, dilations=None, group=None, kernel_shape=None, output_padding=None,
        output_shape=None, pads=None, strides=None,
    ):  # fmt: skip
        rank, groups, size, kernel = x.ndim - 2, group or 1, x.shape[2:], w.shape[2:]
        strides, dilations = strides or [1] * rank, dilations or [1] * rank
        more = zip(size, strides, kernel, dilations, output_padding or [0] * rank, strict=False)
        whole = [(n - 1) * s + (k - 1) * d + 1 + extra for n, s, k, d, extra in more]
        if output_shape or (auto_pad or "").startswith("SAME"):
            out = output_shape or [n * s for n, s in zip(size, strides, strict=True)]
            totals = [have - want for have, want in zip(whole, out, strict=True)]
            before = [total // 2 if auto_pad == "SAME_UPPER" else total - total // 2 for total in totals]
        else:
            before, after = (pads or [0] * 2 * rank)[:rank], (pads or [0] * 2 * rank)[rank:]
            out = [n - low - high for n, low, high in zip(whole, before, after, strict=True)]
        columns = _wide(w).reshape(groups, x.shape[1] // groups, -1).swapaxes(1, 2)
        columns = columns @ _wide(x).reshape(len(x), groups, x.shape[1] // groups, math.prod(size))
        columns = columns.reshape(len(x), groups * w.shape[1], *kernel, *size)
        y = np.zeros((*columns.shape[:2], *whole), columns.dtype)
        for tap in np.ndindex(*kernel):
            starts = [t * d for t, d in zip(tap, dilations, strict=True)]
            places = zip(starts, size, strides, strict=True)
            y[:, :, *(slice(at, at + (n - 1) * s + 1, s) for at, n, s in places)] += columns[:, :, *tap]
        ends = [(max(0, -low), max(0, low + n - have)) for low, n, have in zip(before, out, whole, strict=True)]
        y = np.pad(y, [(0, 0), (0, 0), *ends])
        y = y[:, :, *(slice(max(0, low), max(0, low) + n) for low, n in zip(before, out, strict=True))]
        return ((y if b is None else y + _wide(b).reshape(-1, *[1] * rank)).astype(x.dtype),)


class MaxPool(OpRun):
    """The largest of each window, a NaN if there is one, and where it is."""

    def _run(
        self, x, auto_pad=None, ceil_mode=None, dilations=None, kernel_shape=None, pads=None, storage_order=None,
        strides=None,
    ):  # fmt: skip
        options = {"auto_pad": auto_pad, "ceil_mode": ceil_mode, "dilations": dilations, "pads": pads}
        windows = _Windows(x.shape[2:], kernel_shape, {**options, "strides": strides})
        rank, least = len(kernel_shape), np.iinfo(x.dtype).min if x.dtype.kind in "iu" else x.dtype.type(-np.inf)
        view = windows.of(x, least)
        flat = view.reshape(*view.shape[: 2 + rank], math.prod(kernel_shape))
        if len(self.output) == 1:
            return (flat.max(-1),)
        best = flat.argmax(-1)
        taps = np.unravel_index(best, kernel_shape)
        starts = np.ogrid[tuple(slice(n) for n in windows.out)]
        corners = zip(starts, windows.strides, taps, windows.dilations, windows.before, strict=True)
        spot = [start * stride + tap * dilation - low for start, stride, tap, dilation, low in corners]
        order = range(rank) if not storage_order else range(rank - 1, -1, -1)
        place = np.zeros(best.shape, np.int64)
        for axis in order:
            place = place * x.shape[2 + axis] + spot[axis]
        planes = np.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *[1] * rank)
        values = np.take_along_axis(flat, best[..., None], -1)[..., 0]
        return values, place + planes * int(np.prod(x.shape[2:]))


class AveragePool(OpRun):
    """The mean of each window; its elements in the padding count if they are asked to."""

    def _run(
        self, x, auto_pad=None, ceil_mode=None, count_include_pad=None, dilations=None, kernel_shape=None, pads=None,
        strides=None,
    ):  # fmt: skip
        options = {"auto_pad": auto_pad, "ceil_mode": ceil_mode, "dilations": dilations, "pads": pads}
        windows = _Windows(x.shape[2:], kernel_shape, {**options, "strides": strides})
        inside = tuple(range(-len(kernel_shape), 0))
        ones = np.ones((1, 1, *x.shape[2:]), np.float32)
        if count_include_pad:
            sides = zip(windows.before, windows.after, strict=True)
            counted = _Windows(x.shape[2:], kernel_shape, {**options, "strides": strides})
            ones = np.pad(ones, [(0, 0), (0, 0), *sides], constant_values=1)
            counted.before = counted.after = [0] * len(kernel_shape)
            count = counted.of(ones, 0).sum(inside)
        else:
            count = windows.of(ones, 0).sum(inside)
        return ((windows.of(_wide(x), 0).sum(inside) / count).astype(x.dtype),)


# Regions of images.


class RoiAlign(OpRun):
    """Bilinear samples of regions, their mean or largest in each bin; version 10 has no half pixels."""

    def _run(
        self, x, rois, batch_indices, coordinate_transformation_mode=None, mode=None, output_height=None,
        output_width=None, sampling_ratio=None, spatial_scale=None,
    ):  # fmt: skip
        half = coordinate_transformation_mode == "half_pixel" and self.run_params["opsets"][""] >= 16
        size, largest = (output_height or 1, output_width or 1), (mode or "avg").lower() == "max"
        y = np.zeros((len(rois), x.shape[1], *size), x.dtype)
        scale, offset = np.float32(1.0 if spatial_scale is None else spatial_scale), np.float32(0.5 if half else 0)
        for number, (roi, image) in enumerate(zip(rois, batch_indices, strict=True)):
            left, top, right, bottom = roi * scale - offset
            rows = _Samples(top, bottom, x.shape[2], size[0], sampling_ratio, half)
            columns = _Samples(left, right, x.shape[3], size[1], sampling_ratio, half)
            taken = _bilinear(_wide(x[image]), rows, columns, largest)
            bins = taken.reshape(x.shape[1], size[0], rows.per_bin, size[1], columns.per_bin)
            if bins.size:
                y[number] = bins.max((2, 4)) if largest else bins.mean((2, 4))
        return (y,)


class _Samples:
    """Where the samples of a region lie along one axis of `length` pixels.

    Attributes:
        per_bin: number in each of `bins`.
        low, high: the pixels around each sample.
        part: how near it is to `high`.
        outside: samples more than a pixel outside, which are 0.
    """

    def __init__(self, start: Any, stop: Any, length: int, bins: int, ratio: int | None, half: bool):
        extent = stop - start if half else max(stop - start, np.float32(1))
        self.per_bin = ratio or int(max(0, np.ceil(extent / bins)))
        step = np.arange(self.per_bin, dtype=np.float32) + np.float32(0.5)
        at = start + np.arange(bins, dtype=np.float32)[:, None] * (extent / bins)
        at = (at + step * (extent / bins) / np.float32(max(1, self.per_bin))).reshape(-1)
        self.outside = ~((at >= -1) & (at <= length))
        at = np.where(self.outside, 0, np.clip(at, 0, length - 1)).astype(np.float32)
        self.low = at.astype(np.int64)
        self.high = np.minimum(self.low + 1, length - 1)
        self.part = at - self.low.astype(np.float32)


def _bilinear(image: np.ndarray, rows: _Samples, columns: _Samples, largest: bool) -> np.ndarray:
    """Samples [C, rows, columns] of an image [C, H, W]: the mean, or the `largest`, of weighted neighbours."""
    parts = []
    for row, tall in ((rows.low, 1 - rows.part), (rows.high, rows.part)):
        for column, broad in ((columns.low, 1 - columns.part), (columns.high, columns.part)):
            parts.append(image[:, row[:, None], column] * (tall[:, None] * broad))
    found = np.maximum.reduce(parts) if largest else (parts[0] + parts[1]) + (parts[2] + parts[3])
    return np.where(rows.outside[:, None] | columns.outside, 0, found)


class NonMaxSuppression(OpRun):
    """Takes the best box of a class, drops those that overlap it too much, and so on; of equal scores, the first."""

    def _run(
        self, boxes, scores, max_output_boxes_per_class=None, iou_threshold=None, score_threshold=None,
        center_point_box=None,
    ):  # fmt: skip
        most, overlap, least = map(_only, (max_output_boxes_per_class, iou_threshold, score_threshold))
        chosen = [
            (image, kind, box)
            for image in range(len(boxes))
            for kind in range(scores.shape[1])
            for box in _kept(
                _corners(boxes[image], center_point_box), scores[image, kind], most or 0, overlap or 0, least
            )
        ]
        return (np.array(chosen, np.int64).reshape(-1, 3),)


def _only(value: np.ndarray | None) -> Any:
    """The one number of a tensor; None: there is none."""
    return None if value is None or not value.size else value.reshape(-1)[0]


def _corners(boxes: np.ndarray, by_centre: Any) -> np.ndarray:
    """Boxes [n, 4] as the lower and the upper end of both axes."""
    if by_centre:
        return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
    return np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], 1)


def _kept(boxes: np.ndarray, scores: np.ndarray, most: int, overlap: Any, least: Any) -> list[int]:
    """Numbers of the boxes of one class that stay, the best first."""
    left = np.argsort(-scores, kind="stable")
    left = left if least is None else left[scores[left] > least]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[int] = []
    while len(left) and len(kept) < most:
        best, left = left[0], left[1:]
        kept.append(int(best))
        sides = np.minimum(boxes[best, 2:], boxes[left, 2:]) - np.maximum(boxes[best, :2], boxes[left, :2])
        shared = np.where((sides > 0).all(1), sides[:, 0] * sides[:, 1], 0)
        union = areas[best] + areas[left] - shared
        counts = (shared > 0) & (areas[best] > 0) & (areas[left] > 0) & (union > 0)
        left = left[~(counts & (shared / np.where(union > 0, union, 1) > overlap))]
    return kept


# Elements by their places.


_REDUCTIONS = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _put(data: np.ndarray, index: tuple[Any, ...], updates: np.ndarray, reduction: str | None) -> np.ndarray:
    """A copy of `data` with `updates` at `index`, one after the other; negative indices count from the end."""
    result = data.copy()
    if reduction in (None, "none"):
        result[index] = updates
    else:
        _REDUCTIONS[reduction].at(result, index, updates)
    return result


class ScatterND(OpRun):
    """Slices put where the last axis of the indices says."""

    def _run(self, data, indices, updates, reduction=None):
        return (_put(data, tuple(np.moveaxis(indices, -1, 0)), updates, reduction),)


class ScatterElements(OpRun):
    """Elements put where the indices say along one axis, and where they are along the others."""

    def _run(self, data, indices, updates, axis=None, reduction=None):
        index: list[Any] = list(np.ogrid[tuple(slice(n) for n in indices.shape)])
        index[axis or 0] = indices
        return (_put(data, tuple(index), updates, reduction),)


class GatherND(OpRun):
    """Slices from where the last axis of the indices says, within the same place of the first `batch_dims` axes."""

    def _run(self, data, indices, batch_dims=None):
        count = batch_dims or 0
        batch = np.ogrid[tuple(slice(n) for n in data.shape[:count])]
        tail = indices.ndim - 1 - count
        where = [place.reshape(*place.shape, *[1] * tail) for place in batch]
        return (data[(*where, *np.moveaxis(indices, -1, 0))],)


FASTER: list[type[OpRun]] = [
    Conv,
    ConvTranspose,
    MaxPool,
    AveragePool,
    RoiAlign,
    NonMaxSuppression,
    ScatterND,
    ScatterElements,
    GatherND,
]

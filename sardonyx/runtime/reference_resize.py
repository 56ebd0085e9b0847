"""Resize and Upsample for `onnx.reference`, which reads a pixel too far left where a sample nearly hits a pixel.

It decides by two roundings of one coordinate whether it hit: of 30 rows made 42, the eleventh is the eighth, and comes
out as the seventh. It also has no version 10 and no version 7.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.reference.ops import _op_list as ops

__all__ = ["Resize", "Upsample"]


class Resize(ops.Resize):
    """Version 10 has inputs (x, scales) and samples at x / scale, rounding down."""

    def _run(self, X, roi=None, scales=None, sizes=None, **options):
        if self.run_params["opsets"][self.op_domain] == 10:
            fixed = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            return (resized(X, roi, None, None, {**options, **fixed}),)
        if options.get("antialias"):
            return super()._run(X, roi, scales, sizes, **options)
        return (resized(X, scales, sizes, roi, options),)


class Upsample(ops.Resize):
    """Only whole factors of mode nearest, and no version 7 (scales as attribute)."""

    def _run(self, X, scales=None, mode=None, **_):
        mode = {"bilinear": "linear"}.get(mode, mode)
        options = {"mode": mode, "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return (resized(X, np.asarray(scales, np.float32), None, None, options),)


def resized(x: np.ndarray, scales: Any, sizes: Any, roi: Any, options: dict[str, Any]) -> np.ndarray:
    """`x` with other sizes, one axis after the other; `options` are the attributes of Resize."""
    axes = [axis % x.ndim for axis in options.get("axes") or range(x.ndim)]
    if scales is not None and np.size(scales):
        scales = [float(scale) for scale in scales]
        out = [int(np.float32(scale) * x.shape[axis]) for axis, scale in zip(axes, scales, strict=True)]
    else:
        out = [int(size) for size in sizes]
        scales = [size / x.shape[axis] for axis, size in zip(axes, out, strict=True)]
        policy = options.get("keep_aspect_ratio_policy") or "stretch"
        if policy != "stretch":
            scales = [min(scales) if policy == "not_larger" else max(scales)] * len(axes)
            out = [int(scale * x.shape[axis] + 0.5) for axis, scale in zip(axes, scales, strict=True)]
    y = x.astype(np.float64)
    for number, (axis, scale, size) in enumerate(zip(axes, scales, out, strict=True)):
        part = None if roi is None or not np.size(roi) else [roi[number], roi[number + len(axes)]]
        if scale != 1 or size != x.shape[axis] or part is not None:
            y = _along(y, axis, scale, size, part, options)
    return onnx.numpy_helper.saturate_cast(y, x.dtype)


def _along(
    x: np.ndarray, axis: int, scale: float, size: int, roi: Sequence[float] | None, options: dict[str, Any]
) -> np.ndarray:
    width = x.shape[axis]
    transform = options.get("coordinate_transformation_mode") or "half_pixel"
    at = _places(transform, size, scale, width, roi or (0.0, 1.0))
    pixels, weights = _TAPS[options.get("mode") or "nearest"](at, options)
    if options.get("exclude_outside"):
        weights = np.where((pixels >= 0) & (pixels < width), weights, 0)
        weights = weights / weights.sum(1, keepdims=True)
    taken = np.take(x, np.clip(pixels, 0, width - 1), axis)
    aligned = weights.reshape(*weights.shape, *[1] * (x.ndim - axis - 1))
    y = (taken * aligned).sum(axis + 1)
    if transform == "tf_crop_and_resize":
        beyond = (at < 0) | (at > width - 1)
        y = np.where(beyond.reshape(-1, *[1] * (x.ndim - axis - 1)), options.get("extrapolation_value") or 0.0, y)
    return y


def _places(transform: str, size: int, scale: float, width: int, roi: Sequence[float]) -> np.ndarray:
    """Where the samples lie among `width` pixels, whose places are whole numbers."""
    y, whole = np.arange(size, dtype=np.float64), scale * width
    if transform == "asymmetric":
        return y / scale
    if transform == "align_corners":
        return y * (width - 1) / (whole - 1) if whole != 1 else 0 * y
    if transform == "tf_crop_and_resize":
        low, high = (end * (width - 1) for end in roi)
        return low + y * (high - low) / (whole - 1) if whole != 1 else 0 * y + (low + high) / 2
    if transform == "pytorch_half_pixel" and whole == 1:
        return 0 * y - 0.5
    shift = width / 2 * (1 - size / whole) if transform == "half_pixel_symmetric" else 0.0
    return shift + (y + 0.5) / scale - 0.5


Taps = tuple[np.ndarray, np.ndarray]  # pixels [size, taps], and how much each counts


def _nearest(at: np.ndarray, options: dict[str, Any]) -> Taps:
    rounding: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "floor": np.floor,
        "ceil": np.ceil,
        "round_prefer_floor": lambda x: np.ceil(x - 0.5),
        "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    }
    pixels = rounding[options.get("nearest_mode") or "round_prefer_floor"](at).astype(np.int64)[:, None]
    return pixels, np.ones(pixels.shape)


def _linear(at: np.ndarray, options: dict[str, Any]) -> Taps:
    low = np.floor(at)
    return low.astype(np.int64)[:, None] + np.arange(2), np.stack([1 - (at - low), at - low], 1)


def _cubic(at: np.ndarray, options: dict[str, Any]) -> Taps:
    """Keys, "Cubic convolution interpolation for digital image processing", 1981."""
    given = options.get("cubic_coeff_a")
    a = -0.75 if given is None else given
    pixels = np.floor(at).astype(np.int64)[:, None] + np.arange(-1, 3)
    d = np.abs(at[:, None] - pixels)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return pixels, np.where(d <= 1, near, np.where(d < 2, far, 0))


_TAPS = {"nearest": _nearest, "linear": _linear, "cubic": _cubic}

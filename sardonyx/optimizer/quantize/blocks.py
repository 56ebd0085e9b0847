"""Weights of 4 bits in blocks: every run of `block` inputs of an output has a scale and a zero point of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sardonyx.optimizer.quantize.numbers import SMALLEST
from sardonyx.optimizer.quantize.rounding import gptq

__all__ = ["Blocks", "gptq_blocks", "half_quadratic", "nearest", "pack"]

LEVELS = 15  # integers are 0 ... 15
MIDDLE = 8  # the zero point of symmetric blocks
# Half-quadratic quantisation: norm, and how the penalty grows (Badri and Shaji, 2023).
_NORM, _PENALTY, _GROWTH, _ROUNDS = 0.7, 10.0, 1.01, 20


@dataclass
class Blocks:
    """Weights [rows, columns] in blocks along the columns; the last block may be shorter, and is padded.

    Attributes:
        integers: uint8 [rows, blocks, block], 0 ... 15.
        scale: float32 [rows, blocks].
        zero: uint8 [rows, blocks].
        columns: how many of the columns count.
    """

    integers: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    columns: int

    def floats(self) -> np.ndarray:
        """What they stand for, float32 [rows, columns]."""
        values = (self.integers.astype(np.float32) - self.zero[..., None]) * self.scale[..., None]
        return values.reshape(len(values), -1)[:, : self.columns]


def _split(W: np.ndarray, block: int) -> np.ndarray:
    """[rows, blocks, block]; what is missing at the end repeats the last column, which changes no range."""
    missing = -W.shape[1] % block
    return np.pad(np.asarray(W, np.float64), ((0, 0), (0, missing)), mode="edge").reshape(len(W), -1, block)


def _ranges(parts: np.ndarray, symmetric: bool) -> tuple[np.ndarray, np.ndarray]:
    """Scales and zero points of blocks (the last axis), so that nothing is cut off."""
    low, high = np.minimum(parts.min(axis=-1), 0), np.maximum(parts.max(axis=-1), 0)
    if symmetric:
        scale = np.maximum(high / (LEVELS - MIDDLE), -low / MIDDLE)
        zero = np.full(scale.shape, MIDDLE)
    else:
        scale = (high - low) / LEVELS
        zero = np.rint(-low / np.maximum(scale, SMALLEST))
    scale = np.where(scale > 0, np.maximum(scale, SMALLEST), 1.0).astype(np.float32)
    return scale, np.clip(zero, 0, LEVELS).astype(np.uint8)


def _integers(parts: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(parts / scale[..., None]) + zero[..., None], 0, LEVELS).astype(np.uint8)


def nearest(W: np.ndarray, block: int, symmetric: bool) -> Blocks:
    """The nearest integers; scales from the ends of each block."""
    parts = _split(W, block)
    scale, zero = _ranges(parts, symmetric)
    return Blocks(_integers(parts, scale, zero), scale, zero, W.shape[1])


def half_quadratic(W: np.ndarray, block: int, symmetric: bool) -> Blocks:
    """HQQ: needs no data. Zero points and scales are moved so that ``sum |W - W'| ** 0.7`` falls: outliers spoil less.

    H. Badri, A. Shaji, "Half-quadratic quantization of large machine learning models", 2023. As there, the largest
    errors are split off by a shrinking threshold, and the zero point that suits the others follows in closed form. Here
    it is an integer in the end, so the scale follows, too, by least squares. Each block keeps the best that was seen.
    """
    parts = _split(W, block)
    scale, zero = _ranges(parts, symmetric)
    moving, shift, penalty = scale.astype(np.float64), zero.astype(np.float64), _PENALTY
    best = Blocks(_integers(parts, scale, zero), scale, zero, W.shape[1])
    least = _cost(parts, best)
    for _ in range(_ROUNDS):
        q = np.clip(np.rint(parts / moving[..., None]) + np.rint(shift)[..., None], 0, LEVELS)
        error = parts - (q - np.rint(shift)[..., None]) * moving[..., None]
        size = np.abs(error)
        threshold = _NORM / penalty * np.maximum(size, 1e-12) ** (_NORM - 1)
        target = parts - np.sign(error) * np.maximum(size - threshold, 0)
        if not symmetric:
            shift = np.clip(np.mean(q - target / moving[..., None], axis=-1), 0, LEVELS)
        centred = q - np.rint(shift)[..., None]
        fitted = np.sum(centred * target, axis=-1) / np.maximum(np.sum(centred**2, axis=-1), 1)
        moving = np.where(fitted > SMALLEST, fitted, moving)
        penalty *= _GROWTH
        tried = Blocks(q, moving.astype(np.float32), np.rint(shift).astype(np.uint8), W.shape[1])
        tried.integers = _integers(parts, tried.scale, tried.zero)
        _keep_better(parts, best, least, tried)
    return best


def _cost(parts: np.ndarray, blocks: Blocks) -> np.ndarray:
    values = (blocks.integers.astype(np.float64) - blocks.zero[..., None]) * blocks.scale[..., None]
    return np.sum(np.abs(parts - values) ** _NORM, axis=-1)


def _keep_better(parts: np.ndarray, best: Blocks, least: np.ndarray, tried: Blocks) -> None:
    cost = _cost(parts, tried)
    better = cost < least
    for name in ("integers", "scale", "zero"):
        getattr(best, name)[better] = getattr(tried, name)[better]
    least[better] = cost[better]


def gptq_blocks(W: np.ndarray, H: np.ndarray, block: int, symmetric: bool) -> Blocks:
    """GPTQ: each column's error is made up for by those to its right, as far as inputs go together; see `rounding`."""
    count = -(-W.shape[1] // block)
    scales, zeros = np.empty((len(W), count), np.float32), np.empty((len(W), count), np.uint8)
    integers = np.empty((len(W), count * block), np.uint8)
    place = 0

    def quantize(columns: np.ndarray, number: int) -> np.ndarray:
        nonlocal place
        if number < 0:
            scales[:, -1 - number], zeros[:, -1 - number] = _ranges(columns, symmetric)
            return columns
        scale, zero = scales[:, number], zeros[:, number]
        integers[:, place] = _integers(columns[:, None], scale, zero)[:, 0]
        place += 1
        return (integers[:, place - 1].astype(np.float64) - zero) * scale

    gptq(W, H, block, quantize)
    integers[:, place:] = zeros[:, -1:]
    return Blocks(integers.reshape(len(W), count, block), scales, zeros, W.shape[1])


def pack(values: np.ndarray) -> np.ndarray:
    """Two integers of 4 bits a byte along the last axis, the first in the low bits; an odd one is padded with 0."""
    values = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, values.shape[-1] % 2)])
    return (values[..., 0::2] | (values[..., 1::2] << 4)).astype(np.uint8)

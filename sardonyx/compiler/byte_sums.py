"""Sums of two quantised tensors in fewer operations, where all 65,536 pairs of bytes come out the same."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np


class Factors(NamedTuple):
    """``round(fma(own - own_zero, own_factor, fma(other, other_factor, offset)))``, all float32."""

    own_factor: float
    other_factor: float
    offset: float


STEPS = (0, 1, -1, 2, -2, 3, -3)  # in the last place of each number: few pairs are that near to a half


def equal_factors(
    own: tuple[int, float], other: tuple[int, float], divisor: float, zero: int, dtype: str
) -> Factors | None:
    """Numbers that give the bytes of ``saturate(round((own + other) / divisor) + zero)`` without its six roundings.

    Args:
        own: Zero point and scale of the bytes that are a kernel's own; a term is ``(byte - zero) * scale`` in float32.
        other: The same of the bytes that are added.
        divisor: Scale of the sum.
        zero: Zero point of the sum.
        dtype: Of all three, int8 or uint8.

    Returns:
        None where no numbers close to the exact ones do, e.g. since ties decide.
    """
    info, single = np.iinfo(dtype), np.float32
    values = np.arange(info.min, info.max + 1)
    left, right = (values - own[0]).astype(single)[:, None], values.astype(single)[None, :]
    terms = left * single(own[1]) + (values - other[0]).astype(single)[None, :] * single(other[1])
    want = np.clip(np.rint(terms / single(divisor)), info.min - zero, info.max - zero)
    exact = own[1] / divisor, other[1] / divisor, -other[0] * (other[1] / divisor)
    if not all(2.0**-8 < abs(number) < 2.0**8 for number in exact[:2]):  # or sums need more bits than float64 has
        return None

    def rounded(numbers: Factors, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        # Products of a byte and a float32 and their sums with float32 are exact in float64, so this rounds as fma does.
        more = (columns.astype(np.float64) * numbers.other_factor + numbers.offset).astype(single)
        total = (rows.astype(np.float64) * numbers.own_factor + more).astype(single)
        return np.clip(np.rint(total), info.min - zero, info.max - zero)

    first = Factors(*(float(single(number)) for number in exact))
    near = np.abs(np.abs(terms / single(divisor) % 1) - 0.5) < 2.0**-10  # only these can differ between candidates
    rows, columns = (np.broadcast_to(side, near.shape)[near] for side in (left, right))
    for steps in product(STEPS, repeat=3):
        found = Factors(*(_moved(number, step) for number, step in zip(first, steps, strict=True)))
        pairs = ((rows, columns, want[near]), (left, right, want))  # the few that decide, then all
        if all(np.array_equal(rounded(found, own_side, other_side), there) for own_side, other_side, there in pairs):
            return found
    return None


def _moved(number: float, steps: int) -> float:
    """`number` moved by so many units in its last place."""
    return float(np.float32(number) + np.float32(steps) * np.spacing(np.float32(number)))


__all__ = ["Factors", "equal_factors"]

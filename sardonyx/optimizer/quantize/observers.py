"""What calibration remembers of a value: its range, or a histogram that grows, in bounded memory."""

from __future__ import annotations

import math

import numpy as np

from sardonyx.errors import InputError

__all__ = ["BINS", "Histogram", "Range"]

BINS = 4096  # on each side of 0; at least half of them are used, so a bin is under 1/2048 of the range


class Range:
    """The smallest and largest value seen."""

    def __init__(self, name: str):
        self.name = name
        self.low, self.high = math.inf, -math.inf

    def update(self, values: np.ndarray) -> None:
        """Take more values into account.

        Raises:
            InputError: some are NaN or infinite.
        """
        if values.size == 0:
            return
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise InputError(
                f"on the calibration data, {self.name!r} is NaN or infinite",
                hint="Remove the sample that causes it, or skip the node that computes it.",
            )
        self.low, self.high = min(self.low, low), max(self.high, high)

    @property
    def empty(self) -> bool:
        """Whether no value was seen."""
        return self.low > self.high


class Histogram(Range):
    """Counts in bins whose width is a power of two, chosen by the largest value so far.

    When a larger value comes, neighbouring bins are merged, so what is counted depends on the values alone, not on
    their order. Exact zeros are counted apart: no quantisation changes them.

    Attributes:
        counts: int64[2 * BINS]; bin i holds [(i - BINS) * width, (i - BINS + 1) * width).
        zeros: how many values are 0.
    """

    def __init__(self, name: str):
        super().__init__(name)
        self.counts = np.zeros(2 * BINS, np.int64)
        self.zeros = 0
        self.width = 0.0

    def update(self, values: np.ndarray) -> None:
        """See `Range.update`."""
        super().update(values)
        flat = values.reshape(-1)
        found = flat[flat != 0]
        self.zeros += flat.size - found.size
        if found.size == 0:
            return
        self._grow(max(-float(found.min()), float(found.max())))
        # float64: a float32 divided by a tiny width may overflow or round across a border.
        places = np.floor(found.astype(np.float64) / self.width).astype(np.int64) + BINS
        self.counts += np.bincount(places, minlength=2 * BINS)

    def _grow(self, largest: float) -> None:
        width = 2.0 ** (math.floor(math.log2(largest)) + 1) / BINS
        if self.width == 0.0:
            self.width = width
        while self.width < width:
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts[:] = 0
            self.counts[BINS // 2 : BINS // 2 + BINS] = merged
            self.width *= 2

    @property
    def centres(self) -> np.ndarray:
        """The middle of each bin, float64."""
        return (np.arange(2 * BINS) - BINS + 0.5) * self.width

    @property
    def total(self) -> int:
        """How many values were seen."""
        return int(self.counts.sum()) + self.zeros

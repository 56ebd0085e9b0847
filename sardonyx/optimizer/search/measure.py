"""Times of two models in turns, and what can be said of their ratio."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

BLOCK = 5_000_000  # nanoseconds that a block takes at least
LEAST_ROUNDS = 9
CLEARLY_SLOWER = 1.1  # there it ends early: no more needs to be known
LONGER = 5.0  # times the time asked for, where an interval is still on both sides of what decides


@dataclass(frozen=True)
class Ratio:
    """Time of one model / time of the other, from blocks that alternate.

    Attributes:
        low, median, high: the median over rounds, and an interval that holds the true one in 95 % of all cases.
        milliseconds: the median of a run of the first.
        reference: the median of a run of the other.
        rounds: how often both were measured.
    """

    low: float
    median: float
    high: float
    milliseconds: float
    reference: float
    rounds: int


def compare_times(
    run: Callable[[], object],
    reference: Callable[[], object],
    seconds: float,
    clock: Callable[[], int] = time.perf_counter_ns,
    decisive: float | None = None,
) -> Ratio:
    """Time `run` and `reference` in turns for `seconds`, or `LEAST_ROUNDS` rounds if that takes longer.

    What slows the machine down for a while falls on both blocks of a round, and the order changes from round to round.
    With `decisive`, a ratio, it goes on while that lies within the interval, up to `LONGER` times as long.
    """
    for call in (run, reference):  # caches, buffers, clock frequency
        call()
        call()
    mine: list[float] = []
    theirs: list[float] = []
    enabled = gc.isenabled()
    gc.disable()
    begin = clock()
    end, last = begin + int(seconds * 1e9), begin + int(seconds * LONGER * 1e9)

    def enough() -> bool:
        if len(mine) < LEAST_ROUNDS:
            return False
        if clock() < end:
            return _hopeless(mine, theirs)
        return decisive is None or clock() >= last or _decided(mine, theirs, decisive)

    try:
        while not enough():
            pairs = [(mine, run), (theirs, reference)]
            for times, call in pairs if len(mine) % 2 == 0 else pairs[::-1]:
                times.append(_block(call, clock))
    finally:
        if enabled:
            gc.enable()
    low, median, high = interval([a / b for a, b in zip(mine, theirs)])
    return Ratio(low, median, high, float(np.median(mine)) / 1e6, float(np.median(theirs)) / 1e6, len(mine))


def _hopeless(mine: Sequence[float], theirs: Sequence[float]) -> bool:
    if len(mine) % LEAST_ROUNDS:
        return False
    return interval([a / b for a, b in zip(mine, theirs)])[0] > CLEARLY_SLOWER


def _decided(mine: Sequence[float], theirs: Sequence[float], ratio: float) -> bool:
    if len(mine) % LEAST_ROUNDS:  # not after each round: who looks often enough sees what he waits for
        return False
    low, _, high = interval([a / b for a, b in zip(mine, theirs)])
    return not low <= ratio <= high


def _block(call: Callable[[], object], clock: Callable[[], int]) -> float:
    """Median nanoseconds of a run."""
    taken: list[int] = []
    first = clock()
    while True:
        start = clock()
        call()
        now = clock()
        taken.append(max(1, now - start))
        if now - first >= BLOCK:
            return float(np.median(taken))


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The median and the order statistics that hold the true one between them in 95 % of all cases, low end first."""
    ordered = sorted(values)
    count = len(ordered)
    outer, below = 0, 0.0  # how many may be left out on each side, and how likely the median is beyond them
    while below + math.comb(count, outer) / 2**count <= 0.025:
        below += math.comb(count, outer) / 2**count
        outer += 1
    outer = max(0, outer - 1)
    return ordered[outer], float(np.median(ordered)), ordered[count - 1 - outer]

"""Measuring: fair comparison with other runtimes, what the machine can do, how threads behave, and tuning."""

from sardonyx.benchmark.runtimes import RUNTIMES, Feeds, Run, load_runtime
from sardonyx.benchmark.versus import (
    Result,
    Timing,
    compare,
    difference,
    machine,
    make_feeds,
    random_array,
)

__all__ = [
    "RUNTIMES",
    "Feeds",
    "Result",
    "Run",
    "Timing",
    "compare",
    "difference",
    "load_runtime",
    "machine",
    "make_feeds",
    "random_array",
]

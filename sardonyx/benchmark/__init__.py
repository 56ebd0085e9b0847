"""Measuring: fair comparison with other runtimes, what the machine can do, how threads behave, and tuning."""

from sardonyx.benchmark.compare import (
    RUNTIMES,
    Feeds,
    Result,
    Run,
    Timing,
    compare,
    difference,
    load_runtime,
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

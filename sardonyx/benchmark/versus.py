"""Fair comparison of runtimes on one model.

Outputs are compared before anything is timed. Then the runtimes take turns: in each block one of them pauses (so
that the spinning threads of the one before come to rest), makes one run that is thrown away, and is timed for a
while; the order rotates from round to round. What disturbs the machine disturbs all of them alike.
"""

from __future__ import annotations

import gc
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sardonyx.benchmark.runtimes import Feeds, Run, load_runtime, version
from sardonyx.errors import InputError, VerificationError
from sardonyx.runtime.threads import available_cpus

PAUSE_SECONDS = 0.05


@dataclass(frozen=True)
class Timing:
    """Times of one runtime, in milliseconds."""

    runtime: str
    version: str
    median: float
    p10: float
    p90: float
    runs: int
    load: float

    @classmethod
    def of(cls, runtime: str, version: str, nanoseconds: Sequence[int], load: float) -> Timing:
        """Summarise single runs, given in nanoseconds, and the time to load, in milliseconds."""
        p10, median, p90 = np.percentile(np.asarray(nanoseconds) / 1e6, [10, 50, 90])
        return cls(runtime, version, float(median), float(p10), float(p90), len(nanoseconds), load)


@dataclass(frozen=True)
class Result:
    """What `compare` found: one timing per runtime, Sardonyx first, and the largest differences."""

    model: str
    threads: int
    inputs: dict[str, list[int]]
    timings: list[Timing]
    differences: dict[str, float]  # runtime -> largest difference, relative to the largest value
    machine: dict[str, Any] = field(default_factory=dict)
    paired: dict[str, list[float]] = field(default_factory=dict)  # runtime -> p10, median, p90 of the ratios of blocks
    flops: int = 0  # operations of one run, two for each multiply-add
    left_out: dict[str, str] = field(default_factory=dict)  # runtime -> why it was not measured

    def speedup(self, runtime: str) -> float:
        """How many times the median of `runtime` is that of Sardonyx; above 1 Sardonyx is faster."""
        medians = {timing.runtime: timing.median for timing in self.timings}
        return medians[runtime] / medians["sardonyx"]

    def gflops(self) -> float:
        """1e9 operations a second at the median of Sardonyx."""
        return self.flops / self.timings[0].median / 1e6


def make_feeds(inputs: Sequence[Any], dims: Mapping[str, int] | None = None, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs for a model.

    Floats are normal, booleans and integers 0 or 1: the only integers that are valid as indices, masks and
    types of tokens alike.

    Args:
        inputs: The inputs of a session (`.name`, `.type`, `.dtype`, `.shape`).
        dims: Sizes of symbolic dimensions; those not named are 1.
        seed: Seed of the generator.

    Raises:
        InputError: an input is not a tensor, or `dims` names a dimension that the model does not have.
    """
    rng = np.random.default_rng(seed)
    sizes = dict(dims or {})
    known = {dim for info in inputs for dim in info.shape or () if isinstance(dim, str)}
    if unknown := sorted(sizes.keys() - known):
        raise InputError(
            f"the model has no dimension called {unknown[0]!r}",
            hint=f"its symbolic dimensions are: {', '.join(sorted(known)) or 'none'}",
        )
    return {info.name: random_array(info, sizes, rng) for info in inputs}


def random_array(info: Any, sizes: Mapping[str, int], rng: np.random.Generator) -> np.ndarray:
    """One random input; see `make_feeds`."""
    if not info.type.startswith("tensor("):
        raise InputError(
            f"input {info.name!r} is {info.type}: only tensors can be made up",
            hint="give it with --input",
        )
    shape = tuple(d if isinstance(d, int) else sizes.get(d or "", 1) for d in info.shape or ())
    if info.dtype == "string":
        return np.full(shape, "a", object)
    dtype = np.dtype(info.dtype)
    if dtype.kind in "biu":
        return rng.integers(0, 2, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = (line.partition(":")[2].strip() for line in file if line.startswith("model name"))
            name = next(names, name)
    except OSError:
        pass  # not Linux: the name that Python knows has to do
    return {
        "cpu": name,
        "cores": available_cpus(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def difference(expected: Sequence[Any], actual: Sequence[Any]) -> float:
    """The largest difference of two lists of outputs, relative to the largest value of each output.

    NaN where only one side has it, and different shapes, count as infinite. Sequences and maps are compared
    element by element.
    """
    if len(expected) != len(actual):
        return float("inf")
    return max((_difference(e, a) for e, a in zip(expected, actual)), default=0.0)


def _difference(expected: Any, actual: Any) -> float:
    if isinstance(expected, Mapping):
        if not isinstance(actual, Mapping) or expected.keys() != actual.keys():
            return float("inf")
        return difference(list(expected.values()), [actual[key] for key in expected])
    if isinstance(expected, (list, tuple)):
        return difference(expected, actual)
    expected, actual = np.asarray(expected), np.asarray(actual)
    if expected.shape != actual.shape:
        return float("inf")
    if expected.dtype.kind in "OUSb" or actual.dtype.kind in "OUSb":
        return 0.0 if np.array_equal(expected, actual) else float("inf")
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    expected, actual = expected.astype(wide), actual.astype(wide)
    same = (expected == actual) | (np.isnan(expected) & np.isnan(actual))
    if same.all():
        return 0.0
    gap = np.abs(expected[~same] - actual[~same])
    if not np.isfinite(gap).all():
        return float("inf")
    finite = np.abs(expected[np.isfinite(expected)])
    scale = float(finite.max()) if finite.size else 0.0
    return float(gap.max()) / max(scale, float(np.finfo(np.float32).tiny))


def compare(
    model: str,
    against: Sequence[str] = (),
    *,
    threads: int,
    dims: Mapping[str, int] | None = None,
    feeds: Feeds | Callable[[Sequence[Any]], Feeds] | None = None,
    seconds: float = 2.0,
    rounds: int = 5,
    tolerance: float = 1e-3,
    leave_out: bool = False,
    target: str | None = None,
) -> Result:
    """Measure Sardonyx, and other runtimes in turn with it.

    Args:
        model: Path of an ONNX file.
        against: Names of other runtimes, from `RUNTIMES`.
        threads: Threads for each of them.
        dims: Sizes of symbolic dimensions, for inputs that are made up.
        feeds: Inputs, or a function that makes them from the inputs of a session; random ones by default.
        seconds: Time to measure each runtime for, in all.
        rounds: Into how many blocks that time is divided.
        tolerance: The largest difference from Sardonyx, relative to the largest value of an output.
        leave_out: A runtime that is missing or fails is left out, and the result says why, instead of an error.
        target: What Sardonyx compiles for; None: this machine.

    Raises:
        VerificationError: outputs differ by more than `tolerance`; nothing has been timed then.
        ProviderError: a runtime is missing.
    """
    from sardonyx.runtime.options import SessionOptions
    from sardonyx.runtime.session import Session

    start = time.perf_counter_ns()
    session = Session(model, SessionOptions(threads=threads, target=target))
    loads = {"sardonyx": (time.perf_counter_ns() - start) / 1e6}
    runs: dict[str, Run] = {"sardonyx": session.run}
    if feeds is None:
        feeds = make_feeds(session.inputs, dims)
    elif callable(feeds):
        feeds = feeds(session.inputs)
    left_out: dict[str, str] = {}
    for name in against:
        start = time.perf_counter_ns()
        try:
            runs[name] = load_runtime(name, model, threads)
            loads[name] = (time.perf_counter_ns() - start) / 1e6
            if leave_out:
                runs[name](feeds)
        except Exception as error:  # whatever another runtime raises
            if not leave_out:
                raise
            runs.pop(name, None)
            left_out[name] = " ".join(str(error).split())[:200] or type(error).__name__
    differences = _verify(runs, feeds, tolerance)
    blocks = take_turns(runs, feeds, seconds / rounds, rounds)
    times = {name: [time for block in parts for time in block] for name, parts in blocks.items()}
    return Result(
        model=os.fspath(model),
        threads=threads,
        inputs={name: list(np.shape(value)) for name, value in feeds.items()},
        timings=[Timing.of(n, version(n), times[n], loads[n]) for n in runs],
        differences=differences,
        machine=machine(),
        paired={name: paired_ratio(blocks["sardonyx"], blocks[name]) for name in runs if name != "sardonyx"},
        flops=session.operations(),
        left_out=left_out,
    )


def paired_ratio(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> list[float]:
    """p10, median and p90 over the rounds of: median of the other's block / median of ours in the same round.

    What slows the machine down for a while falls on both blocks of a round.
    """
    ratios = [float(np.median(b)) / float(np.median(a)) for a, b in zip(ours, theirs, strict=True)]
    return [float(ratio) for ratio in np.percentile(ratios, [10, 50, 90])]


def _verify(runs: Mapping[str, Run], feeds: Feeds, tolerance: float) -> dict[str, float]:
    ours = runs["sardonyx"](feeds)
    differences = {}
    for name, run in runs.items():
        if name == "sardonyx":
            continue
        differences[name] = difference(run(feeds), ours)
        if not differences[name] <= tolerance:
            raise VerificationError(
                f"outputs of sardonyx and {name} differ by {differences[name]:.3g} of the largest value, "
                f"more than {tolerance:.3g}: a comparison of speed would mean nothing",
                hint="a larger --tolerance accepts it, if that is what the model's precision gives",
            )
    return differences


def take_turns(runs: Mapping[str, Run], feeds: Feeds, block_seconds: float, rounds: int) -> dict[str, list[list[int]]]:
    """Nanoseconds of each run in each round, by runtime."""
    times: dict[str, list[list[int]]] = {name: [] for name in runs}
    order = list(runs)
    was_enabled = gc.isenabled()
    gc.disable()  # a collection in the middle of a run is not the runtime's time
    try:
        for _ in range(rounds):
            for name in order:
                times[name].append(_block(runs[name], feeds, block_seconds))
            order.append(order.pop(0))
    finally:
        if was_enabled:
            gc.enable()
    return times


def _block(run: Run, feeds: Feeds, seconds: float) -> list[int]:
    time.sleep(PAUSE_SECONDS)
    run(feeds)
    taken = []
    end = time.perf_counter_ns() + int(seconds * 1e9)
    while True:
        start = time.perf_counter_ns()
        run(feeds)
        now = time.perf_counter_ns()
        taken.append(now - start)
        if now >= end:
            return taken

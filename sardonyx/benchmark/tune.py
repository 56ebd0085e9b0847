"""Measure the alternatives that the catalog lists for a model's kernels, and remember what wins.

One macro of one kernel is varied at a time, the kernel that takes most time first. An alternative and what is best so
far run in turns in this process, and only the steps of that kernel count. It wins when the median of the paired ratios
says that it is more than 2 % faster, twice, and its outputs have the same bits. Measured last is the whole model.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sardonyx.compiler import tuning
from sardonyx.compiler.cache import default
from sardonyx.compiler.compile import rebuild
from sardonyx.deployment.targets import host_target
from sardonyx.errors import InputError, VerificationError
from sardonyx.kernels.catalog import KERNELS
from sardonyx.runtime.loading import Loader
from sardonyx.runtime.native import Library, Variant
from sardonyx.runtime.options import SessionOptions
from sardonyx.runtime.threads import get_pool

__all__ = ["Trial", "Tuning", "tune"]

GAIN = 1.02  # below this an alternative is not worth another cache entry, nor told from noise
LEAST_PAIRS = 5
PAIR_SECONDS = 0.4  # of runs in each of the two measurements that decide
WHOLE_SECONDS = 2.0

Progress = Callable[[float, str], None]
Macros = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Trial:
    """One alternative: how many times as fast the kernel's steps were, and whether that was taken."""

    kernel: str
    macro: str
    value: int
    gain: float
    kept: bool


@dataclass
class Tuning:
    """What `tune` found.

    Attributes:
        model: The file.
        threads: Threads that runs used.
        winners: Macros by kernel; empty where nothing listed is better than what the kernels say.
        trials: Everything that was measured.
        gain: Time of the whole model before / after; p10, median, p90 of paired runs.
        complete: Whether all alternatives were measured; else the time was over, or somebody stopped it.
    """

    model: str
    threads: int
    winners: Macros = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list)
    gain: list[float] = field(default_factory=lambda: [1.0, 1.0, 1.0])
    complete: bool = False


class _Build:
    """A compiled form of the model that is run and timed."""

    def __init__(self, folder: Path, options: SessionOptions):
        library = Library(folder)
        self.variant = Variant(library, (), get_pool(options.threads), options)
        self.calls: list[tuple[int, str]] = library.facts["calls"]
        self.folder = folder

    def run(self, values: list[Any]) -> list[Any]:
        return self.variant.run(values, None)

    def steps(self, values: list[Any], kernel: str) -> int:
        """Nanoseconds that the steps of `kernel` take in one run; of all steps, if its name is empty."""
        before = self._ticks(kernel)
        self.run(values)
        return max(1, self._ticks(kernel) - before)

    def _ticks(self, kernel: str) -> int:
        ticks = self.variant.contexts.all[0].ticks
        assert ticks is not None
        return sum(ticks[number] for number, name in self.calls if name == kernel) if kernel else sum(ticks)


def tune(
    model: str,
    make_feeds: Callable[[Sequence[Any]], Mapping[str, Any]],
    *,
    seconds: float = 60.0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Tuning:
    """Find macros of kernels with which `model` runs faster on this machine, and remember them in the cache.

    Ctrl-C ends the search and keeps the best so far. The model's next session is compiled with the winners.

    Args:
        model: Path of an ONNX file in one piece.
        make_feeds: Makes inputs from those of a session.
        seconds: After which no further alternative is tried.
        threads: Of runs; all that may be used, if None.
        progress: Called with the fraction of the time that is over and what is measured now.

    Raises:
        InputError: The model has external data.
        VerificationError: An alternative changed results; nothing is remembered then.
    """
    from sardonyx.runtime.session import Session

    options = SessionOptions(threads=threads, profile=True, progress=False)
    loader, store, target = Loader(model, options), default(), host_target()
    content = loader.content()
    if not content:
        raise InputError(f"{model} has external data", hint="save it as one file to tune it")
    tuning.remember(store, content, target, {})
    base = loader.folder(again=True)
    session = Session(model, options)
    feeds = make_feeds(session.inputs)
    values = [np.ascontiguousarray(feeds[port.name]) for port in session.inputs]
    session.run(feeds)
    report = Tuning(model, get_pool(threads).threads if threads is None else threads)
    with tempfile.TemporaryDirectory(prefix="sardonyx-tune-") as folder:
        search = _Search(base, Path(folder), options, values, report, seconds, progress)
        try:
            search.run()
        except KeyboardInterrupt:
            report.complete = False
        if report.winners:
            report.gain = search.whole()
            if report.gain[1] < 1.0:  # parts that gain and a whole that loses: it was noise
                report.winners = {}
    tuning.remember(store, content, target, report.winners)
    loader.folder(again=True)
    return report


class _Search:
    def __init__(
        self,
        base: Path,
        folder: Path,
        options: SessionOptions,
        values: list[Any],
        report: Tuning,
        seconds: float,
        progress: Progress | None,
    ):
        self.base, self.folder, self.options, self.values = base, folder, options, values
        self.report, self.seconds, self.progress = report, seconds, progress
        self.start = time.monotonic()
        self.best = self.default = _Build(base, options)
        self.expected = [np.asarray(output).tobytes() for output in self.default.run(values)]
        self.built = 0

    def run(self) -> None:
        for kernel, macro, value in self._alternatives():
            spent = time.monotonic() - self.start
            if spent > self.seconds:
                return
            if self.progress is not None:
                self.progress(spent / self.seconds, f"{kernel} {macro}={value}")
            self._try(kernel, macro, value)
        self.report.complete = True

    def _alternatives(self) -> Iterator[tuple[str, str, int]]:
        """In the order in which they are tried: the slowest kernel first."""
        names = {name for _, name in self.default.calls if KERNELS[name].tunables}
        for _ in range(3):
            cost = {name: self.default.steps(self.values, name) for name in names}
        for name in sorted(names, key=lambda name: -cost[name]):
            for macro, choices in KERNELS[name].tunables.items():
                for value in choices:
                    yield name, macro, value

    def _try(self, kernel: str, macro: str, value: int) -> None:
        winners = {name: dict(macros) for name, macros in self.report.winners.items()}
        winners.setdefault(kernel, {})[macro] = value
        folder = self.folder / str(self.built)
        self.built += 1
        folder.mkdir()
        rebuild(self.base, winners, host_target(), folder)
        candidate = _Build(folder, self.options)
        outputs = [np.asarray(output).tobytes() for output in candidate.run(self.values)]
        if outputs != self.expected:
            raise VerificationError(f"{kernel} gives other bits with {macro}={value}: it must not be in the catalog")
        gain = self._gain(self.best, candidate, kernel, PAIR_SECONDS)[1]
        kept = gain > GAIN
        if kept:  # twice, since the best of many noisy numbers looks good
            gain = min(gain, self._gain(self.best, candidate, kernel, PAIR_SECONDS)[1])
            kept = gain > GAIN
        self.report.trials.append(Trial(kernel, macro, value, gain, kept))
        if kept:
            self.best, self.report.winners = candidate, winners

    def whole(self) -> list[float]:
        """Time of the whole model as it was over that of the best."""
        return self._gain(self.default, self.best, "", WHOLE_SECONDS)

    def _gain(self, old: _Build, new: _Build, kernel: str, seconds: float) -> list[float]:
        """p10, median and p90 of old time / new time, in pairs of runs whose order changes."""
        ratios: list[float] = []
        pair = (old, new)
        for build in pair:
            build.run(self.values)
        end = time.monotonic() + seconds
        while time.monotonic() < end or len(ratios) < LEAST_PAIRS:
            order = pair if len(ratios) % 2 == 0 else pair[::-1]
            times = {id(build): build.steps(self.values, kernel) for build in order}
            ratios.append(times[id(old)] / times[id(new)])
        return [float(ratio) for ratio in np.percentile(ratios, [10, 50, 90])]

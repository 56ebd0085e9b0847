"""Many models x runtimes x threads x batches, into one file of results that grows case by case.

Each case runs in a process of its own, so that a crash costs one case. The file is written after each; a second call
with the same file goes on where the first ended, unless Sardonyx, the machine or the way of measuring has changed.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sardonyx.benchmark.child import ask
from sardonyx.benchmark.peak import measure_peak
from sardonyx.benchmark.runtimes import RUNTIMES, version
from sardonyx.benchmark.versus import machine

__all__ = ["Case", "Settings", "cases", "run_matrix"]

Progress = Callable[[int, int, str], None]
LOADS = 3  # warm loads of which the median counts


@dataclass(frozen=True)
class Case:
    """One model with so many threads and such a batch."""

    model: Path
    threads: int
    batch: int

    @property
    def key(self) -> str:
        """What it is called in the results."""
        return f"{self.model.stem} t{self.threads} b{self.batch}"


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        against: Names of other runtimes; those that are not installed are said to be missing.
        seconds: For each runtime in each case.
        rounds: Into how many blocks that time is divided.
        tolerance: The largest difference of outputs, relative to the largest value.
        dims: Sizes of symbolic dimensions that are not the first of an input.
        budget: Seconds after which no further case begins; None: no limit.
        timeout: Seconds that one case may take.
        loads: Whether to measure loads and memory as well.
        target: What Sardonyx compiles for (`sardonyx.deployment.targets`); None: this machine.
    """

    against: tuple[str, ...] = tuple(RUNTIMES)
    seconds: float = 2.0
    rounds: int = 5
    tolerance: float = 1e-3
    dims: Mapping[str, int] = field(default_factory=dict)
    budget: float | None = None
    timeout: float = 600.0
    loads: bool = True
    target: str | None = None

    def identity(self) -> dict[str, Any]:
        """What has to be the same for old results to count."""
        return {
            "seconds": self.seconds,
            "rounds": self.rounds,
            "dims": dict(self.dims),
            "versions": {name: version(name) for name in ("sardonyx", *self.against)},
            "sources": _sources(),
            **({"target": self.target} if self.target else {}),
        }


def _sources() -> str:
    """A digest of everything that decides what is generated."""
    from sardonyx.compiler.compile import source_digest

    return source_digest()[:16]


def cases(models: Iterable[Path], threads: Sequence[int], batches: Sequence[int]) -> list[Case]:
    """All combinations, the most telling first: most threads and smallest batch of all models, and so on."""
    listed = list(models)
    return [Case(model, t, b) for b in sorted(batches) for t in sorted(threads, reverse=True) for model in listed]


def run_matrix(
    wanted: Sequence[Case],
    settings: Settings,
    file: Path,
    *,
    fresh: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure all cases that `file` does not hold yet; returns what it holds then.

    Args:
        wanted: What to measure, in order.
        settings: How.
        file: JSON, written after each case.
        fresh: Forget what the file holds.
        progress: Called before each step with how many are done, how many there are, and what comes next.

    Raises:
        OSError: The file cannot be written.
    """
    results = _begin(file, settings, fresh)
    installed = [name for name in settings.against if version(name)]
    missing = [name for name in settings.against if not version(name)]
    results["runtimes"] = {name: version(name) for name in ("sardonyx", *installed)}
    results["missing"] = missing
    steps = list(_steps(results, wanted, settings, installed))
    start = time.monotonic()
    results["out_of_time"] = []
    for number, (what, measure) in enumerate(steps):
        if progress is not None:
            progress(number, len(steps), what)
        if settings.budget is not None and time.monotonic() - start > settings.budget:
            results["out_of_time"] = [name for name, _ in steps[number:]]
            break
        measure()
        _write(file, results)
    if progress is not None:
        progress(len(steps), len(steps), "")
    _write(file, results)
    return results


def _steps(
    results: dict[str, Any], wanted: Sequence[Case], settings: Settings, installed: Sequence[str]
) -> Iterator[tuple[str, Callable[[], None]]]:
    """What the results lack, in order: a name, and a function that measures it."""
    for threads in sorted({case.threads for case in wanted}):
        if str(threads) not in results["peak"]:
            yield f"peak of {threads} threads", partial(_peak, results, threads, settings.target)
    for case in wanted:
        if "timings" not in results["cases"].get(case.key, {}):
            yield case.key, partial(_case, results, case, settings, installed)
    for case in _load_cases(wanted) if settings.loads else []:
        for name in results["runtimes"]:
            if name not in results["loads"].get(case.model.stem, {}):
                yield f"load {case.model.stem} {name}", partial(_loads, results, case, settings, name)


def _begin(file: Path, settings: Settings, fresh: bool) -> dict[str, Any]:
    """The results so far, or empty ones."""
    identity = {**settings.identity(), "cpu": machine()["cpu"], "cores": machine()["cores"]}
    if not fresh and file.exists():
        try:
            results = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            results = {}
        if results.get("identity") == identity:
            return results
    facts = {**machine(), "date": time.strftime("%Y-%m-%d")}
    return {"machine": facts, "identity": identity, "peak": {}, "cases": {}, "loads": {}}


def _write(file: Path, results: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    aside.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    os.replace(aside, file)


def _peak(results: dict[str, Any], threads: int, target: str | None) -> None:
    results["peak"][str(threads)] = measure_peak(threads, target=target).as_dict()


def _case(results: dict[str, Any], case: Case, settings: Settings, against: Sequence[str]) -> None:
    request = {
        "kind": "case",
        "model": str(case.model),
        "threads": case.threads,
        "batch": case.batch,
        "against": list(against),
        "seconds": settings.seconds,
        "rounds": settings.rounds,
        "tolerance": settings.tolerance,
        "dims": dict(settings.dims),
        "target": settings.target,
    }
    answer = ask(request, timeout=settings.timeout)
    facts: dict[str, Any] = {"model": case.model.stem, "threads": case.threads, "batch": case.batch}
    results["cases"][case.key] = facts | (answer if "error" in answer else summary(answer, results["peak"]))


def summary(answer: Mapping[str, Any], peaks: Mapping[str, Any]) -> dict[str, Any]:
    """A measured case with what follows from it: ratios of medians and the fraction of the peak."""
    timings = {timing["runtime"]: timing for timing in answer["timings"]}
    ours = timings["sardonyx"]["median"]
    others = {name: timing["median"] / ours for name, timing in timings.items() if name != "sardonyx"}
    peak = peaks.get(str(answer["threads"]))
    gflops = answer["flops"] / ours / 1e6
    return {
        **answer,
        "timings": timings,
        "ratios": others,
        "best": min(others.values()) if others else None,
        "gflops": gflops,
        "of_peak": gflops / peak["gflops"] if peak and answer["flops"] else None,
    }


def _load_cases(wanted: Sequence[Case]) -> list[Case]:
    """One case for each model: the first with its smallest batch."""
    first: dict[Path, Case] = {}
    for case in wanted:
        if case.model not in first or case.batch < first[case.model].batch:
            first[case.model] = case
    return list(first.values())


def _loads(results: dict[str, Any], case: Case, settings: Settings, name: str) -> None:
    """Cold load (empty cache; Sardonyx only), median of warm loads, and peak memory, each in a new process."""
    request = {"kind": "load", "runtime": name, "model": str(case.model), "threads": case.threads}
    request |= {"batch": case.batch, "dims": dict(settings.dims)}
    facts: dict[str, Any] = {}
    if name == "sardonyx":
        with tempfile.TemporaryDirectory(prefix="sardonyx-cold-") as folder:
            cold = ask(request, timeout=settings.timeout, cache=folder)
        facts["cold"] = cold.get("load")
        ask(request, timeout=settings.timeout)  # so that the user's cache has it, whatever ran before
    answers = [ask(request, timeout=settings.timeout) for _ in range(LOADS)]
    good = [answer for answer in answers if "load" in answer]
    if good:
        facts["warm"] = sorted(answer["load"] for answer in good)[len(good) // 2]
        facts["memory"] = max(answer["memory"] for answer in good)
    else:
        facts["error"] = answers[0]["error"]
    results["loads"].setdefault(case.model.stem, {})[name] = facts

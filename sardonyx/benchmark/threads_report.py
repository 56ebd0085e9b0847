"""How a model behaves with threads, beside ONNX Runtime: scaling, a core that is taken, two sessions at once, idleness.

A runtime that spins at barriers looks good alone and bad in company; a service is rarely alone.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sardonyx.benchmark import versus
from sardonyx.benchmark.runtimes import Feeds, Run, load_runtime
from sardonyx.errors import InputError
from sardonyx.runtime.threads import available_cpus

__all__ = ["threads_report"]

OTHER = "onnxruntime"
SPIN = "import os, sys\nif len(sys.argv) > 1: os.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass\n"
IDLE_SECONDS = 0.02
IDLE_GAPS = 15


def threads_report(
    model: str,
    make_feeds: Callable[[Sequence[Any]], Mapping[str, Any]],
    *,
    threads: int | None = None,
    seconds: float = 2.0,
    against: str | None = OTHER,
) -> dict[str, Any]:
    """Measure it all, ready for JSON; times in milliseconds.

    Args:
        model: Path of an ONNX file.
        make_feeds: Makes inputs from those of a session.
        threads: How many to compare with one; as many as may be used, if None.
        seconds: For each runtime in each part.
        against: Another runtime, or None.

    Raises:
        InputError: There is only one thread to be used.
        ProviderError: The other runtime is missing.
    """
    import sardonyx

    threads = threads or available_cpus()
    if threads < 2:
        raise InputError("a report on threads needs at least two", hint="--threads 2")
    session = sardonyx.Session(model, sardonyx.SessionOptions(threads=threads))
    single = sardonyx.Session(model, sardonyx.SessionOptions(threads=1))
    feeds = make_feeds(session.inputs)
    many: dict[str, Run] = {"sardonyx": session.run}
    one: dict[str, Run] = {"sardonyx": single.run}
    second: dict[str, Run] = {"sardonyx": sardonyx.Session(model, sardonyx.SessionOptions(threads=threads)).run}
    if against:
        many[against] = load_runtime(against, model, threads)
        one[against] = load_runtime(against, model, 1)
        second[against] = load_runtime(against, model, threads)
    alone = _scaling(one, many, feeds, threads, seconds)
    return {
        "model": os.fspath(model),
        "threads": threads,
        "machine": versus.machine(),
        "scaling": alone,
        "taken_core": _taken_core(many, feeds, seconds, alone),
        "two_sessions": {name: _two_at_once(many[name], second[name], feeds, seconds) for name in many},
        "idle": {name: _idle(many[name], feeds) for name in many},
    }


def _medians(runs: Mapping[str, Run], feeds: Feeds, seconds: float, rounds: int = 4) -> dict[str, dict[str, float]]:
    blocks = versus.take_turns(runs, feeds, seconds / rounds, rounds)
    found = {}
    for name, parts in blocks.items():
        p10, median, p90 = np.percentile(np.array([time for block in parts for time in block]) / 1e6, [10, 50, 90])
        found[name] = {"median": float(median), "p10": float(p10), "p90": float(p90)}
    return found


def _scaling(one: Mapping[str, Run], many: Mapping[str, Run], feeds: Feeds, threads: int, seconds: float) -> Any:
    """Times with one thread and with all, in turns, and how many times as fast the latter are."""
    runs = {f"{name} 1": run for name, run in one.items()} | {f"{name} {threads}": run for name, run in many.items()}
    times = _medians(runs, feeds, seconds)
    return {
        name: {
            "one": times[f"{name} 1"],
            "all": times[f"{name} {threads}"],
            "speedup": times[f"{name} 1"]["median"] / times[f"{name} {threads}"]["median"],
        }
        for name in many
    }


def _taken_core(many: Mapping[str, Run], feeds: Feeds, seconds: float, alone: Mapping[str, Any]) -> Any:
    """Times while another process keeps one processor busy, and how many times those without it that is."""
    with _busy_core():
        times = _medians(many, feeds, seconds)
    return {name: {**times[name], "slowdown": times[name]["median"] / alone[name]["all"]["median"]} for name in many}


@contextlib.contextmanager
def _busy_core() -> Iterator[None]:
    """A process that spins on the last processor that this one may use."""
    pinned = [str(max(os.sched_getaffinity(0)))] if hasattr(os, "sched_getaffinity") else []
    process = subprocess.Popen([sys.executable, "-c", SPIN, *pinned])
    try:
        time.sleep(0.3)  # it has to start first
        yield
    finally:
        process.kill()
        process.wait()


def _two_at_once(first: Run, second: Run, feeds: Feeds, seconds: float) -> dict[str, float]:
    """Two sessions in two Python threads at once, against the same runs one after the other: milliseconds a run.

    Both want all processors; a ratio of 1 says that they share them without loss.
    """
    start = time.perf_counter()
    for run in (first, second):
        run(feeds)
    count = max(3, int(seconds / 4 / max(time.perf_counter() - start, 1e-6)))
    in_turn, at_once = [], []
    for _ in range(4):
        time.sleep(versus.PAUSE_SECONDS)
        start = time.perf_counter()
        for run in (first, second):
            for _ in range(count):
                run(feeds)
        in_turn.append((time.perf_counter() - start) / (2 * count) * 1e3)
        time.sleep(versus.PAUSE_SECONDS)
        start = time.perf_counter()
        workers = [threading.Thread(target=_repeat, args=(run, feeds, count)) for run in (first, second)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        at_once.append((time.perf_counter() - start) / (2 * count) * 1e3)
    turn, once = float(np.median(in_turn)), float(np.median(at_once))
    return {"one_after_the_other": turn, "at_once": once, "ratio": once / turn}


def _repeat(run: Run, feeds: Feeds, count: int) -> None:
    for _ in range(count):
        run(feeds)


def _idle(run: Run, feeds: Feeds) -> dict[str, float]:
    """Microseconds of processor time that all threads of the process burn after a run, while nothing is to be done."""
    burnt = []
    for _ in range(IDLE_GAPS):
        run(feeds)
        before = time.process_time_ns()
        time.sleep(IDLE_SECONDS)
        burnt.append((time.process_time_ns() - before) / 1e3)
    return {"median": float(np.median(burnt)), "most": float(np.max(burnt))}


def rows(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """The report as rows of a table."""
    found = []
    for name, scaling in report["scaling"].items():
        found.append(
            {
                "runtime": name,
                "1 thread": f"{scaling['one']['median']:.2f} ms",
                f"{report['threads']} threads": f"{scaling['all']['median']:.2f} ms",
                "speed-up": f"{scaling['speedup']:.2f}",
                "one core taken": f"{report['taken_core'][name]['slowdown']:.2f}x as long",
                "two sessions at once": f"{report['two_sessions'][name]['ratio']:.2f} of in turn",
                "idle, CPU burnt": f"{report['idle'][name]['median']:.0f} us",
            }
        )
    return found

"""How much of the ONNX standard works, and how much of it natively: the official cases through `Session`.

    python benchmarks/backend_coverage.py --filter 'conv|pool' --jobs 2 --json coverage.json

Cases run in worker processes with a time limit, so that a crash or a hang counts as one failure and no more.
A pass is *native* if no node of the session was placed outside compiled code.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing as mp
import re
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import onnx_cases  # noqa: E402

NATIVE = {"native", "cpu", "sardonyx"}  # names of providers that are compiled code


@dataclass
class Result:
    """Outcome of one case.

    Attributes:
        outcome: passed, wrong (numbers, types or shapes differ), error, crash or timeout.
        hosted: operators that ran outside compiled code.
        detail: what went wrong.
    """

    name: str
    outcome: str
    seconds: float = 0.0
    hosted: list[str] = field(default_factory=list)
    detail: str = ""


def run_case(name: str) -> Result:
    """Run one case in this process."""
    from sardonyx import Session

    start = time.perf_counter()
    hosted: list[str] = []
    try:
        case = onnx_cases.load(name)
        session = Session(case.model)
        hosted = sorted({_operator(p) for p in session.placement() if str(p.provider).lower() not in NATIVE})
        onnx_cases.run_and_compare(case, session.run)
        outcome, detail = "passed", ""
    except AssertionError as error:
        outcome, detail = "wrong", _shorten(error)
    except Exception as error:
        outcome, detail = "error", f"{type(error).__name__}: {_shorten(error)}"
    return Result(name, outcome, round(time.perf_counter() - start, 4), hosted, detail)


def _operator(placed: Any) -> str:
    return str(placed.operator).rsplit("-", 1)[0]


def _shorten(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _work(pipe: Connection) -> None:
    with contextlib.suppress(EOFError):
        while True:
            pipe.send(run_case(pipe.recv()))


class _Worker:
    """A process that runs one case after another; replaced when it dies or hangs."""

    def __init__(self, context: Any) -> None:
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other,), daemon=True)
        self.process.start()
        other.close()
        self.name: str | None = None
        self.deadline = 0.0

    def start(self, name: str, limit: float) -> None:
        self.name, self.deadline = name, time.monotonic() + limit
        self.pipe.send(name)

    def stop(self) -> int | None:
        self.pipe.close()
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        return self.process.exitcode

    def result(self) -> Result | None:
        """The outcome of the current case, None while it runs."""
        name = self.name or ""
        if self.pipe.poll():
            try:
                return self.pipe.recv()
            except (EOFError, OSError):
                self.process.join(1)
                return Result(name, "crash", detail=f"the process ended with {self.stop()}")
        if time.monotonic() > self.deadline:
            self.stop()
            return Result(name, "timeout")
        return None


def run_all(names: list[str], jobs: int, limit: float) -> Iterator[Result]:
    """Results of all cases, in the order in which they finish."""
    import onnx_ir  # noqa: F401  (imported before forking: a worker, also a replacement, starts at once)

    context = mp.get_context("fork")
    waiting = deque(names)
    busy = [_Worker(context) for _ in range(min(jobs, len(names)))]
    for worker in busy:
        worker.start(waiting.popleft(), limit)
    while busy:
        wait([worker.pipe for worker in busy], timeout=0.5)
        for worker in list(busy):
            result = worker.result()
            if result is None:
                continue
            yield result
            busy.remove(worker)
            died = result.outcome in ("crash", "timeout")
            if waiting:
                successor = _Worker(context) if died else worker
                successor.start(waiting.popleft(), limit)
                busy.append(successor)
            elif not died:
                worker.stop()


def summary(results: list[Result]) -> dict[str, Any]:
    """Counts that make up the report."""
    passed = [result for result in results if result.outcome == "passed"]
    native = [result for result in passed if not result.hosted]
    return {
        "cases": len(results),
        "outcomes": dict(Counter(result.outcome for result in results)),
        "passed": len(passed),
        "passed_native": len(native),
        "share_passed": round(len(passed) / max(len(results), 1), 4),
        "share_native": round(len(native) / max(len(results), 1), 4),
        "hosted_operators": dict(Counter(name for r in passed for name in r.hosted).most_common()),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--filter", default="", metavar="REGEX", help="only cases whose name matches")
    parser.add_argument("--kind", action="append", choices=onnx_cases.KINDS, help="only these kinds of cases")
    parser.add_argument("--jobs", type=int, default=2, help="worker processes")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="limit for one case")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results there")
    parser.add_argument("--show", type=int, default=20, help="how many failures to print")
    return parser.parse_args()


def main() -> int:
    """Command line; 0 if every case passed."""
    options = _options()
    wanted = re.compile(options.filter)
    names = [name for name in onnx_cases.names(options.kind or onnx_cases.KINDS) if wanted.search(name)]
    results = list(run_all(names, max(options.jobs, 1), options.timeout))
    report = summary(results)
    print(f"{report['passed']} of {report['cases']} passed, {report['passed_native']} of them all native")
    print("outcomes:", ", ".join(f"{key} {count}" for key, count in report["outcomes"].items()) or "none")
    if report["hosted_operators"]:
        print("on the host:", ", ".join(f"{k} {v}" for k, v in list(report["hosted_operators"].items())[:30]))
    failures = sorted((r for r in results if r.outcome != "passed"), key=lambda r: r.name)
    for result in failures[: options.show]:
        print(f"{result.outcome:8} {result.name}: {result.detail}")
    if options.json:
        everything = {**report, "results": [asdict(r) for r in sorted(results, key=lambda r: r.name)]}
        options.json.write_text(json.dumps(everything, indent=1) + "\n")
    return 0 if report["passed"] == report["cases"] else 1


if __name__ == "__main__":
    sys.exit(main())

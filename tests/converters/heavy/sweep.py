"""Many architectures, one after the other, into ``benchmarks/results/converters_torch.json``.

    python -m tests.converters.heavy.sweep torchvision
    python -m tests.converters.heavy.sweep transformers gpt2 t5      # these alone, afresh

What is in the file from an earlier run is not converted again, unless it is named; a model that takes longer than
`LIMIT` is a failure with that reason. Seconds in the file are the time that the core worked for a model, compilers left
out, since others may use it too.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from converters.heavy.common import MADE, RESULTS, Row, native_share, record

from sardonyx.converters.convert import Conversion, convert
from sardonyx.converters.factory import kind_of
from sardonyx.errors import SardonyxError
from sardonyx.verifier.compare import FAIL, PASS, QUANTISED

PART = "converters_torch"
LIMIT = 300  # seconds a model


class TooLong(BaseException):
    """Raised wherever the model is being worked on; nothing on the way takes it for an error of its own."""


@dataclass(frozen=True)
class Case:
    """A model to convert.

    Attributes:
        package: where it comes from.
        model: its name.
        make: makes it.
        options: further arguments of `convert`.
    """

    package: str
    model: str
    make: Callable[[], Any]
    options: Mapping[str, Any] = field(default_factory=dict)


def sweep(cases: list[Case], again: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Convert and verify what is not in the file yet; the rows of all `cases`."""
    for case in cases:
        if case.model in again or (not again and row_of(case) is None):
            row = attempt(case)
            record(row, PART)
            print(
                f"{row.model}: {row.verdict or 'not converted'} {row.error} {row.seconds:.0f} s {row.notes}", flush=True
            )
    return [row for row in map(row_of, cases) if row is not None]


def row_of(case: Case) -> dict[str, Any] | None:
    """What the file says about a case."""
    path = RESULTS / f"{PART}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    return next((row for row in rows if (row["package"], row["model"]) == (case.package, case.model)), None)


def attempt(case: Case) -> Row:
    """Convert one model in this process, so that the framework is imported once for all of them."""
    MADE.mkdir(parents=True, exist_ok=True)
    begin = time.process_time()
    made = case.make()
    kind = kind_of(made)
    try:
        with limit(LIMIT):
            result = convert(made, MADE / f"{case.package.partition(' ')[0]}-{case.model}.onnx", **case.options)
            parts = list(result.parts.values()) or [result]
            native = min(native_share(each.path) for each in parts if each.path)
    except (SardonyxError, TooLong) as problem:
        report = getattr(problem, "report", None)
        why = " ".join(str(problem).split())[:400]
        verdict = FAIL if report is not None else ""
        return Row(kind, case.package, case.model, bool(verdict), verdict, None, None, time.process_time() - begin, why)
    notes = "; ".join([*dict.fromkeys(exporter for each in parts for exporter in exporters(each)), *several(parts)])
    verdict, error = judged(parts)
    return Row(kind, case.package, case.model, True, verdict, error, native, time.process_time() - begin, notes)


def judged(parts: list[Conversion]) -> tuple[str, float | None]:
    """The worst verdict and relative error of all files."""
    rows = [row.difference for each in parts if each.report for row in each.report.rows]
    verdict = next(each for each in (FAIL, QUANTISED, PASS) if any(row.verdict == each for row in rows))
    worst = max(row.relative for row in rows)
    return verdict, worst if np.isfinite(worst) else None


def exporters(result: Conversion) -> list[str]:
    """Which exporter it was, and why not the one before."""
    found = [note.removeprefix("exported by ") for note in result.notes if note.startswith("exported by")]
    return found + [note[:200] for note in result.notes if note.startswith("not by")]


def several(parts: list[Conversion]) -> list[str]:
    """That there are several files."""
    return [f"{len(parts)} files"] if len(parts) > 1 else []


@contextlib.contextmanager
def limit(seconds: int) -> Iterator[None]:
    """Raise `TooLong` after some time of work."""

    def over(*_: Any) -> None:
        raise TooLong(f"takes longer than {seconds} s")

    before = signal.signal(signal.SIGPROF, over)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


if __name__ == "__main__":
    import importlib
    import warnings

    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    models = importlib.import_module(f"converters.heavy.{sys.argv[1]}_models")
    sweep(models.cases(), tuple(sys.argv[2:]))

"""What the tests of converters in environments of their own share: converting a real model, and keeping what came out.

A row of ``benchmarks/results/converters.json`` is one model; `make status` shows all of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sardonyx import Session, SessionOptions
from sardonyx.benchmark import machine
from sardonyx.converters.convert import Conversion, convert
from sardonyx.errors import SardonyxError
from sardonyx.verifier.compare import FAIL, PASS, QUANTISED
from sardonyx.verifier.report import Report

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"
_FOLDERS = re.compile(r"(?<![\w.:/])/(?:[\w.+-]+/)+")  # of absolute paths: nobody else has them
MADE = Path(__file__).parents[3] / "out" / "converters"  # converted models, kept for a look


@dataclass(frozen=True)
class Row:
    """What came out for one model.

    Attributes:
        source: the kind of source, a row of `converters.table.KINDS`.
        package: where the model comes from: "basic-pitch 0.4.0", "torchvision 0.29.1, random weights".
        model: which of that.
        converted: whether an ONNX file was made at all.
        verdict: "pass", "within quantisation", "fail", or "" where nothing was compared.
        error: largest difference of any output, relative to its largest value; None: unknown.
        native: share of the nodes that run in C; None: unknown.
        seconds: processor time of conversion and verification together.
        notes: why not, or what should be known.
    """

    source: str
    package: str
    model: str
    converted: bool
    verdict: str = ""
    error: float | None = None
    native: float | None = None
    seconds: float = 0.0
    notes: str = ""


def record(row: Row, part: str = "converters") -> None:
    """Put `row` into ``benchmarks/results/PART.json``, in place of the last one for the same model."""
    path = RESULTS / f"{part}.json"
    with _alone():
        report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": []}
        fields = {**asdict(row), "notes": _FOLDERS.sub("", row.notes)}
        rows = [old for old in report["rows"] if _model(old) != _model(fields)]
        report["rows"] = sorted([*rows, fields], key=lambda each: (each["source"], *_model(each)))
        report["machine"] = {**machine(), "date": time.strftime("%Y-%m-%d")}
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(partial, path)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Wait for other processes that write results: environments may be tested side by side."""
    lock = os.open(RESULTS, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _model(row: Mapping[str, Any]) -> tuple[str, str]:
    """What tells one row from another; not its source, which a model that cannot be opened does not have."""
    return row["package"], row["model"]


def converted(
    source: Any,
    package: str,
    model: str,
    *,
    kind: str = "",
    notes: str = "",
    part: str = "converters",
    **options: Any,
) -> Conversion:
    """`convert` of a model, verified and recorded, whatever comes of it; its error is raised again.

    Args:
        source: as `convert` takes it.
        package: see `Row`.
        model: see `Row`; it also names the file in `MADE`.
        kind: what the row says where the source cannot be opened.
        notes: what should be known beside what the conversion says.
        part: the file of results.
        options: further arguments of `convert`.
    """
    MADE.mkdir(parents=True, exist_ok=True)
    path = MADE / f"{package.partition(' ')[0]}-{model}.onnx".replace("/", "-").replace(" ", "_")
    path.unlink(missing_ok=True)
    begin = _worked()
    try:
        result = convert(source, path, **options, **({"kind": kind} if kind and "kind" not in options else {}))
    except SardonyxError as problem:
        report = getattr(problem, "report", None)
        why = " ".join(str(problem).split())[:300]
        row = Row(kind, package, model, report is not None, seconds=_worked() - begin, notes=why)
        record(Row(**{**asdict(row), **_measured(report)}), part)
        raise
    seconds = _worked() - begin
    assert result.path is not None, "verification was left out"
    notes = "; ".join(filter(None, [notes, _at_the_edges(result.report)]))
    done = Row(result.kind, package, model, True, native=native_share(result.path), seconds=seconds, notes=notes)
    record(Row(**{**asdict(done), **_measured(result.report)}), part)
    return result


def _worked() -> float:
    """Seconds that processors have worked for this process and for children that have ended."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _measured(report: Report | None) -> dict[str, Any]:
    if report is None or not report.rows:
        return {}
    verdicts = {row.difference.verdict for row in report.rows}
    worst = max(row.difference.relative for row in report.rows)
    verdict = next(each for each in (FAIL, QUANTISED, PASS) if each in verdicts)
    return {"verdict": verdict, "error": worst if np.isfinite(worst) else None}


def _at_the_edges(report: Report | None) -> str:
    """A note where inputs out of all proportion alone give the error of the row."""
    if report is None:
        return ""
    edges, others = [0.0], [0.0]
    for row in report.rows:
        (edges if row.sample in ("zeros", "large", "tiny") else others).append(row.difference.relative)
    return f"{max(others):.1e} but for zeros, large, tiny" if max(edges) > 10 * max(others) else ""


def native_share(path: Path) -> float:
    """Share of the nodes of the model at `path` that run in C."""
    places = Session(str(path), SessionOptions(progress=False)).placement()
    return sum(place.provider == "native" for place in places) / max(1, len(places))


def python_of(environment: str) -> Path:
    """The interpreter of another environment, for what has to be made by other packages than these."""
    return Path(os.environ["SARDONYX_ENVIRONMENTS"], environment, "bin", "python")

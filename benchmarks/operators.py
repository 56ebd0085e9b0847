"""Single operators beside ONNX Runtime, into benchmarks/results/operators.json and docs/status.md.

    python benchmarks/operators.py [--threads 1] [--seconds 0.2] [--match conv]

Each case (`operator_cases.py`) is a model of its own with inputs and outputs in NCHW, as a user has them: conversions
to the layouts that kernels read are part of the time, as they are in ONNX Runtime's.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "operators.json"
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from operator_cases import CASES, Case  # noqa: E402

from sardonyx.benchmark.versus import compare, machine, make_feeds  # noqa: E402
from sardonyx.errors import SardonyxError  # noqa: E402

TOLERANCE = 1e-3  # of the largest value


def feeds_of(inputs: Any) -> dict[str, np.ndarray]:
    """Random floats, and positions below 500."""
    feeds = make_feeds(inputs)
    return {name: value % 500 if value.dtype == np.int64 else value for name, value in feeds.items()}


def measure(case: Case, folder: Path, threads: int, seconds: float) -> dict[str, Any]:
    """Milliseconds of both and the ratio of their medians, or why there is none."""
    path = folder / "case.onnx"
    onnx.save(case.model(), path)
    try:
        result = compare(str(path), ["onnxruntime"], threads=threads, feeds=feeds_of, seconds=seconds,
                         tolerance=TOLERANCE)  # fmt: skip
    except SardonyxError as error:
        return {"error": str(error).splitlines()[0]}
    times = {timing.runtime: timing.median for timing in result.timings}
    return {"milliseconds": times, "ratio": result.paired["onnxruntime"][1]}


def main() -> int:
    """Measure the cases whose names contain what is asked for, each kept in the file as it comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.2, help="for each runtime")
    parser.add_argument("--match", default="", help="only cases whose names contain this")
    arguments = parser.parse_args()
    report = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    rows = report.setdefault(f"t{arguments.threads}", {})
    with tempfile.TemporaryDirectory(prefix="sardonyx-operators-") as folder:
        for case in CASES:
            if arguments.match not in case.name:
                continue
            rows[case.name] = row = measure(case, Path(folder), arguments.threads, arguments.seconds)
            print(f"{case.name:32}", row.get("error") or f"{row['ratio']:.2f}", flush=True)
            report["machine"] = {**machine(), "date": time.strftime("%Y-%m-%d")}
            RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

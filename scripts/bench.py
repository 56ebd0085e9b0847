"""Benchmark models against other runtimes and keep the figures in benchmarks/results/.

python scripts/bench.py [--against onnxruntime,openvino] [--threads N] [--dim NAME=SIZE] MODEL.onnx...
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from sardonyx import benchmark
from sardonyx.errors import SardonyxError

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def main() -> int:
    """Measure each model; the exit code is 1 when one could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--against", default="onnxruntime")
    parser.add_argument("--threads", type=int, default=benchmark.machine()["cores"])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--dim", action="append", default=[], metavar="NAME=SIZE")
    arguments = parser.parse_args()
    if not arguments.models:
        parser.error("no model: make bench MODELS='a.onnx b.onnx', or put files into models/")
    dims = {name: int(size) for name, _, size in (text.partition("=") for text in arguments.dim)}
    RESULTS.mkdir(parents=True, exist_ok=True)
    failed = 0
    for path in arguments.models:
        try:
            result = benchmark.compare(
                str(path),
                [name for name in arguments.against.split(",") if name],
                threads=arguments.threads,
                dims=dims,
                seconds=arguments.seconds,
            )
        except SardonyxError as error:
            print(f"{path.name}: {error}", file=sys.stderr)
            failed = 1
            continue
        for timing in result.timings:
            print(
                f"{path.name:30} {timing.runtime:12} {timing.median:9.3f} ms "
                f"[{timing.p10:.3f} .. {timing.p90:.3f}]  x{result.speedup(timing.runtime):.2f}"
            )
        target = RESULTS / f"{path.stem}-{arguments.threads}t.json"
        target.write_text(json.dumps({**asdict(result), "model": path.name}, indent=2) + "\n")
    return failed


if __name__ == "__main__":
    raise SystemExit(main())

"""Measure what docs/status.md reports, a part at a time, into benchmarks/results/.

python benchmarks/figures.py backend            the official cases, by benchmarks/backend_coverage.py
python benchmarks/figures.py agreement          all zoo and packaged models against ONNX Runtime
python benchmarks/figures.py loads [--runs N]   first, second and warm loads; peak memory; each in a new process
python benchmarks/figures.py overhead           one-node model from Python, beside ONNX Runtime

Models come from the folders that tests/models uses; what is missing is said and left out. Each file says on what
machine and when it was measured.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
sys.path.insert(0, str(ROOT / "tests"))
HEAVY = ("resnet50", "bert_base")

# Run in a process of its own: what a user's program pays beyond numpy.
PROBE = """
import sys, time, resource
import numpy as np
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before, start = peak(), time.perf_counter()
import sardonyx
session = sardonyx.Session(sys.argv[1])
loaded = time.perf_counter() - start
feeds = {}
for port in session.inputs:
    shape = [d if isinstance(d, int) else {"b": 1, "s": 128}.get(d, 1) for d in port.shape]
    feeds[port.name] = np.ones(shape, port.dtype)
session.run(feeds)
first = time.perf_counter() - start - loaded
session.run(feeds)
memory = session.memory()
import json
print(json.dumps({"load": loaded, "first_run": first, "peak": peak() - before, **memory}))
"""


def probe(model: Path, cache: str) -> dict[str, Any]:
    """Facts of one load and run in a new process with the cache in folder `cache`."""
    environment = {**os.environ, "SARDONYX_CACHE_DIR": cache}
    command = [sys.executable, "-c", PROBE, str(model)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def loads(runs: int) -> dict[str, Any]:
    """Cold, second and warm loads, and peak memory of warm sessions beyond the interpreter."""
    from models import catalog

    catalog.fill_zoo()
    zoo = catalog.zoo_folder()
    with tempfile.TemporaryDirectory() as cache:
        cold = probe(zoo / "resnet50.onnx", cache)["load"]
        second = probe(zoo / "mobilenet_v2.onnx", cache)["load"]
        probe(zoo / "bert_base.onnx", cache)
        warm = {name: [probe(zoo / f"{name}.onnx", cache) for _ in range(runs)] for name in HEAVY}
    report: dict[str, Any] = {"first_load": cold, "second_load": second}
    for name, facts in warm.items():
        needed = facts[0]["weights"] + facts[0]["arena"]
        report[name] = {
            "warm_load": statistics.median(f["load"] for f in facts),
            "warm_loads": [f["load"] for f in facts],
            "peak": max(f["peak"] for f in facts),
            "weights_and_activations": needed,
            "arena": facts[0]["arena"],
            "bound": facts[0]["bound"],
            "ratio": max(f["peak"] for f in facts) / needed,
        }
    return report


def backend(jobs: int) -> dict[str, Any]:
    """The official cases, each with its outcome and the operators that ran on the host."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "backend.json"
        script = ROOT / "benchmarks" / "backend_coverage.py"
        # Its exit code says whether all cases passed, which the file tells as well.
        subprocess.run([sys.executable, str(script), "--jobs", str(jobs), "--json", str(path)], check=False, cwd=ROOT)
        return json.loads(path.read_text())


def agreement() -> dict[str, Any]:
    """Largest error relative to the output's spread, and how many nodes are not native."""
    from models import catalog
    from models.test_models import onnxruntime_session, relative_error

    import sardonyx

    catalog.fill_zoo()
    report: dict[str, Any] = {}
    for entry in catalog.entries():
        if not entry.path.exists():
            print(f"{entry.name}: not installed")
            continue
        try:
            ours = sardonyx.Session(str(entry.path))
            theirs = onnxruntime_session(entry.path)
            worst = 0.0
            for feeds in entry.feeds():
                for expected, actual in zip(theirs.run(None, feeds), ours.run(feeds), strict=True):
                    worst = max(worst, relative_error(expected, actual))
            hosted = sorted({p.operator for p in ours.placement() if p.provider != "native"})
            report[entry.name] = {"error": worst, "host": hosted, "nodes": len(ours.placement())}
        except Exception as problem:  # one model must not hide the others
            report[entry.name] = {"error": None, "host": [], "problem": f"{type(problem).__name__}: {problem}"[:300]}
        print(entry.name, report[entry.name], flush=True)
    return report


def overhead() -> dict[str, Any]:
    """Microseconds of a run on a one-node model, in alternating blocks."""
    import onnxruntime
    from onnx import TensorProto, helper

    import sardonyx

    report: dict[str, Any] = {}
    for label, shape in (("fixed", [1, 4]), ("dynamic", ["n", 4])):
        value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
        graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "one", value[:1], value[1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        ours, theirs = sardonyx.Session(model), onnxruntime.InferenceSession(model.SerializeToString())
        feeds = {"x": np.ones((1, 4), np.float32)}
        partial = functools.partial
        runs = {"sardonyx": partial(ours.run, feeds), "onnxruntime": partial(theirs.run, None, feeds)}
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(15):
            for name, run in runs.items():
                start = time.perf_counter()
                for _ in range(5000):
                    run()
                times[name].append((time.perf_counter() - start) / 5000 * 1e6)
        report[label] = {name: statistics.median(values) for name, values in times.items()}
    return report


def machine() -> dict[str, Any]:
    """What is measured on, and when."""
    from sardonyx import benchmark

    return {**benchmark.machine(), "date": time.strftime("%Y-%m-%d")}


def main() -> int:
    """Run one part and write its file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("backend", "agreement", "loads", "overhead"))
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--jobs", type=int, default=2, help="worker processes for the official cases")
    arguments = parser.parse_args()
    parts = {
        "backend": lambda: backend(arguments.jobs),
        "agreement": agreement,
        "loads": lambda: loads(arguments.runs),
        "overhead": overhead,
    }
    report = {"machine": machine(), **parts[arguments.part]()}
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{arguments.part}.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({key: value for key, value in report.items() if key != "results"}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

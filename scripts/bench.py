"""Benchmark models against other runtimes into benchmarks/results/, with a page and charts beside each file.

    python scripts/bench.py                        zoo.json: the zoo that the tests use; tabular.json: models made by
                                                   benchmarks/tabular.py; threads.json: how threads behave
    python scripts/bench.py MODEL.onnx...          bench.json: these instead
    python scripts/bench.py --budget 10 --fresh    at most ten minutes, nothing taken over from the last time
    python scripts/bench.py --avx2                 zoo-avx2.json: all runtimes on a processor that knows no AVX-512

A second call measures what is still missing. Needs an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sardonyx.benchmark.matrix import Case, Settings, cases, run_matrix
from sardonyx.benchmark.report import geomeans, measured, settings_of, write_report
from sardonyx.benchmark.runtimes import RUNTIMES
from sardonyx.benchmark.threads_report import threads_report
from sardonyx.benchmark.versus import machine, make_feeds

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DIMS = {"s": 128, "sequence": 128}  # tokens of language models
TABULAR_BATCHES = (1, 10_000)
THREADED = ("resnet50", "resnet18", "mobilenet_v2")


def wanted(arguments: argparse.Namespace) -> dict[str, list[Case]]:
    """All cases by the file that they go into, the most telling first."""
    threads = arguments.threads
    if arguments.models:
        return {"bench": cases(arguments.models, threads, arguments.batches)}
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]
    import tabular
    from models import catalog

    catalog.fill_zoo()
    zoo = sorted(catalog.zoo_folder().glob("*.onnx"))
    trained = tabular.make(catalog.models_folder() / "tabular")
    return {"tabular": cases(trained, threads, TABULAR_BATCHES), "zoo": cases(zoo, threads, arguments.batches)}


def threads_reports(zoo: list[Case], seconds: float, file: Path) -> None:
    """How threads behave on some models, into `file`."""
    paths = {case.model.stem: case.model for case in zoo}
    reports = {
        name: threads_report(str(paths[name]), lambda infos: make_feeds(infos, {}), threads=2, seconds=seconds)
        for name in THREADED
        if name in paths
    }
    if reports:
        named = {name: {**report, "model": paths[name].name} for name, report in reports.items()}
        facts = {"machine": {**machine(), "date": time.strftime("%Y-%m-%d")}, **named}
        file.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def limit_processor(folder: Path) -> None:
    """Let all processes that are started from now on see a processor with AVX2 and nothing beyond."""
    library = folder / "limit_cpu.so"
    source = ROOT / "benchmarks" / "limit_cpu.c"
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-linux-gnu", "-O1", "-shared", "-fPIC"]
    subprocess.run([*compiler, "-o", library, source], check=True)
    os.environ["LD_PRELOAD"] = str(library)


def main() -> int:
    """Measure what is missing; the exit code is 1 when a case could not be measured."""
    numbers = lambda text: [int(number) for number in text.split(",")]  # noqa: E731
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--against", default=",".join(RUNTIMES))
    parser.add_argument("--threads", type=numbers, default=sorted({1, machine()["cores"]}))
    parser.add_argument("--batches", type=numbers, default=[1, 8])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each runtime in each case")
    parser.add_argument("--budget", type=float, help="minutes")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    parser.add_argument("--avx2", action="store_true", help="the zoo alone, on a processor without AVX-512")
    parser.add_argument("--no-loads", action="store_true", help="no load times and memory")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.budget * 60 if arguments.budget else None
    listed = wanted(arguments)
    with tempfile.TemporaryDirectory(prefix="sardonyx-bench-") as folder:
        if arguments.avx2:
            limit_processor(Path(folder))
            listed = {f"{name}-avx2": chosen for name, chosen in listed.items() if name != "tabular"}
        failed = measure_all(listed, arguments, end)
    return int(failed > 0)


def measure_all(listed: dict[str, list[Case]], arguments: argparse.Namespace, end: float | None) -> int:
    """Measure all cases; how many could not be."""
    failed = 0
    for name, chosen in listed.items():
        settings = Settings(
            against=tuple(name for name in arguments.against.split(",") if name),
            seconds=arguments.seconds,
            dims=DIMS,
            budget=max(0.0, end - time.monotonic()) if end else None,
            loads=not (arguments.no_loads or arguments.avx2),
            target="x86_64_v3" if arguments.avx2 else None,
        )
        failed += measure(chosen, settings, arguments.output / f"{name}.json", arguments.fresh)
    if "zoo" in listed and max(arguments.threads) > 1 and not (end and time.monotonic() > end):
        threads_reports(listed["zoo"], arguments.seconds, arguments.output / "threads.json")
    return failed


def measure(chosen: list[Case], settings: Settings, file: Path, fresh: bool) -> int:
    """Measure what `file` lacks, and say what came out; returns how many cases could not be measured."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task(file.stem)
        results = run_matrix(
            chosen,
            settings,
            file,
            fresh=fresh,
            progress=lambda done, total, what: bar.update(task, completed=done, total=total, description=what),
        )
    for threads, batch in settings_of(results):
        means = geomeans(measured(results, threads, batch), [n for n in results["runtimes"] if n != "sardonyx"])
        text = ", ".join(f"{name} {value:.2f}" for name, value in means.items() if value)
        print(f"{file.stem}, {threads} threads, batch {batch}: geometric mean of ratios {text}")
    for path in [file, *write_report(results, file)]:
        print(path)
    failed = [key for key, case in results["cases"].items() if "error" in case]
    for key in failed:
        print(f"{key}: {results['cases'][key]['error']}", file=sys.stderr)
    return len(failed) + len(results["out_of_time"])


if __name__ == "__main__":
    raise SystemExit(main())

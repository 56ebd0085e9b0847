"""Benchmark models against other runtimes into benchmarks/results/zoo.json, with a page and charts beside it.

    python scripts/bench.py                        the zoo that the tests use, and models made by benchmarks/tabular.py
    python scripts/bench.py MODEL.onnx...          these instead
    python scripts/bench.py --budget 10 --fresh    at most ten minutes, nothing taken over from the last time

A second call measures what is still missing. Needs an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sardonyx.benchmark.matrix import Case, Settings, cases, run_matrix
from sardonyx.benchmark.report import geomeans, measured, settings_of, write_report
from sardonyx.benchmark.runtimes import RUNTIMES
from sardonyx.benchmark.versus import machine

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DIMS = {"s": 128, "sequence": 128}  # tokens of language models
TABULAR_BATCHES = (1, 10_000)


def wanted(arguments: argparse.Namespace) -> list[Case]:
    """All cases, the most telling first."""
    threads = arguments.threads
    if arguments.models:
        return cases(arguments.models, threads, arguments.batches)
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]
    import tabular
    from models import catalog

    catalog.fill_zoo()
    zoo = sorted(catalog.zoo_folder().glob("*.onnx"))
    trained = cases(tabular.make(catalog.models_folder() / "tabular"), threads, TABULAR_BATCHES)
    listed = [*cases(zoo, threads, arguments.batches), *trained]
    return sorted(listed, key=lambda case: (-case.threads, case.batch))


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
    parser.add_argument("--no-loads", action="store_true", help="no load times and memory")
    parser.add_argument("--output", type=Path, default=RESULTS / "zoo.json")
    arguments = parser.parse_args()
    settings = Settings(
        against=tuple(name for name in arguments.against.split(",") if name),
        seconds=arguments.seconds,
        dims=DIMS,
        budget=arguments.budget * 60 if arguments.budget else None,
        loads=not arguments.no_loads,
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("benchmark")
        results = run_matrix(
            wanted(arguments),
            settings,
            arguments.output,
            fresh=arguments.fresh,
            progress=lambda done, total, what: bar.update(task, completed=done, total=total, description=what),
        )
    for threads, batch in settings_of(results):
        means = geomeans(measured(results, threads, batch), [n for n in results["runtimes"] if n != "sardonyx"])
        text = ", ".join(f"{name} {value:.2f}" for name, value in means.items() if value)
        print(f"{threads} threads, batch {batch}: geometric mean of ratios {text}")
    for path in write_report(results, arguments.output):
        print(path)
    failed = [key for key, case in results["cases"].items() if "error" in case]
    for key in failed:
        print(f"{key}: {results['cases'][key]['error']}", file=sys.stderr)
    return int(bool(failed or results["out_of_time"]))


if __name__ == "__main__":
    raise SystemExit(main())

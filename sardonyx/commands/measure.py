"""The commands that measure: ``sardonyx bench | profile | tune``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sardonyx.commands.support import (
    batch_dims,
    dims_option,
    inputs_option,
    json_option,
    model_argument,
    print_json,
    print_table,
    read_feeds,
    threads_option,
)
from sardonyx.errors import InputError

if TYPE_CHECKING:
    from sardonyx.runtime.native import Port

_batch = click.option("--batch", type=click.IntRange(1), help="Size of the first dimension of every input.")


class _Numbers(click.ParamType):
    """Several positive numbers with commas between them."""

    name = "N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            numbers = [int(word) for word in value.split(",")]
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers", param, ctx)
        if min(numbers) < 1:
            self.fail(f"{value!r} has a number below 1", param, ctx)
        return numbers


@click.command()
@click.argument("models", nargs=-1, type=click.Path(exists=True))
@click.option("--zoo", type=click.Path(exists=True, file_okay=False), help="All models in a folder.")
@click.option("--against", default="", metavar="NAME,...", help="onnxruntime, openvino, mnn, ncnn.")
@inputs_option
@dims_option
@click.option("--batch", type=_Numbers(), help="Sizes of the first dimension of every input.")
@click.option("--threads", type=_Numbers(), help="Numbers of threads.")
@click.option("--seconds", default=2.0, show_default=True, help="Time to measure each runtime, in each case.")
@click.option("--rounds", default=5, show_default=True, help="Blocks to divide that time into.")
@click.option("--tolerance", default=1e-3, show_default=True, help="Largest relative difference.")
@click.option("--output", type=click.Path(dir_okay=False), help="JSON of many cases; a page and charts go beside it.")
@click.option("--budget", type=float, metavar="MINUTES", help="No further case begins after these.")
@click.option("--fresh", is_flag=True, help="Measure again what --output holds already.")
@click.option("--peak", is_flag=True, help="What the machine can do at best, instead of models.")
@click.option("--threads-report", is_flag=True, help="Scaling, a taken core, two sessions at once, idleness.")
@json_option
def bench(
    models: Sequence[str],
    zoo: str | None,
    against: str,
    inputs: Sequence[str],
    dims: Sequence[str],
    batch: list[int] | None,
    threads: list[int] | None,
    seconds: float,
    rounds: int,
    tolerance: float,
    output: str | None,
    budget: float | None,
    fresh: bool,
    peak: bool,
    threads_report: bool,
    as_json: bool,
) -> None:
    """Time MODELS, verified first and in turn with other runtimes.

    One model in one setting is a table. Several models, or several --threads or --batch, are a file of results
    (--output, sardonyx-bench.json by default) that a second call completes, with a page and charts beside it.
    """
    from sardonyx.benchmark import machine

    counts = threads or [machine()["cores"]]
    others = [name for name in against.split(",") if name]
    if peak:
        _peak(counts, as_json)
        return
    paths = [Path(model) for model in models] + (sorted(Path(zoo).glob("*.onnx")) if zoo else [])
    if not paths:
        raise InputError("no model to measure", hint="sardonyx bench MODEL..., --zoo FOLDER, or --peak")
    if zoo or output or len(paths) * len(counts) * len(batch or [1]) > 1:
        file = Path(output or "sardonyx-bench.json")
        settings = {"seconds": seconds, "rounds": rounds, "tolerance": tolerance, "budget": budget and budget * 60}
        _matrix(paths, counts, batch or [1], others, dims, settings, file, fresh, as_json)
        return
    [model], size = paths, batch[0] if batch else None

    def feeds(infos: Sequence[Port]) -> dict[str, Any]:
        return read_feeds(infos, inputs, [*dims, *batch_dims(infos, size)], seed=0)

    if threads_report:
        _threads_report(str(model), feeds, counts[0], seconds, against, as_json)
    else:
        measures = {"seconds": seconds, "rounds": rounds, "tolerance": tolerance}
        _compare(str(model), others, feeds, counts[0], measures, as_json)


def _compare(
    model: str, others: list[str], feeds: Callable[..., Any], threads: int, measures: dict[str, Any], as_json: bool
) -> None:
    from dataclasses import asdict

    from sardonyx import benchmark

    result = benchmark.compare(model, others, threads=threads, feeds=feeds, **measures)
    if as_json:
        print_json(asdict(result))
        return
    rows = [
        {
            "runtime": f"{timing.runtime} {timing.version}",
            "median ms": f"{timing.median:.3f}",
            "p10": f"{timing.p10:.3f}",
            "p90": f"{timing.p90:.3f}",
            "runs": timing.runs,
            "load ms": f"{timing.load:.0f}",
            "sardonyx is": f"{result.speedup(timing.runtime):.2f}x",
            "difference": f"{result.differences.get(timing.runtime, 0.0):.1e}",
        }
        for timing in result.timings
    ]
    print_table(f"{model}, {threads} threads, {result.machine['cpu']}", rows)


def _matrix(
    paths: list[Path],
    threads: list[int],
    batches: list[int],
    others: list[str],
    dims: Sequence[str],
    settings: dict[str, Any],
    file: Path,
    fresh: bool,
    as_json: bool,
) -> None:
    from sardonyx.benchmark.matrix import Settings, cases, run_matrix
    from sardonyx.benchmark.report import markdown, write_report
    from sardonyx.commands.support import sizes

    how = Settings(against=tuple(others), dims=sizes(dims), **settings)
    with progress_bar("benchmark") as show:
        results = run_matrix(cases(paths, threads, batches), how, file, fresh=fresh, progress=show)
    written = write_report(results, file)
    if as_json:
        print_json(results)
        return
    click.echo(markdown(results))
    click.echo(f"written to {', '.join(map(str, [file, *written]))}")


def _peak(threads: Sequence[int], as_json: bool) -> None:
    from sardonyx.benchmark.peak import measure_peak

    peaks = [measure_peak(count) for count in threads]
    if as_json:
        print_json([peak.as_dict() for peak in peaks])
        return
    rows = [
        {
            "threads": peak.threads,
            "GFLOP/s": f"{peak.gflops:.1f}",
            "GB/s from L2": f"{peak.l2:.1f}",
            "GB/s from memory": f"{peak.dram:.1f}",
        }
        for peak in peaks
    ]
    print_table("The best of this machine", rows)


def _threads_report(
    model: str, feeds: Callable[..., Any], threads: int, seconds: float, against: str, as_json: bool
) -> None:
    from sardonyx.benchmark.threads_report import rows, threads_report

    report = threads_report(model, feeds, threads=threads, seconds=seconds, against=against or None)
    if as_json:
        print_json(report)
    else:
        print_table(f"{model}, {report['machine']['cpu']}", rows(report))


@click.command()
@model_argument
@inputs_option
@dims_option
@_batch
@threads_option
@click.option("--runs", default=20, show_default=True, type=click.IntRange(1), help="Runs to measure.")
@click.option("--limit", default=30, show_default=True, help="Steps to show, the slowest first.")
@click.option("--trace", type=click.Path(dir_okay=False), help="Write a trace for Perfetto or chrome://tracing.")
@json_option
def profile(
    model: str,
    inputs: Sequence[str],
    dims: Sequence[str],
    batch: int | None,
    threads: int | None,
    runs: int,
    limit: int,
    trace: str | None,
    as_json: bool,
) -> None:
    """Show where the time of MODEL goes: milliseconds, GFLOP/s and the fraction of this machine's peak."""
    from sardonyx.benchmark.peak import measure_peak
    from sardonyx.runtime.options import SessionOptions
    from sardonyx.runtime.session import Session
    from sardonyx.runtime.threads import get_pool

    session = Session(model, SessionOptions(threads=threads, profile=True))
    feeds = read_feeds(session.inputs, inputs, [*dims, *batch_dims(session.inputs, batch)], seed=0)
    session.run(feeds)
    session.run(feeds)
    session.reset_profile()
    for _ in range(runs):
        session.run(feeds)
    found = session.profile()
    best = measure_peak(threads or get_pool().threads)
    if trace:
        import json

        Path(trace).write_text(json.dumps(found.chrome_trace()), encoding="utf-8")
    total = {"ms": found.milliseconds, "flops": found.flops, "gflops": found.gflops}
    total["of_peak"] = found.gflops / best.gflops
    operators = [
        {"operator": row.name, "steps": row.calls, "ms": row.nanoseconds / 1e6, "flops": row.flops,
         "gflops": row.flops / max(row.nanoseconds, 1), "of_peak": row.flops / max(row.nanoseconds, 1) / best.gflops}
        for row in found.operators()
    ]  # fmt: skip
    steps = found.rows(best.gflops)
    if as_json:
        print_json({"model": model, "peak": best.as_dict(), "total": total, "operators": operators, "steps": steps})
        return
    slowest = sorted(steps, key=lambda row: -row["ms"])[:limit]
    keys = ("step", "operator")
    print_table(f"Steps of {model}, {runs} runs", [_figures(row, keys, found.milliseconds) for row in slowest])
    print_table("Operators", [_figures(row, ("operator", "steps"), found.milliseconds) for row in operators])
    click.echo(
        f"{total['ms']:.3f} ms, {total['flops'] / 1e9:.3f} GFLOP, {total['gflops']:.1f} GFLOP/s: "
        f"{100 * total['of_peak']:.0f} % of the {best.gflops:.0f} that {best.threads} threads can do"
    )


def _figures(row: Mapping[str, Any], keys: Sequence[str], whole: float) -> dict[str, Any]:
    """A row of a profile as text."""
    figures = {"ms": f"{row['ms']:.3f}", "share": f"{100 * row['ms'] / (whole or 1):.1f} %"}
    figures["GFLOP/s"] = f"{row['gflops']:.1f}" if row["flops"] else ""
    figures["of peak"] = f"{100 * row['of_peak']:.0f} %" if row["flops"] else ""
    return {key: row[key] for key in keys} | figures


@click.command()
@model_argument
@inputs_option
@dims_option
@_batch
@threads_option
@click.option("--time", "seconds", default=60.0, show_default=True, metavar="SECONDS", help="Of the search.")
@json_option
def tune(
    model: str,
    inputs: Sequence[str],
    dims: Sequence[str],
    batch: int | None,
    threads: int | None,
    seconds: float,
    as_json: bool,
) -> None:
    """Find settings of kernels with which MODEL runs faster here, and remember them; results keep their bits.

    Ctrl-C ends the search and keeps the best so far.
    """
    from dataclasses import asdict

    from sardonyx.benchmark.tune import tune as search

    def feeds(infos: Sequence[Port]) -> dict[str, Any]:
        return read_feeds(infos, inputs, [*dims, *batch_dims(infos, batch)], seed=0)

    with progress_bar("tune") as show:
        report = search(
            model,
            feeds,
            seconds=seconds,
            threads=threads,
            progress=lambda part, what: show(int(1000 * part), 1000, what),
        )
    if as_json:
        print_json(asdict(report))
        return
    rows = [
        {
            "kernel": t.kernel,
            "macro": t.macro,
            "value": t.value,
            "gain": f"{t.gain:.3f}",
            "kept": "yes" if t.kept else "",
        }
        for t in report.trials
    ]
    print_table(f"{model}, {report.threads} threads", rows)
    if not report.complete:
        click.echo("the time was over before all alternatives were tried")
    if report.winners:
        low, median, high = report.gain
        click.echo(f"remembered; the model is {median:.3f} times as fast [{low:.3f} .. {high:.3f}]")
    else:
        click.echo("nothing listed is faster than what the kernels say")


@contextlib.contextmanager
def progress_bar(name: str) -> Iterator[Callable[[int, int, str], None]]:
    """A function that shows how many of how many steps are done and what comes next, on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task(name)
        yield lambda done, total, what: bar.update(task, completed=done, total=total, description=f"{name}: {what}")

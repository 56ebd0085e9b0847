"""``sardonyx optimize`` and ``sardonyx deploy``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sardonyx.commands.support import (
    json_option,
    model_argument,
    parse_milliseconds,
    parse_seconds,
    parse_size,
    print_json,
    threads_option,
)
from sardonyx.errors import InputError

if TYPE_CHECKING:
    from sardonyx.optimizer.reading.read import DataOptions
    from sardonyx.optimizer.search.result import Result

NOT_MET, INTERRUPTED = 3, 130

_DATA = (
    click.option("--data", metavar="PATH|MODULE:FUNCTION", help=".npz, .npy, .csv, pictures, or a function."),
    click.option("--calibration", metavar="PATH|MODULE:FUNCTION", help="Data that only calibrates."),
    click.option("--labels", help="File of labels, or the column of a table."),
    click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Rows in each run."),
    click.option("--limit", type=click.IntRange(1), help="Use so many samples at most."),
    click.option("--resize", type=click.IntRange(1), help="Shorter side of pictures, before the middle is cut out."),
    click.option("--mean", metavar="R,G,B", help="Subtracted from pixels between 0 and 1."),
    click.option("--std", metavar="R,G,B", help="Pixels are divided by it then."),
    click.option("--scale", type=float, default=1.0, show_default=True, help="What a pixel of 255 becomes."),
    click.option("--bgr", is_flag=True, help="Blue comes first."),
)
_BUDGET = (
    click.option("--metric", help="accuracy, top-K, f1, map, iou, wer, cer, cosine, snr, ... or MODULE:FUNCTION."),
    click.option("--metric-output", help="Output that is judged; the first by default."),
    click.option("--max-drop", default="0.01", show_default=True, help="Of the metric; or 1% of its value."),
    click.option("--min-metric", type=float, help="The metric's worst value allowed, instead of a drop."),
    click.option("--max-latency", metavar="MS", help="Such as 5ms; not slower than the original by default."),
    click.option("--max-size", metavar="SIZE", help="Of the file, such as 4M."),
    click.option("--max-memory", metavar="SIZE", help="Of weights and activations."),
    click.option("--objective", type=click.Choice(("latency", "size", "memory")), default="latency", show_default=True),
    click.option("--time", "seconds", default="10m", show_default=True, help="That the search may take."),
    click.option("--trials", type=click.IntRange(0), help="Candidates that may be tried."),
    click.option("--seed", default=0, show_default=True, help="Of everything that is random."),
)


def _all(options: Sequence[Callable[..., Any]]) -> Callable[..., Any]:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


@click.command()
@model_argument
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), help="The .onnx file to write.")
@_all(_DATA)
@_all(_BUDGET)
@click.option("--resume", is_flag=True, help="Go on with the search that lies beside the output.")
@click.option("--finetune", is_flag=True, help="Train what pruning leaves, without labels; needs PyTorch.")
@click.option("--recipe", type=click.Path(dir_okay=False), help="Search for nothing: do what this file says.")
@click.option("--report", type=click.Path(dir_okay=False), help="Write a report: FILE.html or FILE.json.")
@threads_option
@json_option
@click.pass_context
def optimize(
    ctx: click.Context,
    model: str,
    output: str,
    data: str | None,
    calibration: str | None,
    resume: bool,
    finetune: bool,
    recipe: str | None,
    report: str | None,
    threads: int | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Make MODEL faster or smaller, within a budget, and prove it on this machine.

    The best so far lies at --output at any moment, its recipe beside it. Exit code 0: OUTPUT keeps the budget, if only
    because it is the original; 3: nothing does, and OUTPUT is the original; 130: Ctrl-C, and OUTPUT is the best so far.
    """
    reading = _data_options(given)
    if recipe:
        _replay(model, output, recipe, data, calibration, reading, as_json)
        return
    from sardonyx.optimizer.optimize import optimize as run

    with _bar(as_json) as progress:
        result = run(
            model,
            output,
            data=data,
            calibration=calibration,
            resume=resume,
            finetune=finetune,
            threads=threads,
            data_options=reading,
            progress=progress,
            **_budget(given),
        )
    if report:
        write_report(result, report)
    _show(result, as_json)
    if result.stopped == "interrupted":
        ctx.exit(INTERRUPTED)
    if not result.met:
        ctx.exit(NOT_MET)


def _replay(
    model: str, output: str, recipe: str, data: str | None, calibration: str | None, reading: Any, as_json: bool
) -> None:
    from sardonyx.optimizer.optimize import replay
    from sardonyx.optimizer.reading.read import DataOptions

    options = None if reading == DataOptions() else reading
    done = replay(model, output, recipe, data=data, calibration=calibration, data_options=options)
    if as_json:
        print_json({"output": str(done.output), "sha256": done.sha256, "notes": done.notes})
        return
    for note in done.notes:
        click.echo(f"note: {note}")
    click.echo(f"{recipe} -> {done.output}, sha256 {done.sha256}")


@click.command()
@click.argument("source")
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False), help="The folder to write.")
@_all(_DATA)
@_all(_BUDGET)
@click.option("--kind", help="Kind of the source, if it is not recognised.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="For the converter, as in convert.")
@click.option("--trust", is_flag=True, help="Run the code that a pickle contains.")
@threads_option
@json_option
def deploy(
    source: str,
    output: str,
    data: str | None,
    calibration: str | None,
    kind: str | None,
    options: Sequence[str],
    trust: bool,
    threads: int | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Convert SOURCE, verify, optimize and build it for this machine, as a folder that runs by itself.

    SOURCE is what `sardonyx convert` takes. The framework, ONNX Runtime where it is installed, and Sardonyx are
    measured side by side.
    """
    from sardonyx.commands.convert import pairs
    from sardonyx.deployment.deploy import deploy as run

    reading = _data_options(given)
    with _bar(as_json) as progress:
        done = run(
            source,
            output,
            data=data,
            calibration=calibration,
            kind=kind,
            options=dict(pairs(options, "--option")),
            trust=trust,
            threads=threads,
            data_options=reading,
            progress=progress,
            **_budget(given),
        )
    if as_json:
        print_json(done.to_json())
        return
    done.show()


def _data_options(given: dict[str, Any]) -> DataOptions:
    from sardonyx.optimizer.reading.read import DataOptions

    numbers: dict[str, Any] = {name: _numbers(given.pop(name), name) for name in ("mean", "std")}
    plain = {name: given.pop(name) for name in ("labels", "batch", "limit", "resize", "scale", "bgr")}
    return DataOptions(**numbers, **{name: value for name, value in plain.items() if value is not None})


def _numbers(text: str | None, option: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise InputError(f"--{option} {text!r}", hint="write numbers: 0.485,0.456,0.406") from None


def _budget(given: dict[str, Any]) -> dict[str, Any]:
    parsers = {"max_latency": parse_milliseconds, "max_size": parse_size, "max_memory": parse_size}
    for name, parse in parsers.items():
        given[name] = None if given[name] is None else parse(given[name])
    given["seconds"] = parse_seconds(given["seconds"])
    return given


@contextmanager
def _bar(quiet: bool) -> Iterator[Callable[[float, str], None]]:
    """A bar with the best so far, on a terminal; lines where there is none."""
    if quiet:
        yield lambda part, text: None
        return
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = BarColumn(24), TimeElapsedColumn(), TextColumn("{task.description}", markup=False)
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda part, text: bar.update(task, description=text, completed=part or None)


class _Lines:
    """Progress where nothing can be overwritten: what is the best so far, when that changes."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, part: float, text: str) -> None:
        _, found, best = text.partition("best so far: ")
        if found and best != self._last:
            self._last = best
            click.echo(f"best so far: {best}", err=True)


def write_report(result: Result, path: str) -> None:
    """The report as HTML or JSON, as the name of the file says."""
    from sardonyx.optimizer.search.page import page

    document = page(result) if path.endswith(".html") else json.dumps(result.to_json(), indent=1)
    Path(path).write_text(document, encoding="utf-8")


def _show(result: Result, as_json: bool) -> None:
    if as_json:
        print_json(result.to_json())
        return
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 200).print(result.table())
    for note in result.notes:
        click.echo(f"note: {note}")
    click.echo(f"{result.stopped}, after {result.seconds:.0f} s and {len(result.candidates)} candidates")
    click.echo(result.summary())
    click.echo(f"written: {result.output}, {result.recipe}; candidates: {result.store}")

"""``sardonyx convert`` and ``sardonyx verify``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sardonyx.errors import InputError, VerificationError

if TYPE_CHECKING:
    import numpy as np

    from sardonyx.verifier.report import Report

_report = click.option("--report", type=click.Path(dir_okay=False), help="Write a report: FILE.html or FILE.json.")
_samples = click.option(
    "--input", "samples", multiple=True, metavar="FILE.npz", help="Real inputs, by name; repeatable."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")


@click.command()
@click.argument("source")
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), help="The .onnx file to write.")
@click.option("--kind", help="Kind of the source, if it is not recognised.")
@click.option("--opset", type=click.IntRange(7), help="Version of the standard's operators to aim at.")
@click.option("--dim", "dims", multiple=True, metavar="INPUT.AXIS=SIZE", help="Size, or name, of an open dimension.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="factory=, signature=, task=, ...")
@click.option("--trust", is_flag=True, help="Run the code that a pickle contains.")
@click.option("--no-verify", is_flag=True, help="Write NAME.unverified.onnx without comparing.")
@_samples
@_report
@_json
def convert(
    source: str,
    output: str,
    kind: str | None,
    opset: int | None,
    dims: Sequence[str],
    options: Sequence[str],
    trust: bool,
    no_verify: bool,
    samples: Sequence[str],
    report: str | None,
    as_json: bool,
) -> None:
    """Convert SOURCE, a model of any framework, to a verified ONNX file.

    SOURCE is a file, a folder, or module:factory, a Python function that returns the model. One that is several models,
    an encoder and its decoder say, gives NAME_encoder.onnx, NAME_decoder.onnx and so on.
    """
    from sardonyx.converters.convert import convert as run

    with _status(as_json) as progress:
        try:
            result = run(
                source,
                output,
                kind=kind,
                opset=opset,
                dims={name: int(value) if value.isdigit() else value for name, value in pairs(dims, "--dim")},
                samples=[_arrays(path) for path in samples],
                options=dict(pairs(options, "--option")),
                trust=trust,
                verify=not no_verify,
                depth=report is not None,
                progress=progress,
            )
        except VerificationError as error:
            found = getattr(error, "report", None)
            if found is not None:
                _show(found, report, as_json)
            raise
    for name, part in (result.parts or {"": result}).items():
        for note in part.notes:
            click.echo(f"note: {note}", err=as_json)
        if part.report is not None:
            _show(part.report, _of_part(report, name), as_json)
        click.echo(f"{part.kind} -> {part.path or part.unverified}", err=as_json)


@click.command()
@click.argument("stages", nargs=-1, required=True)
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="For sources, as in convert.")
@click.option("--trust", is_flag=True, help="Run the code that a pickle contains.")
@_samples
@_report
@_json
def verify(
    stages: Sequence[str],
    options: Sequence[str],
    trust: bool,
    samples: Sequence[str],
    report: str | None,
    as_json: bool,
) -> None:
    """Compare STAGES, forms of one model, with the first of them.

    A stage is an ONNX file, or any source that `convert` takes; RUNTIME:FILE.onnx runs the file under reference,
    native, onnxruntime or openvino. One ONNX file alone is compared under reference and native.
    """
    from sardonyx.verifier.verify import verify as run

    with _status(as_json) as progress:
        found = run(
            stages,
            [_arrays(path) for path in samples],
            options=dict(pairs(options, "--option")),
            trust=trust,
            depth=report is not None,
            progress=progress,
        )
    _show(found, report, as_json)
    if not found.passed:
        raise VerificationError(found.summary())


@contextmanager
def _status(quiet: bool) -> Iterator[Callable[[str], None]]:
    """A line that says what is being done, on a terminal only."""
    from rich.console import Console

    console = Console(stderr=True)
    if quiet or not sys.stderr.isatty():
        yield lambda text: None
        return
    with console.status("starting") as status:
        yield lambda text: status.update(text)


def _of_part(path: str | None, part: str) -> str | None:
    """Each part of a model has a report of its own: ``report_encoder.html``."""
    return path and str(Path(path).with_stem(f"{Path(path).stem}_{part}" if part else Path(path).stem))


def _show(found: Report, path: str | None, as_json: bool) -> None:
    if path:
        from sardonyx.verifier.html import page

        document = page(found) if path.endswith(".html") else json.dumps(found.to_json(), indent=2, default=str)
        Path(path).write_text(document, encoding="utf-8")
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2, default=str))
        return
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 160).print(found.table())
    for note in found.notes:
        click.echo(f"note: {note}")
    click.echo(found.summary())
    if found.suspect is not None:
        click.echo(str(found.suspect))


def _arrays(path: str) -> dict[str, np.ndarray]:
    import numpy as np

    try:
        content: Any = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return {"0": content}
        with content:
            return {name: content[name] for name in content.files}
    except (ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read as numpy arrays: {error}") from error


def pairs(texts: Sequence[str], option: str) -> Iterator[tuple[str, str]]:
    """``NAME=VALUE`` as pairs."""
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise InputError(f"{option} {text!r}", hint="write NAME=VALUE")
        yield name, value

"""`convert`: a model of any framework becomes a verified ONNX file."""

from __future__ import annotations

import contextlib
import importlib
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sardonyx.converters import table
from sardonyx.converters.factory import kind_of
from sardonyx.converters.process import Exported, Worker
from sardonyx.converters.recognise import recognise, whole
from sardonyx.converters.source import Dim, Request
from sardonyx.converters.tidy import tidy
from sardonyx.errors import VerificationError

if TYPE_CHECKING:
    from sardonyx.verifier.report import Report


@dataclass
class Conversion:
    """What `convert` did.

    Attributes:
        path: the file written; None where verification failed.
        kind: the kind of the source, a row of `table.KINDS`.
        notes: what the converter says: the exporter chosen, dimensions made dynamic, and so on.
        report: the verification; None where it was not asked for.
        unverified: where the file lies if it was not verified, or failed.
        parts: one conversion for each file, by name, of a source that becomes several; the other attributes are then
            those of the first.
    """

    path: Path | None
    kind: str
    notes: list[str] = field(default_factory=list)
    report: Report | None = None
    unverified: Path | None = None
    parts: dict[str, Conversion] = field(default_factory=dict)


def convert(
    source: Any,
    output: str | os.PathLike[str],
    *,
    kind: str | None = None,
    opset: int | None = None,
    dims: Mapping[str, Dim] | None = None,
    samples: Sequence[Mapping[str, np.ndarray]] = (),
    options: Mapping[str, str] | None = None,
    trust: bool = False,
    verify: bool = True,
    depth: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> Conversion:
    """Convert a model to standard ONNX and prove that it computes the same.

    The framework works in a child process. The file appears under its name only when it is verified; one that is not
    is kept as ``NAME.unverified.onnx``. A source that becomes several models (an encoder and its decoder) gives
    ``NAME_encoder.onnx`` and so on; the option ``part`` chooses one of them.

    Args:
        source: a file, a folder, ``module:factory`` (a function without arguments that returns the model), or the
            model itself, which is then converted in this process.
        output: the .onnx file to write.
        kind: a row of `table.KINDS`; None: recognised by content.
        opset: version of the standard's operators to aim at; None: the converter's choice.
        dims: see `Request.dims`.
        samples: inputs to trace and verify with; two sets of different sizes make those dimensions dynamic.
        options: what only some converters know, such as ``factory``, ``signature``, ``task``.
        trust: whether code that the source holds (a pickle) may run.
        verify: False writes ``NAME.unverified.onnx`` only.
        depth: also compare values along the depth of the network, for the plot of a report.
        progress: called with a few words at each long step.

    Raises:
        SourceError: the source cannot be read, is of an unknown kind, or needs `trust`.
        ProviderError: a package is missing; the hint says which and how to install it.
        ConversionError: a part of it has no ONNX form; the node, the reason and a way out are named.
        VerificationError: the result differs; it is kept under its unverified name, `report` is an attribute.
    """
    output = Path(output)
    made = None if isinstance(source, (str, os.PathLike)) else source
    source = os.fspath(source) if made is None else f"<{type(made).__name__}>"
    if made is not None:
        kind = kind or kind_of(made)
    if kind is None:
        source, kind = whole(source, recognise(source), options or {})
    row = table.kind_called(kind)
    table.check_trust(row, source, trust)
    table.require(row, verify)
    request = Request(source, row.name, opset, dict(dims or {}), [dict(s) for s in samples], dict(options or {}), trust)
    output.parent.mkdir(parents=True, exist_ok=True)
    with _opened(request, made, progress) as opened:
        parts = opened.parts()
        if not parts:
            return _write(opened, request, output, verify, depth, progress)
        written = {}
        for part in parts:
            opened.choose(part)
            path = output.with_name(f"{output.stem}_{part}.onnx")
            written[part] = _write(opened, request, path, verify, depth, progress)
        return replace(written[parts[0]], parts=written)


def _write(
    opened: Exported, request: Request, output: Path, verify: bool, depth: bool, progress: Callable[[str], None]
) -> Conversion:
    """Export, tidy, verify and name one file."""
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".convert-") as folder:
        partial = Path(folder) / output.name
        notes = opened.export(partial)
        progress("tidying")
        tidy(partial)
        result = Conversion(None, request.kind, notes)
        if verify:
            from sardonyx.verifier.verify import verify_conversion

            result.report = verify_conversion(opened, partial, request, progress, depth)
        if result.report is not None and result.report.passed:
            result.path = move_model(partial, output)
            return result
        result.unverified = move_model(partial, output.with_name(f"{output.stem}.unverified.onnx"))
    if result.report is not None:
        error = VerificationError(
            f"{output.name} does not compute what {request.source!r} computes: {result.report.summary()}",
            hint=f"It is kept as {result.unverified}.",
        )
        error.report = result.report  # type: ignore[attr-defined]
        raise error
    return result


def _opened(
    request: Request, made: Any, progress: Callable[[str], None]
) -> contextlib.AbstractContextManager[Exported]:
    """The source in a child process, or, an object, in this one."""
    if made is None:
        return Worker(request, progress)
    module = importlib.import_module(f"sardonyx.converters.{table.kind_called(request.kind).converter}")
    return contextlib.nullcontext(module.open_source(request, progress, made))


def move_model(source: Path, target: Path) -> Path:
    """Give a model, and the weights beside it if it has any, another name; both are on one file system."""
    from sardonyx.model.load import external_files, load
    from sardonyx.model.save import save

    if external_files(source):  # the data file is named inside the model: write both afresh
        save(load(source), target, external=True)
    else:
        os.replace(source, target)
    return target

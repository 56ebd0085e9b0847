"""`verify`: any number of stages on the same inputs, each compared with the first."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sardonyx.converters.onnx_file import model_inputs
from sardonyx.converters.table import kind_called
from sardonyx.errors import InputError, SardonyxError
from sardonyx.model.load import load
from sardonyx.verifier.blame import locate
from sardonyx.verifier.compare import compare
from sardonyx.verifier.depth import along_depth
from sardonyx.verifier.report import Report, Row
from sardonyx.verifier.samples import Sample, make_samples
from sardonyx.verifier.stages import OnnxStage, SourceStage, Stage
from sardonyx.verifier.ties import settle_ties
from sardonyx.verifier.tolerance import Tolerance, tolerances

JUMP = 0.01  # relative to the largest value: more than rounding does where a model is smooth

if TYPE_CHECKING:
    from sardonyx.converters.process import Exported
    from sardonyx.converters.source import Input, Request

_DRAWS = 4  # of moved inputs, where one was not enough to tell


def verify_stages(
    stages: Sequence[Stage],
    samples: Sequence[Sample],
    outputs: Mapping[str, Tolerance],
    progress: Callable[[str], None] = lambda text: None,
    depth: bool = False,
) -> Report:
    """Compare each stage with the first on every sample.

    Args:
        stages: the first is the truth.
        samples: inputs.
        outputs: names of the outputs, in order, and how much each may be off.
        progress: called with a few words at each long step.
        depth: also compare values along the depth of the network, in the last stage.

    A sample that the first stage itself refuses (a size that the architecture does not allow, say) is skipped and
    noted; one that only a later stage refuses is a failure of that stage.
    """
    report = Report([stage.name for stage in stages])
    truth, *others = stages
    for sample in samples:
        progress(f"comparing: {sample.title}")
        try:
            expected = truth.run(sample.feeds)
        except SardonyxError as problem:
            report.notes.append(f"{truth.name} refuses the sample {sample.title!r}: {problem.message}")
            continue
        if sample.title == "typical" and random_outputs(truth, sample, expected):
            report.notes.append(
                f"{truth.name} gives other values when run again: it is random (dropout, sampling), or keeps a state"
            )
            return report
        if sample.title == "typical":
            outputs = conditioned(truth, sample, expected, outputs) or outputs
        for stage in others:
            rows = compare_stage(stage, sample, expected, outputs, report.notes)
            if any(row.difference.failed for row in rows):
                # Is it the model that magnifies rounding here, where it does not for typical values?
                allowed = conditioned(truth, sample, expected, outputs, draws=_DRAWS)
                if allowed is None and sample.corner:
                    report.notes.append(
                        f"the sample {sample.title!r} decides nothing about {stage.name}: {truth.name} itself gives "
                        "other results when its inputs move by a unit in the last place"
                    )
                    continue
                rows = compare_stage(stage, sample, expected, allowed or outputs, report.notes)
            report.rows += rows
            if report.suspect is None and any(row.difference.failed for row in rows):
                progress(f"looking for the first node that differs in {stage.name}")
                report.suspect = locate(truth, stage, sample.feeds, progress)
        if depth and not report.depth:
            report.depth = along_depth(truth, others[-1], sample.feeds, progress)
    return report


def random_outputs(truth: Stage, sample: Sample, expected: Sequence[np.ndarray]) -> bool:
    """Whether a second run gives other values by more than the rounding of threads."""
    again = truth.run(sample.feeds)
    loose = Tolerance(2.0**-24, 1e4)
    return any(compare(e, a, loose).failed for e, a in zip(expected, again, strict=True))


def conditioned(
    truth: Stage,
    sample: Sample,
    expected: Sequence[np.ndarray],
    outputs: Mapping[str, Tolerance],
    draws: int = 1,
) -> dict[str, Tolerance] | None:
    """`outputs` with the amplification of rounding that the model itself shows on this sample; None: it jumps.

    The inputs are moved by a unit in the last place, up or down at random; what that does to the outputs is what
    rounding in the first layers does to any form of the model. It differs between samples: large inputs saturate a
    softmax, whose scores then decide by their last bits. Zeros move by a unit of 1: what is rounded there are biases.
    The largest effect of `draws` counts: in one alone, moves of a few inputs may cancel out.

    Where the outputs jump (other shapes or labels, values off by more than `JUMP`), decisions inside of the model hang
    on rounding. No tolerance is right then: it would have to allow anything.
    """
    rng = np.random.default_rng(0)
    found = dict(outputs)
    for _ in range(draws):
        try:
            again = settle_ties(expected, truth.run(_moved(sample.feeds, rng)), list(outputs.values()))[0]
        except SardonyxError:
            return found
        for (name, tolerance), e, a in zip(outputs.items(), expected, again, strict=False):
            difference = compare(e, a, tolerance)
            if difference.relative > JUMP or (e.dtype.kind != "f" and difference.failed):
                return None
            if e.dtype.kind == "f":
                found[name] = replace(tolerance, noise=max(found[name].noise, difference.relative))
    return found


def _moved(feeds: Mapping[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Inputs a unit in the last place away."""
    moved = dict(feeds)
    for name, array in feeds.items():
        if array.dtype.kind == "f":
            unit = (rng.choice([-1, 1], array.shape) * np.finfo(array.dtype).eps).astype(array.dtype)
            moved[name] = array * (1 + unit) if np.any(array) else unit
    return moved


def compare_stage(
    stage: Stage,
    sample: Sample,
    expected: Sequence[np.ndarray],
    outputs: Mapping[str, Tolerance],
    notes: list[str],
) -> list[Row]:
    """One row per output; `notes` gets what should be known beside."""
    nothing = np.zeros(0)
    try:
        actual = stage.run(sample.feeds)
    except SardonyxError as problem:
        failed = compare(np.ones(1), nothing, Tolerance(0, 0))
        return [Row(stage.name, sample.title, "", type(failed)(**{**failed.__dict__, "reason": problem.message}))]
    rows = []
    actual, moved = settle_ties(expected, actual, list(outputs.values()))
    note = f"{stage.name}, {sample.title}: {moved} rows whose scores tie stand in another order"
    if moved and note not in notes:
        notes.append(note)
    for number, (name, tolerance) in enumerate(outputs.items()):
        pair = [side[number] if number < len(side) else nothing for side in (expected, actual)]
        rows.append(Row(stage.name, sample.title, name, compare(pair[0], pair[1], tolerance)))
    return rows


def verify_conversion(
    source: Exported,
    path: Path,
    request: Request,
    progress: Callable[[str], None] = lambda text: None,
    depth: bool = False,
) -> Report:
    """Compare a source with the ONNX file made from it, under the reference and under Sardonyx.

    Where the source's framework is no longer to be had, these two are compared with each other, and a note says so.
    """
    inputs = with_ranges(model_inputs(load(path)), source.inputs())
    given = [_named(sample, [each.name for each in inputs]) for sample in request.samples]
    given = [sample for sample in given if {each.name for each in inputs} <= sample.keys()]  # those of this part
    samples = make_samples(inputs, given, sizes=source.sizes())
    kind = kind_called(request.kind)
    stages: list[Stage] = [OnnxStage(path, "reference"), OnnxStage(path, "native")]
    if kind.runnable:
        stages.insert(0, SourceStage(request.kind, source))
    report = verify_stages(stages, samples, output_tolerances(path, kind.runnable), progress, depth)
    if not kind.runnable:
        report.notes.append(
            f"{kind.runs[0]} is not installed: not the source was compared, only two runtimes with each other"
        )
    return report


def with_ranges(inputs: Sequence[Input], described: Sequence[Input]) -> list[Input]:
    """The inputs of a file with the ranges of values that the source knows."""
    known = {each.name: each for each in described}
    found = []
    for each in inputs:
        more = known.get(each.name, each)
        found.append(replace(more, dtype=each.dtype, shape=each.shape))
    return found


def output_tolerances(path: Path, from_source: bool = False) -> dict[str, Tolerance]:
    """What the outputs of an ONNX file may be off by, in order; `from_source`: from what it was made of."""
    model = load(path)
    allowed = tolerances(model, from_source=from_source)
    return {str(v.name): allowed.get(str(v.name), Tolerance(2.0**-24, 1.0)) for v in model.graph.outputs}


def _named(sample: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Samples may be given by position."""
    return {names[int(key)] if key.isdigit() and key not in names else key: value for key, value in sample.items()}


def verify(
    stages: Sequence[str],
    samples: Sequence[Mapping[str, np.ndarray]] = (),
    *,
    options: Mapping[str, str] | None = None,
    trust: bool = False,
    depth: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> Report:
    """Compare forms of one model with the first of them.

    Args:
        stages: ONNX files, ``runtime:file.onnx`` (reference, native, onnxruntime, openvino), or sources that
            `convert` takes; one file alone is compared under the reference and under Sardonyx.
        samples: real inputs, by name or position.
        options: for sources, see `convert`.
        trust: whether code that a source holds may run.
        depth: also compare values along the depth of the network, for a plot.
        progress: called with a few words at each long step.

    Raises:
        SourceError, ProviderError, ModelError: a stage cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        opened = [_opened(text, samples, dict(options or {}), trust, progress, stack) for text in stages]
        if len(opened) == 1:
            opened.append(OnnxStage(opened[0].path, "native"))
        inputs = opened[0].inputs()
        given = [_named(sample, [each.name for each in inputs]) for sample in samples]
        samples_of = make_samples(inputs, given, sizes=opened[0].sizes())
        allowed = output_tolerances(opened[-1].path, isinstance(opened[0], SourceStage))
        return verify_stages(opened, samples_of, allowed, progress, depth)


def _opened(
    text: str,
    samples: Sequence[Mapping[str, np.ndarray]],
    options: dict[str, str],
    trust: bool,
    progress: Callable[[str], None],
    stack: contextlib.ExitStack,
) -> Stage:
    """A stage as it is named on the command line."""
    from sardonyx.converters.process import Worker
    from sardonyx.converters.recognise import recognise, whole
    from sardonyx.converters.source import Request
    from sardonyx.converters.table import check_trust, kind_called, require

    provider, colon, rest = text.partition(":")
    if colon and provider in ("reference", "native", "onnxruntime", "openvino"):
        return OnnxStage(Path(rest), provider, text)
    source, name = whole(text, recognise(text), options)
    kind = kind_called(name)
    if kind.name == "onnx":
        return OnnxStage(Path(text), "reference", text)
    check_trust(kind, text, trust)
    require(kind)
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="sardonyx-verify-"))
    request = Request(source, kind.name, samples=[dict(sample) for sample in samples], options=options, trust=trust)
    worker = stack.enter_context(Worker(request, progress))
    if worker.parts():
        raise InputError(
            f"{text!r} becomes several models: {', '.join(worker.parts())}",
            hint=f"Say which of them is compared: --option part={worker.parts()[0]}.",
        )
    fresh = Path(folder) / "fresh.onnx"
    worker.export(fresh)
    return SourceStage(text, worker, fresh)

"""`verify`: any number of stages on the same inputs, each compared with the first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sardonyx.converters.onnx_file import model_inputs
from sardonyx.errors import SardonyxError
from sardonyx.model.load import load
from sardonyx.verifier.compare import compare
from sardonyx.verifier.report import Report, Row
from sardonyx.verifier.samples import Sample, make_samples
from sardonyx.verifier.stages import OnnxStage, SourceStage, Stage
from sardonyx.verifier.tolerance import Tolerance, tolerances

if TYPE_CHECKING:
    from sardonyx.converters.process import Exported
    from sardonyx.converters.source import Request


def verify_stages(
    stages: Sequence[Stage],
    samples: Sequence[Sample],
    outputs: Mapping[str, Tolerance],
    progress: Callable[[str], None] = lambda text: None,
) -> Report:
    """Compare each stage with the first on every sample.

    Args:
        stages: the first is the truth.
        samples: inputs.
        outputs: names of the outputs, in order, and how much each may be off.
        progress: called with a few words at each long step.

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
        if random_outputs(truth, sample, expected):
            report.notes.append(
                f"{truth.name} gives other values when it is run again: it is random (dropout, sampling)"
            )
            return report
        for stage in others:
            report.rows += compare_stage(stage, sample, expected, outputs)
    return report


def random_outputs(truth: Stage, sample: Sample, expected: Sequence[np.ndarray]) -> bool:
    """Whether a second run gives other values by more than the rounding of threads."""
    if sample.title != "typical":
        return False
    again = truth.run(sample.feeds)
    loose = Tolerance(2.0**-24, 1e4)
    return any(compare(e, a, loose).failed for e, a in zip(expected, again, strict=True))


def compare_stage(
    stage: Stage, sample: Sample, expected: Sequence[np.ndarray], outputs: Mapping[str, Tolerance]
) -> list[Row]:
    """One row per output."""
    nothing = np.zeros(0)
    try:
        actual = stage.run(sample.feeds)
    except SardonyxError as problem:
        failed = compare(np.ones(1), nothing, Tolerance(0, 0))
        return [Row(stage.name, sample.title, "", type(failed)(**{**failed.__dict__, "reason": problem.message}))]
    rows = []
    for number, (name, tolerance) in enumerate(outputs.items()):
        pair = [side[number] if number < len(side) else nothing for side in (expected, actual)]
        rows.append(Row(stage.name, sample.title, name, compare(pair[0], pair[1], tolerance)))
    return rows


def verify_conversion(
    source: Exported, path: Path, request: Request, progress: Callable[[str], None] = lambda text: None
) -> Report:
    """Compare a source with the ONNX file made from it, under the reference and under Sardonyx."""
    model = load(path)
    allowed = tolerances(model)
    outputs = {str(v.name): allowed.get(str(v.name), Tolerance(2.0**-24, 1.0)) for v in model.graph.outputs}
    inputs = source.inputs()
    given = [_named(sample, [each.name for each in inputs]) for sample in request.samples]
    stages: list[Stage] = [
        SourceStage(request.kind, source.run),
        OnnxStage(path, "reference"),
        OnnxStage(path, "native"),
    ]
    return verify_stages(stages, make_samples(inputs, given), outputs, progress)


def _named(sample: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Samples may be given by position."""
    return {names[int(key)] if key.isdigit() and key not in names else key: value for key, value in sample.items()}


def verify(
    stages: Sequence[str],
    samples: Sequence[Mapping[str, np.ndarray]] = (),
    progress: Callable[[str], None] = lambda t: None,
) -> Report:
    """Compare forms of one model with the first of them.

    Args:
        stages: ONNX files, ``runtime:file.onnx``, or sources that `convert` takes; one ONNX file alone is compared
            under the reference and under Sardonyx.
        samples: real inputs, by name.
        progress: called with a few words at each long step.
    """
    opened = [_stage(text) for text in stages]
    if len(opened) == 1:
        opened.append(OnnxStage(opened[0].path, "native"))
    model = load(opened[-1].path)
    allowed = tolerances(model)
    outputs = {str(v.name): allowed.get(str(v.name), Tolerance(2.0**-24, 1.0)) for v in model.graph.outputs}
    inputs = model_inputs(model)
    return verify_stages(opened, make_samples(inputs, samples), outputs, progress)


def _stage(text: str) -> OnnxStage:
    provider, colon, rest = text.partition(":")
    if colon and provider in ("reference", "native", "onnxruntime", "openvino"):
        return OnnxStage(Path(rest), provider, text)
    return OnnxStage(Path(text), "reference", text)

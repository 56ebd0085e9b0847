"""Which node is to blame for a failed comparison: chooses the sharpest way of looking that two stages allow.

* Two ONNX files: both are walked at once (`locate`).
* One ONNX file under two runtimes: inner values are compared, a few at a time (`observe`).
* A source and an ONNX file made from it some time ago: the source is converted afresh; if that computes what the
  source does, the two ONNX files are walked. Else inner values of the framework are compared with the file's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from sardonyx.errors import SardonyxError
from sardonyx.model.load import load
from sardonyx.verifier.compare import compare
from sardonyx.verifier.locate import Suspect, first_difference
from sardonyx.verifier.observe import locate_by_points, observe_onnx, points_of
from sardonyx.verifier.stages import Feeds, OnnxStage, SourceStage, Stage
from sardonyx.verifier.tolerance import Tolerance


def locate(truth: Stage, tested: Stage, feeds: Feeds, progress: Callable[[str], None]) -> Suspect | None:
    """The first node of `tested` that computes something else than `truth`; None: it cannot be told."""
    if not isinstance(tested, OnnxStage):
        return None
    try:
        if isinstance(truth, SourceStage):
            return _from_source(truth, tested, feeds, progress)
        if truth.path != tested.path:
            return first_difference(load(truth.path), load(tested.path), feeds)
        return _runtimes(truth, tested, feeds, progress)
    except SardonyxError as problem:
        progress(f"the first node that differs cannot be told: {problem.message}")
        return None


def _runtimes(truth: Stage, tested: OnnxStage, feeds: Feeds, progress: Callable[[str], None]) -> Suspect | None:
    assert isinstance(truth, OnnxStage)
    model = load(tested.path)
    from sardonyx.model.inline import infer_types

    infer_types(model)
    first, second = (partial(observe_onnx, stage.path, stage.provider, feeds) for stage in (truth, tested))
    return locate_by_points(model, points_of(model), first, second, progress)


def _from_source(
    truth: SourceStage, tested: OnnxStage, feeds: Feeds, progress: Callable[[str], None]
) -> Suspect | None:
    fresh = truth.path
    if fresh.is_file() and fresh != tested.path:
        outputs = OnnxStage(fresh, "reference").run(feeds)
        loose = Tolerance(2.0**-24, 1e4)
        if not any(compare(e, a, loose).failed for e, a in zip(truth.run(feeds), outputs, strict=True)):
            return first_difference(load(fresh), load(tested.path), feeds)
    points = [point for point in truth.opened.points() if point.value]
    if not points:
        return None
    model = load(tested.path)
    return locate_by_points(
        model,
        points,
        partial(truth.opened.observe, feeds),
        partial(observe_onnx, tested.path, tested.provider, feeds),
        progress,
    )

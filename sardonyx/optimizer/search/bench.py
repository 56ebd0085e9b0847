"""The work on single models: make one by steps, check it, run it on the data, time it beside the original."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sardonyx.errors import OptimizationError, SardonyxError
from sardonyx.model.load import load
from sardonyx.model.save import save
from sardonyx.optimizer.data import Parts
from sardonyx.optimizer.search.measure import Ratio, compare_times
from sardonyx.optimizer.sensitivity import sensitivity
from sardonyx.optimizer.step import Context, make_step
from sardonyx.optimizer.tidy import slim
from sardonyx.runtime.options import SessionOptions
from sardonyx.runtime.session import Session

STANDARD = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}  # what other runtimes read, too
PROFILED_RUNS = 20
TWINS = 3


class Bench:
    """One original, its data, and any number of models made from it.

    Args:
        model: path of the original.
        parts: what steps look at, and what models are judged by.
        seed: of steps.
        threads: of runs; None: all that may be used.
        packed: sizes are those of containers; see `compress/container.py`.
        progress: called with a few words at each long stage.
    """

    def __init__(
        self,
        model: Path,
        parts: Parts,
        seed: int = 0,
        threads: int | None = None,
        packed: bool = False,
        progress: Callable[[str], None] = lambda text: None,
    ):
        self.path, self.parts, self.packed = model, parts, packed
        self.context = Context(parts.calibration, seed, progress)
        self.options = SessionOptions(threads=threads, progress=False)
        self.model = load(model)
        self.original = Session(str(model), self.options)
        self._hosted = _hosted(self.original)
        self._open: tuple[Path, Session] | None = None

    def names(self) -> list[str]:
        """Of the outputs."""
        return [port.name for port in self.original.outputs]

    def make(self, steps: Sequence[Mapping[str, Any]], path: Path) -> dict[str, Any]:
        """Apply `steps`, write the model to `path`, and check it.

        Returns:
            ``notes``, ``sha256``, ``size``; ``modified`` is False where the steps found nothing to do.

        Raises:
            OptimizationError: a step cannot be done, or what it made breaks a rule of what is returned.
        """
        model, notes, modified = apply_steps(self.model, steps, self.context)
        slim(model, self.model)
        save(model, path)
        check_standard(path, self.path)
        return {"notes": notes, "modified": modified, "sha256": sha256(path), "size": self._size(path)}

    def run(self, path: Path, count: int | None = None, proof: bool = False) -> list[list[np.ndarray]]:
        """All outputs for each sample of the evaluation, or of the proof, or for the first `count` of them.

        Raises:
            OptimizationError: operators of the original that were native are not any more.
            SardonyxError: it cannot be compiled or run.
        """
        session = self._session(path)
        lost = sorted(_hosted(session) - self._hosted)
        if lost:
            raise OptimizationError(f"{', '.join(lost)} would not run natively")
        data = self.parts.proof if proof else self.parts.evaluation
        assert data is not None
        return [session.run(dict(feeds)) for feeds in data.feeds[:count]]

    def memory(self, path: Path) -> int:
        """Bytes of weights and arena of a session that has run."""
        facts = self._session(path).memory()
        return int(facts["weights"] or 0) + int(facts["arena"] or 0)

    def time(self, path: Path, seconds: float, decisive: float | None = None) -> Ratio:
        """Time of the model at `path` / time of the original, on the first sample of the evaluation.

        `decisive`: see `compare_times`.
        """
        feeds = self._sample()
        session = self._session(path)
        return compare_times(lambda: session.run(feeds), lambda: self.original.run(feeds), seconds, decisive=decisive)

    def time_again(self, path: Path, seconds: float, decisive: float | None = None) -> Ratio:
        """`time`, by new sessions of both, a few of them: the middle result.

        One and the same session is faster or slower than another of the same model for as long as it lives, by where it
        lies in memory. They are in the user's cache, where the model that is returned is looked for next.
        """
        feeds, found = self._sample(), []
        self._open = None
        for _ in range(TWINS):
            mine, theirs = (Session(str(each), self.options) for each in (path, self.path))
            runs = partial(mine.run, feeds), partial(theirs.run, feeds)
            found.append(compare_times(*runs, seconds, decisive=decisive))
        return sorted(found, key=lambda each: each.median)[TWINS // 2]

    def noise(self, seconds: float) -> list[Ratio]:
        """The original against itself: new sessions lie elsewhere in memory, and take another time for that alone."""
        feeds, found = self._sample(), []
        for _ in range(TWINS):
            twin = Session(str(self.path), self.options)
            found.append(compare_times(partial(twin.run, feeds), partial(self.original.run, feeds), seconds))
        return found

    def ranking(self) -> list[dict[str, Any]]:
        """How much each layer suffers from quantisation, the worst first; see `sensitivity`."""
        return [each.to_json() for each in sensitivity(self.model, self.context)]

    def profile(self, path: Path) -> dict[str, Any]:
        """What a model is made of: nodes by operator, bytes of weights, microseconds by operator."""
        model = load(path)
        counts: dict[str, int] = {}
        for node in model.graph.all_nodes():
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
        session = Session(str(path), SessionOptions(threads=self.options.threads, progress=False, profile=True))
        feeds = self._sample()
        session.run(feeds)
        session.reset_profile()
        for _ in range(PROFILED_RUNS):
            session.run(feeds)
        times = {row.name: row.nanoseconds / 1e3 for row in session.profile().operators()}
        return {
            "nodes": dict(sorted(counts.items(), key=lambda item: -item[1])),
            "microseconds": times,
            "size": size_of(path),
        }

    def _sample(self) -> dict[str, np.ndarray]:
        return dict(self.parts.evaluation.feeds[0])

    def _size(self, path: Path) -> int:
        if not self.packed:
            return size_of(path)
        from sardonyx.optimizer.compress.container import pack

        aside = path.with_suffix(".sdx")
        try:
            return pack(path, aside).packed
        finally:
            aside.unlink(missing_ok=True)

    def _session(self, path: Path) -> Session:
        if path == self.path:
            return self.original
        if self._open is None or self._open[0] != path:
            self._open = None
            # Not into the user's cache: most candidates are never run again.
            options = SessionOptions(threads=self.options.threads, progress=False, cache=False)
            self._open = path, Session(str(path), options)
        return self._open[1]


def apply_steps(model: Any, steps: Sequence[Mapping[str, Any]], context: Context) -> tuple[Any, list[str], bool]:
    """The model after all `steps`, what they said, and whether any changed anything.

    Raises:
        InputError: there is no such step or parameter.
        OptimizationError: a step cannot be done.
    """
    notes: list[str] = []
    modified = False
    context = replace(context, original=model)
    for each in steps:
        ((name, parameters),) = each.items()
        context.progress(name)
        try:
            applied = make_step(name, parameters).apply(model, context)
        except SardonyxError:
            raise
        except Exception as error:  # a step that breaks on one model must not end the search
            raise OptimizationError(f"step {name!r} failed: {type(error).__name__}: {error}") from error
        model, modified = applied.model, modified or applied.modified
        notes += applied.notes
    return model, notes, modified


def check_standard(path: Path, original: Path) -> None:
    """Refuse what other runtimes would not read.

    Raises:
        OptimizationError: the file breaks the standard and the original does not, or has operators of a domain that the
            original has not.
    """
    import onnx

    domains = [
        {each.domain for each in onnx.load(each, load_external_data=False).opset_import} for each in (path, original)
    ]
    foreign = domains[0] - STANDARD - domains[1]
    if foreign:
        raise OptimizationError(f"operators of the domain {min(foreign)!r} are not standard ONNX")
    problem = _invalid(path)
    if problem and not _invalid(original):  # an output without a shape is not valid, and common
        raise OptimizationError(f"the result is no valid ONNX: {problem}")


def _invalid(path: Path) -> str:
    import onnx

    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        return str(error)
    return ""


def sha256(path: Path) -> str:
    """Of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size_of(path: Path) -> int:
    """Bytes of a model, with the weights that lie beside it."""
    from sardonyx.model.load import external_files

    return path.stat().st_size + sum(each.stat().st_size for each in external_files(path))


def _hosted(session: Session) -> set[str]:
    return {place.operator for place in session.placement() if place.provider != "native"}

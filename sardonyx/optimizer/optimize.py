"""`optimize`: the best model within a budget, proven on this machine, and never worse than what was given."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from sardonyx.converters.onnx_file import model_inputs
from sardonyx.errors import InputError, SardonyxError
from sardonyx.model.load import load
from sardonyx.optimizer.data import Data, Parts
from sardonyx.optimizer.finetune.torch_graph import import_torch
from sardonyx.optimizer.metrics.metric import Metric, find_metric
from sardonyx.optimizer.quantize.graph import is_op
from sardonyx.optimizer.quantize.recurrent import RECURRENT
from sardonyx.optimizer.reading.read import (
    CALIBRATION_SHARE,
    LEAST_PROOF,
    PROOF_SHARE,
    DataOptions,
    digest,
    hold_out,
    read_data,
    split,
)
from sardonyx.optimizer.search.bench import apply_steps, check_standard, sha256
from sardonyx.optimizer.search.budget import Budget, Candidate, Limits, parse_drop
from sardonyx.optimizer.search.recipe import Recipe, read_recipe
from sardonyx.optimizer.search.result import Result
from sardonyx.optimizer.search.search import Progress, Search, measure_original
from sardonyx.optimizer.search.space import Space
from sardonyx.optimizer.search.store import Store, replace_model
from sardonyx.optimizer.search.worker import Worker
from sardonyx.optimizer.step import Context, registered_steps
from sardonyx.optimizer.tidy import slim

__all__ = ["Replay", "Task", "optimize", "replay"]


def optimize(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    data: Any = None,
    calibration: Any = None,
    metric: str | Callable[..., float] | None = None,
    metric_output: str | None = None,
    max_drop: float | str = 0.01,
    min_metric: float | None = None,
    max_latency: float | None = None,
    max_size: int | None = None,
    max_memory: int | None = None,
    objective: str = "latency",
    seconds: float | None = 600.0,
    trials: int | None = None,
    resume: bool = False,
    seed: int = 0,
    finetune: bool = False,
    threads: int | None = None,
    data_options: DataOptions | None = None,
    share: float = CALIBRATION_SHARE,
    store: str | os.PathLike[str] | None = None,
    progress: Progress = lambda part, text: None,
) -> Result:
    """Search for the fastest, or smallest, form of a model within a budget.

    The best so far lies at `output` at any moment: at first the original itself. Its recipe lies beside it
    (``NAME.recipe.yaml``), every candidate in the folder `store`. Ctrl-C ends the search and keeps the best.

    Args:
        model: the .onnx file.
        output: the .onnx file to write; one called .sdx is a compressed container, and sizes are those of containers.
        data: see `read_data`; None: samples are made up, which proves nothing about real ones.
        calibration: data that only calibrates; None: a part of `data`.
        metric: see `find_metric`; None: accuracy where there are labels, else snr against the original.
        metric_output: name of the output that is judged; None: the first.
        max_drop: how much worse the metric may become on the evaluation part: 0.01, or "1%" of the original's value.
        min_metric: the worst value allowed, instead of a drop.
        max_latency: milliseconds of a run; None: not slower than the original.
        max_size: bytes.
        max_memory: bytes of weights and arena.
        objective: latency, size or memory: what is made as small as possible.
        seconds: that the search may take; None: no limit.
        trials: candidates that may be tried; None: no limit.
        resume: go on with the search in `store`.
        seed: of everything that is random; but for what depends on times, the same seed gives the same search.
        finetune: train what pruning leaves against the original's outputs, in PyTorch.
        threads: of runs; None: all that may be used.
        data_options: how `data` is read.
        share: part of `data` that calibrates.
        store: folder of the search; None: ``NAME.search`` beside `output`.
        progress: called with the part of the time that is over and a few words.

    Returns:
        What was found; `Result.improved` is False where the original is returned, and `Result.reason` says why.

    Raises:
        InputError: data, metric or an option does not fit the model.
        OptimizationError: the metric raises, or is NaN, on the original itself.
        ProviderError: a package is missing that is asked for: PyTorch, to fine-tune.
        ModelError, UnsupportedError: the model cannot be read or run.
    """
    drop, relative = parse_drop(max_drop)
    budget = Budget(drop, relative, min_metric, max_latency, max_size, max_memory, objective)
    reading = Reading(data, calibration, data_options or DataOptions(), share, seed)
    task = Task(Path(model), Path(output), reading, budget, metric, metric_output, seconds, trials, resume, threads)
    task = replace(task, finetune=finetune)
    return task.run(Path(store) if store else None, progress)


@dataclass(frozen=True)
class Reading:
    """Where data comes from, and which part of it does what."""

    data: Any
    calibration: Any
    options: DataOptions
    share: float
    seed: int

    def parts(self, model: Path) -> tuple[Parts, list[str]]:
        """The samples, and what the user should know of them."""
        inputs = model_inputs(load(model))
        found = read_data(self.data, inputs, self.options, self.seed)
        if self.calibration is None:
            first, second = split(found, self.seed, self.share)
        else:
            first, second = read_data(self.calibration, inputs, self.options, self.seed), found
        if found.generated:
            note = (
                "no data was given: random inputs calibrated and judged; how the result does on real ones is not known"
            )
            return Parts(first, second), [note]
        second, proof = hold_out(second, self.seed)
        notes = []
        if proof is None:
            notes.append(
                f"{len(second)} samples judged: too few to hold some out, so the result is proven on those by which it "
                f"was chosen; from {round((LEAST_PROOF - 0.5) / PROOF_SHARE)} on, a third is kept for the last proof"
            )
        least = min(len(part) for part in (second, proof) if part is not None)
        if least < 100:
            notes.append(f"judged on {least} samples: differences below {1 / least:.1%} cannot be seen")
        return Parts(first, second, proof), notes

    def recipe(self, steps: Sequence[Mapping[str, Any]], model: Path, data_digest: str) -> Recipe:
        """The recipe of `steps` on this data."""
        sources = [str(x) if isinstance(x, str | os.PathLike) else None for x in (self.data, self.calibration)]
        facts = self.seed, sources[0], sources[1], self.options, self.share
        return Recipe(steps, *facts, data_digest, model.name, sha256(model))


@dataclass(frozen=True)
class Task:
    """All that one search is about; see `optimize`."""

    model: Path
    output: Path
    reading: Reading
    budget: Budget
    metric: str | Callable[..., float] | None = None
    metric_output: str | None = None
    seconds: float | None = None
    trials: int | None = None
    resume: bool = False
    threads: int | None = None
    bench: Callable[..., Any] = Worker
    finetune: bool = False

    @property
    def packed(self) -> bool:
        """Whether a container is written."""
        return self.output.suffix == ".sdx"

    @property
    def recipe_path(self) -> Path:
        """Beside the output."""
        return self.output.with_suffix(".recipe.yaml")

    def run(self, store: Path | None = None, progress: Progress = lambda part, text: None) -> Result:
        """Read, measure the original, search, and sum up."""
        begin = time.monotonic()
        if self.finetune:
            import_torch()  # better now than after minutes
        if self.output.exists() and self.output.resolve() == self.model.resolve():
            raise InputError(
                "the output is the model itself", hint="write it under another name: the search needs both"
            )
        progress(0.0, "reading the model and the data")
        parts, notes = self.reading.parts(self.model)
        metric = find_metric(self.metric, parts.evaluation.labels is not None)
        arguments = (self.model, parts, self.reading.seed, self.threads, self.packed)
        with self.bench(arguments, lambda text: progress(0.0, text)) as bench:
            progress(0.0, "measuring the original")
            facts = (bench, self.model, parts, metric, bench.names(), self.metric_output)
            judge, proof, original, noise = measure_original(*facts)
            limits = Limits(self.budget, metric, original, noise)
            identity = self._identity(parts, metric)
            kept = Store(store or self.output.with_suffix(".search"), identity, self.resume)
            recipe = self.reading.recipe([], self.model, digest(parts.calibration))
            first = Candidate(0, [], original, "verified", sha256=recipe.model_sha256)
            space = self._space(bench, kept, parts.calibration, notes)

            def publish(best: Candidate | None) -> None:
                source = self.model if best is None else kept.path(best.number)
                replace_model(source, self.output)
                replace(recipe, steps=best.steps if best else []).write(self.recipe_path, self.output)

            if not (self.resume and self.output.exists()):
                publish(None)
            left = None if self.seconds is None else max(0.0, self.seconds - (time.monotonic() - begin))
            search = Search(bench, kept, judge, limits, space, publish, left, self.trials, self.reading.seed, progress)
            search.proof = proof
            best = search.run()
            result = Result(self.model, self.output, limits, first, best or first, list(kept.candidates.values()))
            result.stopped, result.notes = search.stopped, notes
            result.recipe, result.store = self.recipe_path, kept.folder
            result.samples = {name: len(part) for name, part in vars(parts).items() if part is not None}
            if best is not None and proof is not None and best.figures.proof is None:
                notes.append(f"{search.stopped}: the best so far was not proven on the samples held out for that")
            if result.stopped != "interrupted":
                result.ranking = self._ranking(bench, kept, notes)
                self._profiles(bench, result)
        result.seconds = time.monotonic() - begin
        return result

    def _identity(self, parts: Parts, metric: Metric) -> dict[str, Any]:
        known = [part for part in (parts.calibration, parts.evaluation, parts.proof) if part is not None]
        facts = {"model": sha256(self.model), "data": digest(*known), "metric": metric.name}
        return facts | {"metric output": self.metric_output, "seed": self.reading.seed, "form": self.output.suffix}

    def _space(self, bench: Any, store: Store, calibration: Data, notes: list[str]) -> Space:
        return Space(
            registered_steps(),
            self.budget.objective,
            partial(self._ranking, bench, store, notes),
            not calibration.generated,
            self.packed,
            self.packed or self.budget.max_size is not None,
            any(is_op(node, *RECURRENT) for node in load(self.model).graph.all_nodes()),
            self.finetune,
        )

    def _ranking(self, bench: Any, store: Store, notes: list[str]) -> Sequence[dict[str, Any]]:
        """How much each layer suffers from quantisation; empty where that cannot be found out."""
        try:
            return store.recall("ranking", bench.ranking)
        except SardonyxError as error:
            notes.append(f"layers could not be ranked: {error.message}")
            store.recall("ranking", list)
            return []

    def _profiles(self, bench: Any, result: Result) -> None:
        """What the model was and is made of; a report without it is better than none."""
        try:
            result.before = bench.profile(self.model)
            result.after = bench.profile(self.output) if result.improved else result.before
        except (SardonyxError, OSError) as error:
            result.notes.append(f"the graph could not be profiled: {error}")


@dataclass(frozen=True)
class Replay:
    """What `replay` did: the file, and what the steps said."""

    output: Path
    sha256: str
    notes: list[str]


def replay(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    recipe: str | os.PathLike[str],
    *,
    data: Any = None,
    calibration: Any = None,
    data_options: DataOptions | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Replay:
    """Do again what a recipe says; the same model and data give the same bytes.

    Args:
        model: the .onnx file.
        output: the .onnx file to write.
        recipe: the recipe's file.
        data: instead of what the recipe names.
        calibration: instead of what the recipe names.
        data_options: instead of the recipe's.
        progress: called with a few words at each long stage.

    Raises:
        InputError: the recipe is none, or has an unknown step or parameter; the data is missing or does not fit.
        OptimizationError: a step cannot be done on this model.
    """
    from sardonyx.model.save import save

    known = read_recipe(recipe)
    given = (data if data is not None else known.data), (calibration if calibration is not None else known.calibration)
    reading = Reading(*given, data_options or known.options, known.share, known.seed)
    parts, notes = reading.parts(Path(model))
    part = parts.calibration
    if known.model_sha256 and known.model_sha256 != sha256(Path(model)):
        notes.append("the model is not the one that the recipe was found for")
    if known.data_digest and known.data_digest != digest(part):
        notes.append("the data is not the data that the recipe was found with: the file differs from the one made then")
    original = load(model)
    made, said, _ = apply_steps(original, known.steps, Context(part, known.seed, progress))
    target = Path(output)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".replay-") as folder:
        aside = Path(folder) / "model.onnx"
        if known.steps:
            slim(made, original)
            save(made, aside)
            check_standard(aside, Path(model))
        replace_model(aside if known.steps else Path(model), target)
    return Replay(Path(output), sha256(Path(output)), notes + said)

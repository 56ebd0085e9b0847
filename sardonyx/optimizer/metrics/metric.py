"""What a metric is, the table of those that have a name, and how the user's own are found and called."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sardonyx.errors import InputError, OptimizationError
from sardonyx.optimizer.metrics import detection, scores, text

__all__ = ["METRICS", "Metric", "find_metric"]

Outputs = Sequence[Sequence[np.ndarray]]  # for each run, the outputs of the model in order


@dataclass(frozen=True)
class Metric:
    """A number that says how good a model is.

    Attributes:
        name: what the user calls it.
        function: ``f(values, truth)``, two lists with an entry for each run. A value is the output that is judged (all
            of them where `whole` is set); truth is what the user says, or else what the original gives.
        higher: whether more is better.
        whole: whether it looks at all outputs.
        relative: it compares with the original's outputs, whether there are labels or not.
        labels: it means nothing without labels.
        named: it gets outputs as dictionaries by name: a function of the user's.
        summary: one line of help.
    """

    name: str
    function: Callable[[list[Any], list[Any]], float]
    higher: bool = True
    whole: bool = False
    relative: bool = False
    labels: bool = False
    named: bool = False
    summary: str = ""

    def of(
        self,
        outputs: Outputs,
        labels: Sequence[Any] | None,
        original: Outputs,
        names: Sequence[str],
        output: str | None = None,
    ) -> float:
        """The metric's value.

        Args:
            outputs: of the model that is judged, for each run.
            labels: what is true of each run; None: nothing is known.
            original: the outputs of the original for the same runs.
            names: of the outputs, in order.
            output: name of the one that is judged; None: the first.

        Raises:
            InputError: it needs labels and there are none, or there is no such output.
            OptimizationError: it raised, or gave no number; says what happened.
        """
        if labels is None and self.labels:
            raise InputError(
                f"the metric {self.name!r} needs labels, and the data has none",
                hint="name the labels (an array 'labels' or 'y', folders by class, a column), or choose cosine or snr",
            )
        values = [self._chosen(run, names, output) for run in outputs]
        if labels is None or self.relative:
            truth: list[Any] = [self._chosen(run, names, output) for run in original]
        else:
            truth = list(labels)
        try:
            value = float(self.function(values, truth))
        except InputError:
            raise
        except Exception as error:  # whatever a function of the user's raises
            raise OptimizationError(
                f"the metric {self.name!r} failed: {type(error).__name__}: {error}",
                hint="it is called with a list of outputs and a list of labels, an entry for each run",
            ) from error
        if math.isnan(value):
            raise OptimizationError(
                f"the metric {self.name!r} is NaN", hint="look at the outputs and labels it is given"
            )
        return value

    def _chosen(self, run: Sequence[np.ndarray], names: Sequence[str], output: str | None) -> Any:
        if self.named:
            return dict(zip(names, run, strict=True))
        if self.whole:
            return list(run)
        if output is not None and output not in names:
            raise InputError(f"the model has no output called {output!r}", hint=f"its outputs are: {', '.join(names)}")
        return run[0 if output is None else list(names).index(output)]


def _rows() -> list[Metric]:
    return [
        Metric("accuracy", scores.accuracy, summary="share of rows whose class is right"),
        Metric("f1", scores.f1, summary="mean over the classes of the harmonic mean of precision and recall"),
        Metric("iou", scores.mean_iou, summary="mean over the classes of intersection over union of pixels"),
        Metric("map", detection.mean_average_precision, whole=True, summary="mean average precision, IoU 0.50 to 0.95"),
        Metric("map50", detection.map50, whole=True, summary="mean average precision, IoU 0.50"),
        Metric("wer", text.word_error_rate, higher=False, summary="word error rate"),
        Metric("cer", text.character_error_rate, higher=False, summary="character error rate; CTC scores are decoded"),
        Metric("cosine", scores.cosine, relative=True, summary="mean cosine of rows with the original's"),
        Metric("worst-cosine", scores.worst_cosine, relative=True, summary="smallest cosine of a row"),
        Metric("spearman", scores.spearman, summary="correlation of ranks with the labels"),
        Metric("perplexity", scores.perplexity, higher=False, labels=True, summary="exp(mean -log p(label))"),
        Metric("rmse", scores.rmse, higher=False, summary="root of the mean squared error"),
        Metric("snr", scores.snr, relative=True, summary="signal-to-noise ratio against the original, dB"),
    ]


METRICS = {row.name: row for row in _rows()}


def find_metric(what: str | Callable[..., float] | None, labelled: bool) -> Metric:
    """The metric called `what`: a row of `METRICS`, ``top-K``, ``module:function``, or a function.

    None is accuracy where there are labels, else the signal-to-noise ratio against the original. A name with ``-`` in
    front (``-module:function``), or a function with an attribute ``lower_is_better``, says that less is better.

    Raises:
        InputError: there is none of that name.
    """
    if what is None:
        return METRICS["accuracy" if labelled else "snr"]
    if callable(what):
        name = getattr(what, "__name__", type(what).__name__)
        return Metric(name, what, not getattr(what, "lower_is_better", False), named=True)
    if what in METRICS:
        return METRICS[what]
    if what.startswith("top-") and what[4:].isdigit() and int(what[4:]) > 0:
        k = int(what[4:])
        return Metric(what, lambda values, truth: scores.top_k(values, truth, k))
    if ":" in what:
        function = import_function(what.removeprefix("-"), "--metric")
        lower = what.startswith("-") or getattr(function, "lower_is_better", False)
        return Metric(what, function, not lower, named=True)
    known = ", ".join([*METRICS, "top-K"])
    raise InputError(f"there is no metric called {what!r}", hint=f"known are {known}; your own: module:function")


def import_function(name: str, option: str) -> Callable[..., Any]:
    """The function called ``module:function``.

    Raises:
        InputError: it cannot be imported; the reason is part of the message.
    """
    module, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:  # whatever the user's module raises while it is imported
        raise InputError(
            f"{option} {name!r} cannot be imported: {type(error).__name__}: {error}",
            hint="write module:function; the module must be on the PYTHONPATH",
        ) from error
    if not callable(found):
        raise InputError(f"{option} {name!r} is a {type(found).__name__}, not a function")
    return found

"""What the user allows and wants, what was measured of a model, and whether one fits the other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from dataclasses import fields as fields_of
from typing import Any

from sardonyx.errors import InputError
from sardonyx.optimizer.metrics.metric import Metric

OBJECTIVES = ("latency", "size", "memory")
SLACK_SIZE = 1.05, 4096  # a faster model may be so much larger, as a factor and in bytes, where no size was asked for
MOST_NOISE = 0.02  # of the ratio of times that still counts as equal, however noisy the machine is


@dataclass(frozen=True)
class Budget:
    """What is allowed.

    Attributes:
        max_drop: how much worse the metric may become; for snr: the noise allowed, as a part of the signal.
        relative: `max_drop` is a part of the original's value, not a difference.
        min_metric: the metric's worst value allowed (the largest where less is better); it replaces `max_drop`.
        max_latency: milliseconds; None: not slower than the original.
        max_size: bytes of the file.
        max_memory: bytes of weights and arena.
        objective: what is made as small as possible.
    """

    max_drop: float = 0.01
    relative: bool = False
    min_metric: float | None = None
    max_latency: float | None = None
    max_size: int | None = None
    max_memory: int | None = None
    objective: str = "latency"

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise InputError(f"there is no objective {self.objective!r}", hint=f"known are {', '.join(OBJECTIVES)}")
        if not self.max_drop >= 0:
            raise InputError(f"a drop of {self.max_drop} cannot be allowed", hint="0 allows none, 0.01 one percent")
        for name in ("max_latency", "max_size", "max_memory"):
            limit = getattr(self, name)
            if limit is not None and not limit > 0:
                raise InputError(f"{name} is {limit}: it must be above 0")

    def floor(self, metric: Metric, original: float) -> float:
        """The worst value of the metric that is allowed, when the original's is `original`."""
        if self.min_metric is not None:
            return self.min_metric
        if math.isinf(original):  # snr against itself
            return -20 * math.log10(self.max_drop) if self.max_drop else math.inf
        step = self.max_drop * abs(original) if self.relative else self.max_drop
        return original - step if metric.higher else original + step

    def to_json(self) -> dict[str, Any]:
        """What differs from nothing."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def parse_drop(text: str | float) -> tuple[float, bool]:
    """``0.01`` as it is, ``1%`` as a part of the original's value.

    Raises:
        InputError: it is neither.
    """
    try:
        if isinstance(text, str) and text.endswith("%"):
            return float(text[:-1]) / 100, True
        return float(text), False
    except ValueError:
        raise InputError(f"a drop of {text!r}", hint="write 0.01, or 1% of the original's value") from None


@dataclass
class Figures:
    """What was measured of a model; None where it was not.

    Attributes:
        size: bytes of the file.
        metric: on the evaluation part.
        memory: bytes of weights and arena.
        ratio: time / time of the original in the same round: low end, median, high end of an interval of 95 %.
        latency: median of a run, milliseconds.
        fidelity: dB of the first output against the original's, on the evaluation part.
        proof: the metric on the samples that are held out.
    """

    size: int = 0
    metric: float | None = None
    memory: int | None = None
    ratio: tuple[float, float, float] | None = None
    latency: float | None = None
    fidelity: float | None = None
    proof: float | None = None


@dataclass
class Candidate:
    """A model that was tried.

    Attributes:
        number: in the order of trying; the original is 0.
        steps: how it is made, as a recipe has it.
        figures: what was measured.
        verdict: "verified" (within the budget), "rejected" (outside it) or "failed" (it could not be made or run).
        stage: what showed it to be outside of the budget: size, glance, metric, time or proof.
        reason: why it is not verified.
        notes: what the steps said.
        file: name of the model in the store; "" where it was not kept.
        sha256: of that file.
        seconds: that it took.
    """

    number: int
    steps: list[dict[str, Any]]
    figures: Figures = field(default_factory=Figures)
    verdict: str = "failed"
    stage: str = ""
    reason: str = ""
    notes: list[str] = field(default_factory=list)
    file: str = ""
    sha256: str = ""
    seconds: float = 0.0

    @property
    def title(self) -> str:
        """The steps in a few words."""
        return " + ".join(_words(step) for step in self.steps) or "original"

    def to_json(self) -> dict[str, Any]:
        """As records and reports have it."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Candidate:
        """What `to_json` gave."""
        figures = dict(values["figures"])
        figures["ratio"] = tuple(figures["ratio"]) if figures.get("ratio") else None
        known = {each.name for each in fields_of(cls)} - {"figures"}
        return cls(figures=Figures(**figures), **{name: values[name] for name in known})


def _words(step: Mapping[str, Any]) -> str:
    ((name, parameters),) = step.items()
    shown = []
    for key, value in parameters.items():
        if isinstance(value, list):
            shown += [f"{key} {len(value)}"] if value else []
        elif value not in (None, "", False):
            shown.append(key if value is True else f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}")
    return f"{name} ({', '.join(shown)})" if shown else name


@dataclass(frozen=True)
class Limits:
    """A budget beside the original that it is for: what candidates are held against.

    Attributes:
        budget: what is allowed.
        metric: what is judged.
        original: figures of the original.
        noise: of the ratio of times of the original to itself.
    """

    budget: Budget
    metric: Metric
    original: Figures
    noise: float = 0.01

    @property
    def floor(self) -> float:
        """See `Budget.floor`."""
        assert self.original.metric is not None
        return self.budget.floor(self.metric, self.original.metric)

    def problem(self, figures: Figures) -> str:
        """Why a model with `figures` is outside of the budget; "" where it is inside. What is None is not looked at."""
        found = [
            self.metric_problem(figures),
            self.size_problem(figures),
            self._memory(figures),
            self._latency(figures),
        ]
        return next(filter(None, found), "")

    def metric_problem(self, figures: Figures) -> str:
        """Whether the metric falls too far, and by how much."""
        problem = self._below(figures.metric, self.original.metric)
        if problem:
            return problem
        problem = self._below(figures.proof, self.original.proof)
        return problem and f"on the samples that were held out: {problem}"

    def _below(self, value: float | None, original: float | None) -> str:
        if value is None or original is None:
            return ""
        floor = self.budget.floor(self.metric, original)
        if value >= floor if self.metric.higher else value <= floor:
            return ""
        return f"{self.metric.name} {value:.4g}, allowed is {floor:.4g}"

    def size_problem(self, figures: Figures) -> str:
        """Whether the file is too large."""
        limit, given = self.budget.max_size, True
        if limit is None:
            given, limit = False, int(self.original.size * SLACK_SIZE[0] + SLACK_SIZE[1])
            if self.budget.objective == "size":
                limit = self.original.size
        if figures.size <= limit:
            return ""
        known = f"allowed are {limit}" if given else f"the original has {self.original.size}"
        return f"{figures.size} bytes, {known}"

    def _memory(self, figures: Figures) -> str:
        limit = self.budget.max_memory
        if limit is None or figures.memory is None or figures.memory <= limit:
            return ""
        return f"{figures.memory} bytes of memory, allowed are {limit}"

    def _latency(self, figures: Figures) -> str:
        """The slow end of the interval counts: what could be too slow is not within the budget."""
        limit = self.budget.max_latency
        if figures.ratio is None:
            return ""
        low, median, high = figures.ratio
        if limit is not None and figures.latency is not None:
            most = figures.latency * high / median
            return "" if most <= limit else f"{most:.4g} ms, allowed are {limit:.4g} ms"
        if high <= 1 + self.tolerance:
            return ""
        if low > 1:
            return f"slower: {median:.3f} times the original's time"
        return f"not shown to be as fast: {low:.3f} to {high:.3f} times the original's time"

    @property
    def tolerance(self) -> float:
        """Of a ratio of times that counts as equal: what the original differs from itself, but never much."""
        return min(self.noise, MOST_NOISE)

    @property
    def decisive(self) -> float:
        """The ratio of times that decides whether a candidate may be returned."""
        if self.budget.max_latency is not None and self.original.latency:
            return self.budget.max_latency / self.original.latency
        return 1 - self.noise if self.budget.objective == "latency" else 1 + self.tolerance

    def better(self, figures: Figures) -> bool:
        """Whether a model within the budget is clearly better than the original in what is wanted."""
        if self.budget.objective == "latency":
            return figures.ratio is not None and figures.ratio[2] < 1 - self.noise
        if self.budget.objective == "size":
            return figures.size < self.original.size
        memory, before = figures.memory, self.original.memory
        return memory is not None and before is not None and memory < before

    def cost(self, figures: Figures) -> float:
        """What is to be made small, as a part of the original's."""
        if self.budget.objective == "latency":
            return figures.ratio[1] if figures.ratio else math.inf
        if self.budget.objective == "size":
            return figures.size / max(1, self.original.size)
        return math.inf if figures.memory is None else figures.memory / max(1, self.original.memory or 1)

    def beats(self, one: Figures, other: Figures) -> bool:
        """Whether `one` is the better of two within the budget; what is equal within noise is decided by size."""
        a, b = self.cost(one), self.cost(other)
        noise = self.noise if self.budget.objective == "latency" else 0.0
        if abs(a - b) > noise * max(a, b):
            return a < b
        rest = (one.size, one.ratio[1] if one.ratio else 1.0), (other.size, other.ratio[1] if other.ratio else 1.0)
        return rest[0] < rest[1]

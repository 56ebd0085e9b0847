"""What a search found, as words, a table and JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sardonyx._version import __version__
from sardonyx.optimizer.search.budget import Candidate, Figures, Limits

SHOWN = 12


@dataclass
class Result:
    """What `optimize` found.

    Attributes:
        model: the original's file.
        output: the file written.
        limits: the budget, the metric, and the original's figures.
        original: the original, as a candidate.
        best: what was written; the original where nothing is better.
        candidates: all that were tried.
        ranking: how much each layer suffers from quantisation, the worst first.
        before, after: nodes, time and size by operator.
        notes: what the user should know.
        stopped: why the search ended.
        samples: how many had each task, see `Parts`.
        seconds: that it took in all.
    """

    model: Path
    output: Path
    limits: Limits
    original: Candidate
    best: Candidate
    candidates: Sequence[Candidate]
    ranking: Sequence[dict[str, Any]] = ()
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    stopped: str = ""
    recipe: Path = Path()
    store: Path = Path()
    samples: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def improved(self) -> bool:
        """Whether something better than the original was found."""
        return self.best is not self.original

    @property
    def met(self) -> bool:
        """Whether what was written is within the budget: the original itself may not be."""
        return self.improved or not self.limits.problem(self.original.figures)

    @property
    def reason(self) -> str:
        """Why the original is returned; "" where it is not."""
        if self.improved:
            return ""
        problem = self.limits.problem(self.original.figures)
        closest = self._closest()
        tried = f"{len(self.candidates)} candidates were tried"
        if closest is not None:
            tried += f"; nearest was {closest.title}: {closest.reason or 'no better than the original'}"
        if problem:
            return f"nothing that was found keeps the budget, and the original does not ({problem}); {tried}"
        seen = f"times that differ by less than {self.limits.noise:.1%} cannot be told apart here"
        return f"nothing within the budget is clearly better than the original; {tried}; {seen}"

    def _closest(self) -> Candidate | None:
        """Of those that were rejected, the one that got furthest."""
        rest = [each for each in self.candidates if each.verdict != "failed"] or list(self.candidates)

        def stage(each: Candidate) -> tuple[Any, ...]:
            figures = each.figures
            fidelity = figures.fidelity if figures.fidelity is not None else -math.inf
            measured = figures.ratio is not None, figures.metric is not None
            return each.verdict == "verified", *measured, -self.limits.cost(figures), fidelity

        return max(rest, key=stage, default=None)

    def summary(self) -> str:
        """One sentence."""
        metric, budget = self.limits.metric.name, self.limits.budget
        if not self.improved:
            return f"the original is returned: {self.reason}"
        a, b = self.original.figures, self.best.figures
        speed = f"{1 / b.ratio[1]:.2f} x as fast" if b.ratio else "not timed"
        smaller = f"{a.size / b.size:.2f} x smaller" if b.size <= a.size else f"{b.size / a.size:.2f} x the size"
        judged = f"{metric} {number(a.metric)} -> {number(b.metric)} (allowed {number(self.limits.floor)})"
        if b.proof is not None:
            judged += f", on samples held out {number(a.proof)} -> {number(b.proof)}"
        return f"{self.best.title}: {speed}, {smaller}, {judged}; objective {budget.objective}"

    def front(self) -> list[Candidate]:
        """Those that no other beats in metric, time and size at once; the original among them."""
        measured = [self.original, *(each for each in self.candidates if each.figures.ratio is not None)]

        def point(each: Candidate) -> tuple[float, float, float]:
            figures = each.figures
            value = figures.metric if figures.metric is not None else -math.inf
            return (-value if self.limits.metric.higher else value), (figures.ratio or (1, 1, 1))[1], figures.size

        points = {each.number: point(each) for each in measured}

        def beaten(each: Candidate) -> bool:
            mine = points[each.number]
            others = (other for number, other in points.items() if number != each.number)
            return any(all(a <= b for a, b in zip(o, mine)) and o != mine for o in others)

        return sorted((each for each in measured if not beaten(each)), key=lambda each: points[each.number][1])

    def to_json(self) -> dict[str, Any]:
        """Everything, ready for JSON; infinities are text."""
        document = {
            "sardonyx": __version__,
            "model": str(self.model),
            "output": str(self.output),
            "recipe": str(self.recipe),
            "improved": self.improved,
            "met": self.met,
            "summary": self.summary(),
            "stopped": self.stopped,
            "seconds": self.seconds,
            "metric": self.limits.metric.name,
            "floor": self.limits.floor,
            "noise": self.limits.noise,
            "budget": self.limits.budget.to_json(),
            "samples": self.samples,
            "original": self.original.to_json(),
            "best": self.best.to_json(),
            "front": [each.number for each in self.front()],
            "candidates": [each.to_json() for each in self.candidates],
            "ranking": list(self.ranking),
            "before": self.before,
            "after": self.after,
            "notes": self.notes,
        }
        return _plain(document)

    def table(self) -> Any:
        """A rich table of the original, the front, and what else came close."""
        from rich.table import Table
        from rich.text import Text

        columns = ("", "steps", self.limits.metric.name, "ms", "x as fast", "size", "memory", "verdict")
        table = Table(*columns, title=f"Models, by {self.limits.budget.objective}", title_justify="left")
        for each in self._shown():
            figures = each.figures
            mark = "*" if each is self.best else ""
            speed = f"{1 / figures.ratio[1]:.2f}" if figures.ratio else ""
            cells = mark, each.title, number(figures.metric), number(figures.latency), speed
            verdict = each.reason or each.verdict
            table.add_row(*(Text(c) for c in (*cells, bytes_(figures.size), bytes_(figures.memory), verdict)))
        return table

    def _shown(self) -> list[Candidate]:
        rest = [each for each in self.candidates if each is not self.best]
        rest.sort(
            key=lambda each: (each.verdict != "verified", each.verdict == "failed", self.limits.cost(each.figures))
        )
        first = [self.original] if not self.improved else [self.original, self.best]
        return first + rest[: SHOWN - len(first)]


def number(value: float | None) -> str:
    """Four digits; nothing for None."""
    return "" if value is None else f"{value:.4g}"


def bytes_(count: float | None) -> str:
    """In units that can be read."""
    if not count:
        return ""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} GB"


def figures_words(figures: Figures) -> str:
    """Size and time in a few words."""
    return f"{bytes_(figures.size)}, {number(figures.latency)} ms"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value

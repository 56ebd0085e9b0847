"""Where the time of a run goes, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StepTime:
    """Nanoseconds that one step took in all runs together."""

    name: str
    operator: str
    nanoseconds: int
    calls: int


class Profile:
    """Times of all steps of a session."""

    def __init__(self, steps: Sequence[tuple[str, str]], ticks: Sequence[int], runs: int):
        self.runs = runs
        self.steps = [StepTime(name, operator, ticks[number], runs) for number, (name, operator) in enumerate(steps)]

    def by_operator(self) -> list[tuple[str, int, int]]:
        """``(operator, steps, nanoseconds of one run)``, the slowest first."""
        found: dict[str, tuple[int, int]] = {}
        for step in self.steps:
            count, total = found.get(step.operator, (0, 0))
            found[step.operator] = count + 1, total + step.nanoseconds
        rows = [(name, count, total // max(self.runs, 1)) for name, (count, total) in found.items()]
        return sorted(rows, key=lambda row: -row[2])

    def table(self, limit: int = 30) -> Any:
        """A rich table of the slowest steps."""
        from rich.table import Table

        total = sum(step.nanoseconds for step in self.steps) or 1
        table = Table("step", "operator", "us / run", "share", title=f"{self.runs} runs")
        for step in sorted(self.steps, key=lambda s: -s.nanoseconds)[:limit]:
            time = step.nanoseconds / max(self.runs, 1) / 1000
            table.add_row(step.name, step.operator, f"{time:.1f}", f"{100 * step.nanoseconds / total:.1f} %")
        return table

    def chrome_trace(self) -> dict[str, Any]:
        """One average run as a trace for chrome://tracing or Perfetto."""
        events, at = [], 0.0
        for number, step in enumerate(self.steps):
            length = step.nanoseconds / max(self.runs, 1) / 1000
            event = {"name": step.operator, "cat": "step", "ph": "X", "ts": at, "dur": length, "pid": 1, "tid": 1}
            events.append({**event, "args": {"node": step.name, "number": number}})
            at += length
        return {"traceEvents": events, "displayTimeUnit": "ms"}

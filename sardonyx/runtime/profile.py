"""Where the time of a run goes, step by step, and how near to the machine's peak each step is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StepTime:
    """Nanoseconds that one step took in all runs together, and its operations in one run (0: not counted).

    Operations are two for each multiply-add that the operator's definition asks for, whatever the kernel does instead:
    Winograd's convolution may show more than the machine can do.
    """

    name: str
    operator: str
    nanoseconds: int
    calls: int
    flops: int = 0

    @property
    def milliseconds(self) -> float:
        """Of one run."""
        return self.nanoseconds / max(self.calls, 1) / 1e6

    @property
    def gflops(self) -> float:
        """1e9 operations a second."""
        return self.flops * self.calls / self.nanoseconds if self.nanoseconds else 0.0


class Profile:
    """Times of all steps of a session.

    Args:
        steps: (node, operator) of each step.
        ticks: Nanoseconds of each step in all runs.
        runs: How many runs that were.
        flops: Operations of each step in one run; empty where not known.
    """

    def __init__(self, steps: Sequence[tuple[str, str]], ticks: Sequence[int], runs: int, flops: Sequence[int] = ()):
        self.runs = runs
        counts = flops or [0] * len(steps)
        self.steps = [StepTime(name, operator, ticks[n], runs, counts[n]) for n, (name, operator) in enumerate(steps)]

    @property
    def milliseconds(self) -> float:
        """Of all steps, in one run."""
        return sum(step.milliseconds for step in self.steps)

    @property
    def flops(self) -> int:
        """Operations of all steps, in one run."""
        return sum(step.flops for step in self.steps)

    @property
    def gflops(self) -> float:
        """1e9 operations a second, over the whole run."""
        return self.flops / self.milliseconds / 1e6 if self.milliseconds else 0.0

    def by_operator(self) -> list[tuple[str, int, int]]:
        """``(operator, steps, nanoseconds of one run)``, the slowest first."""
        return [(row.name, row.calls, row.nanoseconds) for row in self.operators()]

    def operators(self) -> list[StepTime]:
        """One row for each operator, the slowest first: what one run takes; `calls` is the number of steps."""
        found: dict[str, tuple[int, int, int]] = {}
        for step in self.steps:
            count, total, flops = found.get(step.operator, (0, 0, 0))
            found[step.operator] = count + 1, total + step.nanoseconds, flops + step.flops
        runs = max(self.runs, 1)
        rows = [StepTime(name, name, time // runs, count, flops) for name, (count, time, flops) in found.items()]
        return sorted(rows, key=lambda row: -row.nanoseconds)

    def rows(self, peak: float | None = None) -> list[dict[str, Any]]:
        """One row for each step in order of execution, ready for JSON.

        Args:
            peak: 1e9 operations a second that the machine can do; with it each row has its fraction of that.
        """
        total = self.milliseconds or 1.0
        return [
            {
                "step": step.name,
                "operator": step.operator,
                "ms": step.milliseconds,
                "share": step.milliseconds / total,
                "flops": step.flops,
                "gflops": step.gflops,
                "of_peak": step.gflops / peak if peak else None,
            }
            for step in self.steps
        ]

    def table(self, limit: int = 30, peak: float | None = None) -> Any:
        """A rich table of the slowest steps."""
        from rich.table import Table

        columns = ["step", "operator", "us / run", "share", "GFLOP/s", *(["of peak"] if peak else [])]
        table = Table(*columns, title=f"{self.runs} runs")
        for row in sorted(self.rows(peak), key=lambda row: -row["ms"])[:limit]:
            cells = [row["step"], row["operator"], f"{1000 * row['ms']:.1f}", f"{100 * row['share']:.1f} %"]
            cells.append(f"{row['gflops']:.1f}" if row["flops"] else "")
            if peak:
                cells.append(f"{100 * row['of_peak']:.0f} %" if row["flops"] else "")
            table.add_row(*cells)
        return table

    def chrome_trace(self) -> dict[str, Any]:
        """One average run as a trace for chrome://tracing or Perfetto."""
        events, at = [], 0.0
        for number, step in enumerate(self.steps):
            length = step.nanoseconds / max(self.runs, 1) / 1000
            event = {"name": step.operator, "cat": "step", "ph": "X", "ts": at, "dur": length, "pid": 1, "tid": 1}
            events.append({**event, "args": {"node": step.name, "number": number, "flops": step.flops}})
            at += length
        return {"traceEvents": events, "displayTimeUnit": "ms"}

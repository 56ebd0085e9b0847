"""What a verification found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sardonyx.verifier.compare import QUANTISED, Difference
from sardonyx.verifier.depth import Depth
from sardonyx.verifier.locate import Suspect


@dataclass(frozen=True)
class Row:
    """One output of one stage for one sample, against the first stage."""

    stage: str
    sample: str
    output: str
    difference: Difference


@dataclass
class Report:
    """All comparisons of a verification.

    Attributes:
        stages: their names; the first is what the others are compared with.
        rows: the comparisons.
        notes: what else was seen: randomness of the source, stages that could not run.
        suspect: the first node that differs, where one was looked for.
        depth: the error at points along the network, where it was asked for.
    """

    stages: Sequence[str]
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    suspect: Suspect | None = None
    depth: list[Depth] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing differs by more than rounding or quantisation, and something was compared."""
        return bool(self.rows) and not any(row.difference.failed for row in self.rows)

    def worst(self) -> Row | None:
        """The comparison that is furthest beyond (or nearest to) what is allowed."""
        return max(self.rows, key=_badness, default=None)

    def summary(self) -> str:
        """One sentence."""
        worst = self.worst()
        if worst is None:
            return "nothing was compared" + (f" ({'; '.join(self.notes)})" if self.notes else "")
        found = worst.difference
        quantised = ", within quantisation" if any(r.difference.verdict == QUANTISED for r in self.rows) else ""
        what = found.reason or f"off by {found.absolute:.3g} where {found.allowed:.3g} is allowed"
        return f"{worst.stage}, output {worst.output!r}, {worst.sample}: {what}{quantised}"

    def table(self) -> Any:
        """A rich table, a row for each output of each stage: its worst sample."""
        from rich.table import Table

        table = Table(
            "stage", "output", "worst sample", "abs", "allowed", "rel", "cosine", "SNR dB", "argmax", "verdict"
        )
        worst: dict[tuple[str, str], Row] = {}
        for row in self.rows:
            key = row.stage, row.output
            if key not in worst or _badness(row) > _badness(worst[key]):
                worst[key] = row
        for row in worst.values():
            d = row.difference
            argmax = "" if d.argmax is None else f"{d.argmax:.2%}"
            numbers = f"{d.absolute:.2e}", f"{d.allowed:.2e}", f"{d.relative:.2e}", f"{d.cosine:.7f}", f"{d.snr:.1f}"
            table.add_row(row.stage, row.output, row.sample, *numbers, argmax, d.verdict)
        return table

    def to_json(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        rows = [
            {**asdict(row.difference), "stage": row.stage, "sample": row.sample, "output": row.output}
            for row in self.rows
        ]
        suspect = asdict(self.suspect) if self.suspect is not None else None
        return {
            "passed": self.passed,
            "stages": list(self.stages),
            "rows": rows,
            "notes": self.notes,
            "suspect": suspect,
            "depth": [asdict(point) for point in self.depth],
        }


def _badness(row: Row) -> float:
    return row.difference.absolute / (row.difference.allowed or 1e-30)

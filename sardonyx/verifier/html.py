"""A report as one self-contained HTML page: no script, no font, no picture from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from sardonyx._version import __version__
from sardonyx.verifier.depth import Depth
from sardonyx.verifier.report import Report

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; width: 100%; font-size: 13px } th, td { padding: .3rem .6rem; text-align: left }
th { border-bottom: 2px solid #888 } td { border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums }
.pass { color: #17703c } .fail { color: #b3261e; font-weight: 600 } .quantised { color: #8a5a00 }
pre { background: #f5f5f5; padding: 1rem; overflow-x: auto; white-space: pre-wrap }
svg { width: 100%; height: auto } svg text { font: 11px system-ui, sans-serif; fill: #555 }
"""
_CLASS = {"pass": "pass", "fail": "fail"}
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 960, 280, 60, 30


def page(report: Report) -> str:
    """The page, as text."""
    verdict = "pass" if report.passed else "fail"
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>Verification: {verdict}</title><style>{STYLE}</style>",
        f"<h1>Verification: <span class={verdict}>{verdict}</span></h1>",
        f"<p>{escape(report.summary())}</p>",
        f"<p>Stages: {escape(', '.join(report.stages))}. The first is the truth.</p>",
        _suspect(report),
        plot(report.depth) if report.depth else "",
        _table(report),
        "".join(f"<p>Note: {escape(note)}</p>" for note in report.notes),
        f"<p><small>Sardonyx {__version__}</small></p></html>",
    ]
    return "\n".join(filter(None, parts))


def _suspect(report: Report) -> str:
    return f"<h2>First node that differs</h2><pre>{escape(str(report.suspect))}</pre>" if report.suspect else ""


def _table(report: Report) -> str:
    heads = ("stage", "sample", "output", "abs", "allowed", "rel", "cosine", "SNR dB", "same argmax", "verdict")
    lines = ["<h2>Comparisons</h2><table><tr>", *(f"<th>{head}" for head in heads), "</tr>"]
    for row in report.rows:
        d = row.difference
        numbers = f"{d.absolute:.3g}", f"{d.allowed:.3g}", f"{d.relative:.3g}", f"{d.cosine:.7f}", f"{d.snr:.1f}"
        cells = row.stage, row.sample, row.output, *numbers, "" if d.argmax is None else f"{d.argmax:.1%}"
        lines.append("<tr>" + "".join(f"<td>{escape(cell)}" for cell in cells))
        lines.append(f"<td class={_CLASS.get(d.verdict, 'quantised')}>{escape(d.reason or d.verdict)}</tr>")
    return "\n".join([*lines, "</table>"])


def plot(depth: Sequence[Depth]) -> str:
    """Relative error (dots) and what is allowed (line) along the network, on a logarithmic scale, as SVG."""
    floor = 1e-9
    values = [max(floor, min(1e3, point.relative)) for point in depth]
    limits = [max(floor, min(1e3, point.allowed)) for point in depth]
    low, high = (math.floor(math.log10(min(values + limits))), math.ceil(math.log10(max(values + limits))))
    high = max(high, low + 1)

    def x(number: int) -> float:
        return _LEFT + (_WIDTH - _LEFT - 10) * (number + 0.5) / len(depth)

    def y(value: float) -> float:
        return 10 + (_HEIGHT - _BOTTOM - 10) * (high - math.log10(value)) / (high - low)

    lines = [
        f"<h2>Error along the depth</h2><svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role=img aria-label='relative error'>",
        *(
            f"<line x1={_LEFT} x2={_WIDTH - 10} y1={y(10.0**power):.1f} y2={y(10.0**power):.1f} stroke=#eee />"
            f"<text x={_LEFT - 8} y={y(10.0**power) + 4:.1f} text-anchor=end>1e{power}</text>"
            for power in range(low, high + 1)
        ),
        "<polyline fill=none stroke=#999 stroke-dasharray='4 3' points='"
        + " ".join(f"{x(i):.1f},{y(limit):.1f}" for i, limit in enumerate(limits))
        + "' />",
    ]
    for i, (point, value, limit) in enumerate(zip(depth, values, limits, strict=True)):
        colour = "#b3261e" if value > limit else "#17703c"
        title = escape(
            f"{point.value}\n{point.place}\nrelative error {point.relative:.3g}, allowed {point.allowed:.3g}"
        )
        lines.append(f"<circle cx={x(i):.1f} cy={y(value):.1f} r=3.5 fill={colour}><title>{title}</title></circle>")
    caption = "first to last node; dashed: what rounding may do"
    lines.append(f"<text x={(_WIDTH + _LEFT) / 2:.0f} y={_HEIGHT - 8} text-anchor=middle>{caption}</text></svg>")
    return "\n".join(lines)

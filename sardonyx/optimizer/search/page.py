"""The report of a search as one self-contained HTML page: no script, no font, no picture from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from sardonyx._version import __version__
from sardonyx.optimizer.search.budget import Candidate
from sardonyx.optimizer.search.result import Result, bytes_, number
from sardonyx.verifier.html import STYLE

_MORE = """
.best { font-weight: 600 } td.number, th.number { text-align: right } .bar { fill: #b3261e } h2 { margin-top: 2.5rem }
"""
_COLOUR = {"verified": "#17703c", "rejected": "#b3261e", "failed": "#888"}
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 960, 360, 80, 45, 15
_LAYERS = 30


def page(result: Result) -> str:
    """The page, as text."""
    title = f"Optimisation of {result.model.name}"
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>{escape(title)}</title><style>{STYLE}{_MORE}</style><h1>{escape(title)}</h1>",
        f"<p class={'pass' if result.improved else 'quantised'}>{escape(result.summary())}</p>",
        f"<p>{escape(_circumstances(result))}</p>",
        "".join(f"<p>Note: {escape(note)}</p>" for note in result.notes),
        plot(result),
        _candidates(result),
        _recipe(result),
        _graphs(result),
        _ranking(result.ranking),
        f"<p><small>Sardonyx {__version__}</small></p></html>",
    ]
    return "\n".join(filter(None, parts))


def _circumstances(result: Result) -> str:
    tasks = {"calibration": "calibrated", "evaluation": "judged", "proof": "proved the result"}
    samples = ", ".join(f"{count} {tasks[name]}" for name, count in result.samples.items())
    return (
        f"{len(result.candidates)} candidates in {result.seconds:.0f} s ({result.stopped}); samples:"
        f" {samples}. Times are ratios of medians of blocks that alternate with the original's;"
        f" below {result.limits.noise:.1%} they cannot be told apart on this machine."
    )


def plot(result: Result) -> str:
    """The metric over the time of a run, a circle for each model, its area that of the file, the front as a line."""
    shown = [each for each in [result.original, *result.candidates] if _point(each) is not None]
    points = {each.number: point for each in shown if (point := _point(each)) is not None}
    floor = result.limits.floor
    xs = [x for x, _ in points.values()]
    ys = [y for _, y in points.values() if abs(y) != float("inf")]
    ys += [floor] if abs(floor) != float("inf") else []
    if len(shown) < 2 or not ys:
        return ""
    x = _scale(0.0, max(xs) * 1.05, _LEFT, _WIDTH - 20)
    low, high = min(ys), max(ys)
    margin = (high - low) * 0.1 or abs(high) * 0.1 or 1.0
    y = _scale(low - margin, high + margin, _HEIGHT - _BOTTOM, _TOP)
    lines = [
        f"<h2>Time, {escape(result.limits.metric.name)}, size</h2>",
        f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role=img aria-label='metric over time'>",
        *_axes(x, y, max(xs) * 1.05, low, high),
    ]
    if abs(floor) != float("inf"):
        dash = f"stroke=#8a5a00 stroke-dasharray='5 4' x1={_LEFT} x2={_WIDTH - 20} y1={y(floor):.1f} y2={y(floor):.1f}"
        lines.append(f"<line {dash} /><text x={_LEFT + 4} y={y(floor) - 4:.1f}>allowed: {number(floor)}</text>")
    top = max(ys)
    front = [points[each.number] for each in result.front() if each.number in points]
    path = " ".join(f"{x(a):.1f},{y(min(b, top)):.1f}" for a, b in front)
    lines.append(f"<polyline fill=none stroke=#555 stroke-width=1 points='{path}' />")
    largest = max(each.figures.size for each in shown) or 1
    for each in shown:
        a, b = points[each.number]
        radius = 3 + 12 * (each.figures.size / largest) ** 0.5
        ring = " stroke=#000 stroke-width=2" if each is result.best else ""
        words = f"{each.title}\n{number(a)} ms, {number(b)}, {bytes_(each.figures.size)}\n{each.reason or each.verdict}"
        circle = f"cx={x(a):.1f} cy={y(max(min(b, top), low)):.1f} r={radius:.1f} fill={_COLOUR[each.verdict]}"
        lines.append(f"<circle {circle} fill-opacity=.55{ring}><title>{escape(words)}</title></circle>")
    lines.append(
        "</svg><p><small>Green: within the budget; red: outside; area: size of the file; line: the front.</small></p>"
    )
    return "\n".join(lines)


def _point(each: Candidate) -> tuple[float, float] | None:
    figures = each.figures
    return None if figures.latency is None or figures.metric is None else (figures.latency, figures.metric)


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _axes(x: Callable[[float], float], y: Callable[[float], float], right: float, low: float, high: float) -> list[str]:
    lines = []
    for part in range(6):
        value = right * part / 5
        lines.append(f"<text x={x(value):.1f} y={_HEIGHT - _BOTTOM + 16} text-anchor=middle>{number(value)}</text>")
    for part in range(5):
        value = low + (high - low) * part / 4
        lines.append(f"<line stroke=#eee x1={_LEFT} x2={_WIDTH - 20} y1={y(value):.1f} y2={y(value):.1f} />")
        lines.append(f"<text x={_LEFT - 8} y={y(value) + 4:.1f} text-anchor=end>{number(value)}</text>")
    lines.append(f"<text x={_WIDTH / 2} y={_HEIGHT - 8} text-anchor=middle>milliseconds of a run</text>")
    return lines


def _candidates(result: Result) -> str:
    heads = "steps", result.limits.metric.name, "ms", "x as fast", "size", "memory", "seconds", "verdict"
    front = {each.number for each in result.front()}
    rows = []
    for each in [result.original, *sorted(result.candidates, key=lambda each: each.number)]:
        figures = each.figures
        speed = f"{1 / figures.ratio[1]:.2f}" if figures.ratio else ""
        cells = number(figures.metric), number(figures.latency), speed, bytes_(figures.size), bytes_(figures.memory)
        kind = {"verified": "pass", "rejected": "fail"}.get(each.verdict, "quantised")
        title = escape(each.title) + (" &#9670;" if each.number in front else "")
        numbers = "".join(f"<td class=number>{cell}" for cell in (*cells, f"{each.seconds:.1f}"))
        row = "<tr class=best>" if each is result.best else "<tr>"
        rows.append(f"{row}<td>{title}{numbers}<td class={kind}>{escape(each.reason or each.verdict)}</tr>")
    head = "".join(f"<th{' class=number' if 0 < at < 7 else ''}>{escape(text)}" for at, text in enumerate(heads))
    caption = "<p><small>Bold: what was written. &#9670;: on the front of metric, time and size.</small></p>"
    return "\n".join([f"<h2>Candidates</h2><table><tr>{head}</tr>", *rows, "</table>", caption])


def _recipe(result: Result) -> str:
    text = result.recipe.read_text(encoding="utf-8") if result.recipe.is_file() else ""
    said = "".join(f"<li>{escape(note)}" for note in result.best.notes)
    return f"<h2>Recipe</h2><pre>{escape(text)}</pre>" + (f"<ul>{said}</ul>" if said else "")


def _graphs(result: Result) -> str:
    """Nodes and microseconds by operator, before and after."""
    if not result.before or not result.after:
        return ""
    lines = ["<h2>Before and after</h2><table><tr><th>operator<th class=number>nodes before<th class=number>after"]
    lines[0] += "<th class=number>&micro;s before<th class=number>after</tr>"
    nodes = [side["nodes"] for side in (result.before, result.after)]
    times = [side["microseconds"] for side in (result.before, result.after)]
    names = list(dict.fromkeys([*nodes[0], *nodes[1], *times[0], *times[1]]))
    for name in sorted(names, key=lambda name: -max(times[0].get(name, 0), times[1].get(name, 0))):
        cells = [*(str(side.get(name, "")) for side in nodes), *(number(side.get(name)) for side in times)]
        lines.append(f"<tr><td>{escape(name)}" + "".join(f"<td class=number>{cell}" for cell in cells) + "</tr>")
    totals = [str(sum(side.values())) for side in nodes] + [number(sum(side.values())) for side in times]
    lines.append("<tr class=best><td>all" + "".join(f"<td class=number>{cell}" for cell in totals) + "</tr></table>")
    sizes = f"{bytes_(result.before['size'])} before, {bytes_(result.after['size'])} after"
    return "\n".join([*lines, f"<p><small>File: {sizes}.</small></p>"])


def _ranking(ranking: Sequence[dict]) -> str:
    """A bar for each layer: the noise that quantising it alone brings, in dB below the signal."""
    rows = [row for row in ranking if row.get("snr") is not None][:_LAYERS]
    if not rows:
        return ""
    highest = max(max(row["snr"] for row in rows), 1.0)
    height = 20 * len(rows) + 10
    lines = [f"<h2>Sensitivity</h2><svg viewBox='0 0 {_WIDTH} {height}' role=img aria-label='sensitivity of layers'>"]
    for at, row in enumerate(rows):
        width = 500 * (1 - max(0.0, row["snr"]) / (highest * 1.1))
        y = 20 * at + 14
        lines.append(f"<text x=370 y={y} text-anchor=end>{escape(row['node'][-56:])}</text>")
        lines.append(f"<rect class=bar x=380 y={y - 11} width={width:.1f} height=14 />")
        lines.append(f"<text x={390 + width:.1f} y={y}>{row['snr']:.1f} dB</text>")
    return "\n".join(
        [
            *lines,
            "</svg><p><small>Signal-to-noise ratio of the output with one layer quantised; worst first.</small></p>",
        ]
    )

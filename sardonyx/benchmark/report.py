"""The results of `matrix` as geometric means, Markdown and a chart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sardonyx.errors import SardonyxError

__all__ = ["chart", "geomean", "markdown", "measured", "settings_of", "write_report"]

Results = Mapping[str, Any]
NAMES = {"sardonyx": "Sardonyx", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "mnn": "MNN", "ncnn": "ncnn"}


def geomean(values: Iterable[float]) -> float | None:
    """The geometric mean, None of nothing."""
    logarithms = [math.log(value) for value in values]
    return math.exp(sum(logarithms) / len(logarithms)) if logarithms else None


def settings_of(results: Results) -> list[tuple[int, int]]:
    """(threads, batch) of all cases: most threads first, then the smallest batch."""
    found = {(case["threads"], case["batch"]) for case in results["cases"].values()}
    return sorted(found, key=lambda pair: (-pair[0], pair[1]))


def measured(results: Results, threads: int, batch: int) -> dict[str, dict[str, Any]]:
    """The cases of one setting that have times, by model."""
    return {
        case["model"]: case
        for case in results["cases"].values()
        if case["threads"] == threads and case["batch"] == batch and "timings" in case
    }


def geomeans(cases: Mapping[str, Mapping[str, Any]], runtimes: Sequence[str]) -> dict[str, float | None]:
    """Geometric means of the ratios against each runtime, and against the best for each model."""
    means = {name: geomean(c["ratios"][name] for c in cases.values() if name in c["ratios"]) for name in runtimes}
    # The best of those that most models have: one opponent fewer would make a model look better.
    return means | {"best": geomean(case["best"] for case in cases.values() if case["best"])}


def markdown(results: Results) -> str:
    """A page with a table for each setting, one for loads, and what could not be measured."""
    machine = results["machine"]
    runtimes = [name for name in results["runtimes"] if name != "sardonyx"]
    lines = [
        "# Benchmark",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, {machine['date']}.",
        "Versions: " + ", ".join(f"{NAMES.get(n, n)} {v}" for n, v in results["runtimes"].items()) + ".",
        *([f"Not installed: {', '.join(results['missing'])}."] if results.get("missing") else []),
        "",
        "Milliseconds a run: median [p10 .. p90]. Outputs were compared; then runtimes took turns in short blocks.",
        "A ratio is the other's median over ours: above 1 Sardonyx is faster; in brackets p10 to p90 of the ratios of",
        "single rounds. Of peak: operations that the operators ask for, two for each multiply-add, against the fused",
        "multiply-adds that this machine was measured to do; Winograd's convolutions can exceed it.",
        "",
    ]
    for peak in results["peak"].values():
        text = f"{peak['gflops']:.0f} GFLOP/s, {peak['l2']:.0f} GB/s from L2, {peak['dram']:.0f} GB/s from memory"
        lines.append(f"- peak of {_plural(peak['threads'], 'thread')}: {text}")
    lines.append("")
    for threads, batch in settings_of(results):
        lines += [f"## {_plural(threads, 'thread')}, batch {batch}", "", *_table(results, threads, batch, runtimes), ""]
    lines += _loads(results)
    lines += _problems(results)
    return "\n".join(lines)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _table(results: Results, threads: int, batch: int, runtimes: Sequence[str]) -> list[str]:
    cases = measured(results, threads, batch)
    shown = [name for name in runtimes if any(name in case["timings"] for case in cases.values())]
    heads = ["model", *(NAMES.get(n, n) for n in ("sardonyx", *shown))]
    heads += [f"against {NAMES.get(n, n)}" for n in shown] + ["against the best", "GFLOP/s", "of peak"]
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for model, case in sorted(cases.items()):
        cells = [model, *(_time(case["timings"].get(name)) for name in ("sardonyx", *shown))]
        cells += [_ratio(case, name) for name in shown]
        cells += [f"{case['best']:.2f}" if case["best"] else ""]
        cells += [f"{case['gflops']:.0f}" if case["flops"] else "", _percent(case["of_peak"])]
        lines.append("| " + " | ".join(cells) + " |")
    means = geomeans(cases, shown)
    cells = ["**geometric mean**", *[""] * (len(shown) + 1), *(_mean(means[name]) for name in (*shown, "best")), "", ""]
    return [*lines, "| " + " | ".join(cells) + " |"]


def _time(timing: Mapping[str, Any] | None) -> str:
    return f"{timing['median']:.3g} [{timing['p10']:.3g} .. {timing['p90']:.3g}]" if timing else ""


def _ratio(case: Mapping[str, Any], name: str) -> str:
    if name not in case["ratios"]:
        return ""
    low, _, high = case["paired"][name]
    return f"{case['ratios'][name]:.2f} [{low:.2f} .. {high:.2f}]"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def _mean(value: float | None) -> str:
    return "" if value is None else f"**{value:.2f}**"


def _loads(results: Results) -> list[str]:
    if not results["loads"]:
        return []
    names = list(dict.fromkeys(name for row in results["loads"].values() for name in row))
    heads = ["model", "cold, s", *(f"warm {NAMES.get(n, n)}, ms" for n in names)]
    heads += [f"memory {NAMES.get(n, n)}, MB" for n in names]
    lines = ["## Loads and memory", "", "Each in a new process: the load itself, imports included, and the most memory"]
    lines += ["beyond Python with numpy after two runs. Cold: compiled with an empty cache.", ""]
    lines += ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for model, row in sorted(results["loads"].items()):
        cold = row.get("sardonyx", {}).get("cold")
        cells = [model, f"{cold:.1f}" if cold else ""]
        cells += [f"{1e3 * row[n]['warm']:.0f}" if "warm" in row.get(n, {}) else "" for n in names]
        cells += [f"{row[n]['memory'] / 1e6:.0f}" if "memory" in row.get(n, {}) else "" for n in names]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _problems(results: Results) -> list[str]:
    rows = [f"- {key}: {case['error']}" for key, case in results["cases"].items() if "error" in case]
    for key, case in results["cases"].items():
        rows += [f"- {key}, {NAMES.get(n, n)}: {why}" for n, why in case.get("left_out", {}).items()]
    rows += [f"- no time left for {name}" for name in results.get("out_of_time", [])]
    return ["## Not measured", "", *rows, ""] if rows else []


def chart(results: Results, threads: int, batch: int, file: Path) -> None:
    """Bars of the ratios of each model against each runtime, as SVG.

    Raises:
        SardonyxError: matplotlib is missing.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise SardonyxError("a chart needs matplotlib", hint="pip install 'sardonyx[bench]'") from error
    cases = sorted(measured(results, threads, batch).items())
    runtimes = [n for n in results["runtimes"] if any(n in case["ratios"] for _, case in cases)]
    means = geomeans(dict(cases), runtimes)
    labels = [model for model, _ in cases] + ["geometric mean"]
    height = 0.8 / max(len(runtimes), 1)
    # Text stays text, and nothing in the file depends on when it was made.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sardonyx"}):
        figure = Figure(figsize=(9, 1.2 + 0.22 * len(labels) * max(len(runtimes), 2)), layout="constrained")
        axes = figure.subplots()
        for number, name in enumerate(runtimes):
            values = [case["ratios"].get(name, 0.0) for _, case in cases] + [means[name] or 0.0]
            places = [row + (number - (len(runtimes) - 1) / 2) * height for row in range(len(labels))]
            bars = axes.barh(places, values, height, label=NAMES.get(name, name))
            axes.bar_label(bars, [f"{value:.2f}" if value else "" for value in values], padding=2, fontsize=7)
        axes.axvline(1.0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(labels)), labels)
        axes.invert_yaxis()
        axes.set_xlabel("time of the other runtime / time of Sardonyx; beyond 1 Sardonyx is faster")
        title = (
            f"{_plural(threads, 'thread')}, batch {batch}, {results['machine']['cpu']}, {results['machine']['date']}"
        )
        axes.set_title(title, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        if runtimes:
            axes.legend(frameon=False, fontsize=8)
        figure.savefig(file, format="svg", metadata={"Date": None})


def write_report(results: Results, file: Path) -> list[Path]:
    """Markdown and charts beside the results in `file`; returns what was written. Without matplotlib, no charts."""
    page = file.with_suffix(".md")
    page.write_text(markdown(results), encoding="utf-8")
    written = [page]
    for threads, batch in settings_of(results):
        picture = file.with_name(f"{file.stem}-t{threads}-b{batch}.svg")
        try:
            chart(results, threads, batch, picture)
        except SardonyxError:
            break
        written.append(picture)
    return written

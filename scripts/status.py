"""Write docs/status.md and the marked part of README.md: operators from the registry, figures from benchmarks/results/.

    python scripts/status.py              write both
    python scripts/status.py --check      write nothing; fail when docs/status.md lists other native operators

Each file of results holds what one command measured (`GOALS` names them), and `machine`, what it was measured on. What
has no file is "not measured". --check leaves figures alone, since they depend on the machine.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sardonyx.benchmark.report import geomean, measured, settings_of
from sardonyx.ops.registry import Summary, all_operators

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
README, STATUS = ROOT / "README.md", ROOT / "docs" / "status.md"
MARKED = re.compile(r"(<!-- status:begin -->\n).*?(<!-- status:end -->)", re.DOTALL)
FOUND = ("bug", "crash", "hang", "wrong")  # outcomes of a fuzz trial that are faults of ours

Report = dict[str, Any]
Verdict = tuple[str, bool]  # what was measured, and whether that is the target
Measure = Callable[[Report], Verdict]


@dataclass(frozen=True)
class Goal:
    """One row of "done when": `measure` reads the results of `part`, which `command` writes."""

    name: str
    target: str
    part: str
    command: str
    measure: Callable[[Report], Verdict]


def read(part: str, folder: Path) -> tuple[Report | None, Report]:
    """The results of `part` and the machine they come from; None where there are none."""
    path = folder / f"{part}.json"
    if not path.exists():
        return None, {}
    report = json.loads(path.read_text(encoding="utf-8"))
    return report, report.pop("machine", {})


# Measures: from the results of a part to words.


@functools.cache
def _tests(module: str) -> Any:
    """A module of the tests that is also a source of facts."""
    sys.path.insert(0, str(ROOT / "tests"))
    spec = importlib.util.spec_from_file_location(Path(module).stem, ROOT / "tests" / module)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def exclusions() -> Mapping[str, str]:
    """Official tests that are left out, with reasons."""
    return _tests("ops/test_onnx_nodes.py").EXCLUDED


def node_tests() -> Collection[str]:
    """Names of the official tests of kind node."""
    return set(_tests("onnx_cases.py").names(["node"]))


def backend_passed(report: Report) -> Verdict:
    left_out = exclusions()
    wanted = [row for row in report["results"] if row["name"] not in left_out]
    passed = sum(row["outcome"] == "passed" for row in wanted)
    text = f"{passed} of {len(wanted)}, {len(report['results']) - len(wanted)} excluded"
    return text, passed == len(wanted) and len(left_out) <= 10


def backend_native(report: Report) -> Verdict:
    nodes = node_tests()
    rows = [row for row in report["results"] if row["name"] in nodes]
    native = sum(row["outcome"] == "passed" and not row["hosted"] for row in rows)
    share = native / max(len(rows), 1)
    return f"{share:.1%} ({native} of {len(rows)})", share >= 0.85


def agree(report: Report) -> Verdict:
    return _all(report, [name for name, row in report.items() if row["error"] is None or row["error"] > 1e-4])


def all_native(report: Report) -> Verdict:
    return _all(report, [name for name, row in report.items() if row["error"] is None or row["host"]])


def _all(report: Report, bad: Collection[str]) -> Verdict:
    text = f"{len(report) - len(bad)} of {len(report)} models"
    return text + (f" (not {', '.join(bad)})" if bad else ""), not bad and len(report) > 0


def same_bits(report: Report) -> Verdict:
    rows = [row for row in report["rows"] if row["outcome"] != "skipped"]
    same = sum(row["outcome"] == "same" for row in rows)
    text = f"{same} of {len(rows)} comparisons on {len({row['machine'] for row in rows})} kinds of machines"
    return text + "".join(f"; {name} not run" for name in report["missing"]), same == len(rows) > 0


def seconds(key: str, limit: float) -> Callable[[Report], Verdict]:
    return lambda report: (f"{report[key]:.1f} s", report[key] <= limit)


def warm(model: str, limit: float) -> Callable[[Report], Verdict]:
    return lambda report: (f"{report[model]['warm_load'] * 1e3:.0f} ms", report[model]["warm_load"] <= limit)


def peak(report: Report) -> Verdict:
    ratios = {name: row["ratio"] for name, row in report.items() if isinstance(row, dict)}
    return _listed(ratios, "{:.2f} x"), max(ratios.values()) <= 1.2


def flat(report: Report) -> Verdict:
    growths = {name: row["growth"] for name, row in report.items()}
    enough = all(row["runs"] >= 10_000 for row in report.values())
    return _listed(growths, "{:+.1f} MB"), enough and all(row["growth"] <= row["slack"] for row in report.values())


def overhead(report: Report) -> Verdict:
    texts = [f"{kind} {row['sardonyx']:.1f} against {row['onnxruntime']:.1f} µs" for kind, row in report.items()]
    return ", ".join(texts), all(row["sardonyx"] <= row["onnxruntime"] for row in report.values())


def each(against: Collection[str]) -> Measure:
    """The ratio of each model, with 2 threads."""

    def measure(report: Report) -> Verdict:
        ratios = _ratios(report, against, 2, 1)
        value = geomean(ratios.values())
        return ("not measured", False) if value is None else (f"{value:.2f}: {_listed(ratios, '{:.2f}')}", True)

    return measure


def _ratios(report: Report, against: Collection[str], threads: int, batch: int) -> dict[str, float]:
    """By model: the time of the best of the runtimes `against` over ours."""
    found = {}
    for model, case in measured(report, threads, batch).items():
        ratios = [case["ratios"][name] for name in against if name in case["ratios"]]
        if ratios:
            found[model] = min(ratios)
    return found


def mean(against: Collection[str], least: float, threads: int = 2, batch: int = 1, worst: float = 0) -> Measure:
    def measure(report: Report) -> Verdict:
        ratios = _ratios(report, against, threads, batch)
        value = geomean(ratios.values())
        if value is None:
            return "not measured", False
        slowest = min(ratios, key=lambda name: ratios[name])
        text = f"{value:.2f} over {len(ratios)} models" + (f", {slowest} {ratios[slowest]:.2f}" if worst else "")
        return text, value >= least and ratios[slowest] >= worst

    return measure


def slowest(report: Report) -> Verdict:
    ratios = _ratios(report, BOTH, 2, 1)
    if not ratios:
        return "not measured", False
    name = min(ratios, key=lambda name: ratios[name])
    return f"{name} {ratios[name]:.2f}", ratios[name] >= 1


def faster(models: Mapping[str, int], against: Collection[str], least: float) -> Measure:
    """Each of `models`, at its batch, against the best of `against`, with 2 threads."""

    def measure(report: Report) -> Verdict:
        found = {}
        for model, batch in models.items():
            ratio = _ratios(report, against, 2, batch).get(model.partition(" ")[0])
            if ratio is not None:
                found[model] = ratio
        return _listed(found, "{:.2f}") or "not measured", len(found) == len(models) and min(found.values()) >= least

    return measure


def half_pruned(report: Report) -> Verdict:
    drop = report["accuracy"]["original"] - report["accuracy"]["pruned"]
    text = f"{report['work']:.0%} of the work left, accuracy {-drop:+.1%}, {report['ratio']:.2f} x"
    return text, report["work"] <= 0.5 and drop <= 0.01 and report["ratio"] >= 1.6


def single_operators(report: Report) -> Verdict:
    """All ratios with one thread: their mean, how many are below 1, and the lowest of all."""
    rows = report.get("t1", {})
    ratios = {name: row["ratio"] for name, row in rows.items() if "ratio" in row}
    value = geomean(ratios.values())
    if value is None:
        return "not measured", False
    low = dict(sorted(((name, ratio) for name, ratio in ratios.items() if ratio < 1), key=lambda pair: pair[1]))
    worst = "; lowest: " + _listed(dict(list(low.items())[:5]), "{:.2f}") if low else ""
    return f"{value:.2f} over {len(ratios)} of {len(rows)}, {len(low)} below 1{worst}", True


def scaling(report: Report) -> Verdict:
    one, two = measured(report, 1, 1), measured(report, 2, 1)
    found = {
        name: one[name]["timings"]["sardonyx"]["median"] / two[name]["timings"]["sardonyx"]["median"]
        for name in CONVOLUTION_MODELS
        if name in one and name in two
    }
    return _listed(found, "{:.2f}") or "not measured", bool(found) and min(found.values()) >= 1.8


def of_peak(report: Report) -> Verdict:
    cases = measured(report, 2, 1)
    found = {name: 100 * cases[name]["of_peak"] for name in ("resnet50", "unet", "bert_base") if name in cases}
    return _listed(found, "{:.0f} %") or "not measured", bool(found)


def taken_core(report: Report) -> Verdict:
    rows = {model: row["taken_core"] for model, row in report.items()}
    texts = [
        f"{model} " + " against ".join(f"{row[name]['slowdown']:.2f} x" for name in ("sardonyx", "onnxruntime"))
        for model, row in rows.items()
    ]
    return ", ".join(texts), all(row["sardonyx"]["slowdown"] <= 2.5 for row in rows.values())


def shared(report: Report) -> Verdict:
    ratios = {model: row["two_sessions"]["sardonyx"]["ratio"] for model, row in report.items()}
    return _listed(ratios, "{:.2f}"), all(ratio <= 1.1 for ratio in ratios.values())


def idleness(report: Report) -> Verdict:
    burnt = {model: row["idle"]["sardonyx"]["median"] for model, row in report.items()}
    return _listed(burnt, "{:.0f} µs"), all(value <= 200 for value in burnt.values())


def fuzzed(report: Report) -> Verdict:
    found = sum(row["counts"].get(kind, 0) for row in report.values() for kind in FOUND)
    return ", ".join(f"{row['trials']} {kind}" for kind, row in report.items()) + f": {found} faults", found == 0


def optimized(models: Collection[str], speed: str = "", faster: float = 0, smaller: float = 0) -> Measure:
    """Rows of benchmarks/optimize.py: each so many times faster than `speed`, and smaller, within its budget."""

    def measure(report: Report) -> Verdict:
        rows = {name: report[name] for name in models if name in report}
        met, texts = len(rows) == len(models), []
        for name, row in rows.items():
            ratio, size = row.get(speed, [0, 0, 0])[1], row["size"][0] / row["size"][1]
            met &= ratio >= faster and size >= smaller and not row["reason"]
            texts.append(f"{name} {ratio:.2f} x" + (f", {size:.1f} x smaller" if smaller else ""))
        return "; ".join(texts) or "not measured", met

    return measure


def small_models(report: Report) -> Verdict:
    """Of the models of benchmarks/optimize_small.py, how many came back slower, or outside of their budgets."""
    if "small" not in report:
        return "not measured", False
    row = report["small"]
    bad = row["slower"] + row["outside"] + row["unexplained"]
    text = f"{row['models']} models: {row['improved']} improved, {row['slower']} slower, {row['outside']} outside"
    return text, row["models"] >= 30 and bad == 0


def same_files(report: Report) -> Verdict:
    """QDQ files under all runtimes, against the best other one: the geometric mean, and each."""
    ratios = {
        f"{name.partition(' ')[0]} {name[-2:]}": min(row["ratios"].values())
        for name, row in report.items()
        if "timings" in row
    }
    value = geomean(ratios.values())
    if value is None:
        return "not measured", False
    return f"{value:.2f}: {_listed(ratios, '{:.2f}')}", value >= 1.3 and min(ratios.values()) >= 1


def dynamic(model: str, least: float) -> Measure:
    """Dynamic int8 against ONNX Runtime in floats and in its own dynamic int8."""

    def measure(report: Report) -> Verdict:
        rows = {name[-2:]: row for name, row in report.items() if name.startswith(f"{model} ")}
        texts = [
            f"{threads}: {row['ratios']['floats']:.2f} x and {row['ratios']['own dynamic int8']:.2f} x, "
            f"{row['snr']['sardonyx']:.0f} dB"
            for threads, row in sorted(rows.items())
        ]
        ratios = [ratio for row in rows.values() for ratio in row["ratios"].values()]
        return "; ".join(texts) or "not measured", bool(ratios) and min(ratios) >= least

    return measure


def converted(package: str, least: float) -> Measure:
    """Share of the models of a package that were converted, and verified with no more than rounding."""

    def measure(report: Report) -> Verdict:
        rows = [row for row in report["rows"] if row["package"].startswith(package)]
        passed = [row for row in rows if row["verdict"] == "pass"]
        failed = sorted({row["model"] for row in rows} - {row["model"] for row in passed})
        missing = f" (not {', '.join(failed)})" if failed else ""
        text = f"{len(passed)} of {len(rows)}{missing}" if rows else "not measured"
        return text, bool(rows) and len(passed) >= least * len(rows)

    return measure


def _listed(values: Mapping[str, float], form: str) -> str:
    return ", ".join(f"{name} {form.format(value)}" for name, value in values.items())


BACKEND, AGREEMENT, LOADS, OVERHEAD = (
    f"python benchmarks/figures.py {part}" for part in ("backend", "agreement", "loads", "overhead")
)
BENCH, CONVERT, AVX2 = "make bench", "make test-converters", "python scripts/bench.py --avx2"
CONVERTED = ("converters", "converters_torch")  # parts with rows of converted models
PRUNED = "python benchmarks/pruned.py"
OPERATORS = "python benchmarks/operators.py"
OPTIMIZE, QUANTIZED = "python benchmarks/optimize.py", "python benchmarks/quantized.py"
ORT, BOTH = ("onnxruntime",), ("onnxruntime", "openvino")
CONVOLUTION_MODELS = ("resnet18", "resnet50", "densenet121", "unet", "mobilenet_v2")
FOREST = {"forest": 1, "forest of 10,000": 10_000}  # model (its first word) -> batch
HEAVY, TRANSFORMERS = {"resnet18": 1, "unet": 1}, {"bert_base": 1, "vit_b_16": 1}
MOBILE, PERCEPTRONS = {"efficientnet_b0": 1, "mobilenet_v3_large": 1}, {"mlp_64": 1, "mlp_256": 1}
GOALS = (
    Goal("official ONNX backend tests pass", "100 %, at most 10 excluded", "backend", BACKEND, backend_passed),
    Goal("official node tests all native", "at least 85 %", "backend", BACKEND, backend_native),
    Goal("zoo and trained models agree with ONNX Runtime", "error at most 1e-4", "agreement", AGREEMENT, agree),
    Goal("zoo and trained models all native", "all", "agreement", AGREEMENT, all_native),
    Goal("same bits on all threads and targets", "all", "targets", "make test-targets", same_bits),
    Goal("first load of resnet50, empty cache", "at most 15 s", "loads", LOADS, seconds("first_load", 15)),
    Goal("first load of a second model", "at most 6 s", "loads", LOADS, seconds("second_load", 6)),
    Goal("warm load of resnet50", "at most 50 ms", "loads", LOADS, warm("resnet50", 0.05)),
    Goal("warm load of bert_base", "at most 100 ms", "loads", LOADS, warm("bert_base", 0.1)),
    Goal("peak memory, of weights and activations", "at most 1.2 x", "loads", LOADS, peak),
    Goal("memory over 10,000 runs", "flat", "soak", "make soak", flat),
    Goal("overhead of a run, one node", "not above ONNX Runtime's", "overhead", OVERHEAD, overhead),
    Goal("zoo against ONNX Runtime", "geometric mean at least 1.5", "zoo", BENCH, mean(ORT, 1.5)),
    Goal("zoo against the best of it and OpenVINO", "geometric mean at least 1.3", "zoo", BENCH, mean(BOTH, 1.3)),
    Goal("slowest of the zoo against the best", "at least 1.0", "zoo", BENCH, slowest),
    Goal(
        "ResNet-18, U-Net against ONNX Runtime",
        "at least 1.8",
        "zoo",
        BENCH,
        faster(HEAVY, ORT, 1.8),
    ),
    Goal("BERT, ViT against the best", "at least 1.15", "zoo", BENCH, faster(TRANSFORMERS, BOTH, 1.15)),
    Goal(
        "mobile networks against the best",
        "at least 1.4",
        "zoo",
        BENCH,
        faster(MOBILE, BOTH, 1.4),
    ),
    Goal("one thread, against ONNX Runtime", "mean 1.3, none below 1.0", "zoo", BENCH, mean(ORT, 1.3, 1, 1, worst=1)),
    Goal("batch 8, against ONNX Runtime", "mean 1.3, none below 1.0", "zoo", BENCH, mean(ORT, 1.3, 2, 8, worst=1)),
    Goal("random forest against ONNX Runtime", "at least 3", "tabular", BENCH, faster(FOREST, ORT, 3)),
    Goal(
        "perceptrons against ONNX Runtime",
        "at least 1.5",
        "tabular",
        BENCH,
        faster(PERCEPTRONS, ORT, 1.5),
    ),
    Goal("zoo against ONNX Runtime, no AVX-512 for anyone", "reported", "zoo-avx2", AVX2, each(ORT)),
    Goal("single operators against ONNX Runtime, 1 thread", "reported", "operators", OPERATORS, single_operators),
    Goal("two threads against one", "at least 1.8", "zoo", BENCH, scaling),
    Goal("fraction of the measured peak", "reported", "zoo", BENCH, of_peak),
    Goal("slow-down with a core taken, beside ONNX Runtime", "at most 2.5 x", "threads", BENCH, taken_core),
    Goal("two sessions at once, over one after the other", "at most 1.1", "threads", BENCH, shared),
    Goal("processor time burnt after a run", "at most 200 µs", "threads", BENCH, idleness),
    Goal(
        "digits, 0.5 % drop: against ONNX Runtime's fp32",
        "3 x, 8 x smaller",
        "optimize",
        OPTIMIZE,
        optimized(("digits",), "against_onnxruntime", 3, 8),
    ),
    Goal(
        "EfficientNet-Lite0, same top-1: against our fp32",
        "1.8 x",
        "optimize",
        OPTIMIZE,
        optimized(("efficientnet_lite0",), "against_fp32", 1.8),
    ),
    Goal(
        "MiniLM, cosine 0.995: against ONNX Runtime's fp32",
        "2.5 x",
        "optimize",
        OPTIMIZE,
        optimized(("minilm",), "against_onnxruntime", 2.5),
    ),
    Goal(
        "PP-OCRv4, same text: against our fp32",
        "faster, 3.5 x smaller",
        "optimize",
        OPTIMIZE,
        optimized(("ocr_read", "ocr_detect"), "against_fp32", 1, 3.5),
    ),
    Goal(
        "voice models, metric within 1 %: against our fp32",
        "not slower, 2 x smaller",
        "optimize",
        OPTIMIZE,
        optimized(("silero_vad", "nsnet2"), "against_fp32", 1, 2),
    ),
    Goal("QDQ files of the zoo against the best of both", "1.3, none slower", "quantized", QUANTIZED, same_files),
    Goal(
        "bert_base, dynamic int8: against ONNX Runtime in floats, in its own int8",
        "3 x each",
        "quantized",
        QUANTIZED,
        dynamic("bert_base", 3),
    ),
    Goal("residual network, half of its work pruned", "drop 1 %, 1.6 x", "pruned", PRUNED, half_pruned),
    Goal(
        "small random and adversarial models",
        "30: none slower or outside the budget",
        "optimize",
        f"{OPTIMIZE} small --time 4",
        small_models,
    ),
    Goal("architectures of Torchvision", "at least 95 %", "converters_torch", CONVERT, converted("torchvision ", 0.95)),
    Goal("model types of Transformers", "27 of 30", "converters_torch", CONVERT, converted("transformers ", 0.9)),
    Goal("broken models and random graphs", "no fault", "fuzz", "make fuzz", fuzzed),
)


# Tables.


def table(head: str, rows: Collection[str], right: int = 0) -> list[str]:
    """A Markdown table whose last `right` columns are numbers; nothing without rows."""
    columns = head.count("|") - 1
    rule = "|" + "|".join(" ---: " if c >= columns - right else " --- " for c in range(columns)) + "|"
    return [head, rule, *rows, ""] if rows else []


def goals(folder: Path) -> list[str]:
    """What the engine must reach, and what it does."""
    rows = []
    for goal in GOALS:
        report, _ = read(goal.part, folder)
        text, met = goal.measure(report) if report else ("not measured", None)
        verdict = {True: "yes", False: "**no**", None: ""}[met]
        rows.append(f"| {goal.name} | {goal.target} | {text} | {verdict} | `{goal.command}` |")
    return table("| done when | target | measured | met | command |", rows)


def counts(records: Collection[Summary]) -> list[str]:
    """How many operators of each domain run how."""
    rows = []
    for domain in sorted({record.domain for record in records}):
        kinds = Counter(place(record)[0] for record in records if record.domain == domain)
        numbers = (kinds.total(), kinds["native"], kinds["inlined"], kinds["host"])
        rows.append(f"| {domain or 'ai.onnx'} | " + " | ".join(map(str, numbers)) + " |")
    return table("| domain | operators | native | inlined | host |", rows, right=4)


def place(record: Summary) -> tuple[str, str]:
    """Where an operator runs, and why or where that is written."""
    if record.native:
        return "native", f"`ops/{Path(record.file).name}`"
    import onnx

    schema = onnx.defs.get_schema(record.name, domain=record.domain)
    types = [set(port.types) for port in (*schema.inputs, *schema.outputs)]
    if any(name.startswith(("seq", "optional", "map")) for port in types for name in port):
        return "host", "sequences, optionals and maps are Python objects"
    if any("tensor(string)" in port and len(port) <= 2 for port in types):
        return "host", "strings are Python objects"
    if schema.has_function or schema.has_context_dependent_function:
        return "inlined", "the body that the standard gives is compiled"
    return "host", "no native code; computed when compiling where all inputs are constants"


def operators(records: Collection[Summary]) -> list[str]:
    """One row per operator."""
    rows = []
    for record in records:
        kind, why = place(record)
        since = ", ".join(map(str, record.since))
        rows.append(f"| {record.domain or 'ai.onnx'} | {record.name} | {since} | {kind} | {why} |")
    return table("| domain | operator | written for versions from | runs | where, or why |", rows)


def machines(folder: Path) -> list[str]:
    """What each part was measured on."""
    rows = []
    for part in dict.fromkeys([*(goal.part for goal in GOALS), *CONVERTED]):
        _, machine = read(part, folder)
        if machine:
            facts = " | ".join(str(machine.get(key, "")) for key in ("cpu", "cores", "system", "python", "date"))
            rows.append(f"| {part} | {facts} |")
    return table("| figures | CPU | cores | system | Python | date |", rows)


def models(folder: Path) -> Iterator[str]:
    """Agreement and speed, model by model."""
    for part in ("zoo", "zoo-avx2", "tabular"):
        report, _ = read(part, folder)
        for threads, batch in settings_of(report) if report else []:
            yield from speed(report, part, threads, batch)
    report, _ = read("agreement", folder)
    if report:
        text = f"Largest difference from ONNX Runtime, relative to the output's spread. `{AGREEMENT}`"
        yield from ("## Agreement", "", text, "")
        rows = [f"| {name} | {_agreement(row)} | {', '.join(row['host']) or 'none'} |" for name, row in report.items()]
        yield from table("| model | error | on the host |", rows)


def speed(report: Report, part: str, threads: int, batch: int) -> list[str]:
    """Times of all models in one setting."""
    names = [name for name in report["runtimes"] if name != "sardonyx"]
    cases = measured(report, threads, batch)
    rows = []
    for model, case in sorted(cases.items()):
        times = (_times(case["timings"][n]) if n in case["timings"] else "" for n in ("sardonyx", *names))
        ratios = (f"{case['ratios'][n]:.2f}" if n in case["ratios"] else "" for n in names)
        rows.append(f"| {' | '.join((model, *times, *ratios))} |")
    heads = ["model", "Sardonyx", *names, *(f"{name} / ours" for name in names)]
    text = (
        f"Milliseconds a run: median [p10 .. p90], in alternating blocks; `{AVX2 if part.endswith('avx2') else BENCH}`"
    )
    title = f"## Speed: {part}, {threads} thread{'s' if threads > 1 else ''}, batch {batch}"
    return [title, "", text, "", *table(f"| {' | '.join(heads)} |", rows, right=len(heads) - 1)]


def _times(row: Mapping[str, float]) -> str:
    return f"{row['median']:.2f} [{row['p10']:.2f} .. {row['p90']:.2f}]"


def _agreement(row: Mapping[str, Any]) -> str:
    problem = " ".join(str(row.get("problem", "")).split()).replace("|", "\\|")
    return problem if row["error"] is None else f"{row['error']:.1e}"


def converters(folder: Path) -> list[str]:
    """Models of other frameworks, converted and compared."""
    found: list[Report] = []
    for part in CONVERTED:
        report, _ = read(part, folder)
        found += report["rows"] if report else []
    rows = [_conversion(row) for row in sorted(found, key=lambda row: (row["source"], row["package"], row["model"]))]
    text = [
        f"Each compared with its framework, under the reference and under Sardonyx; `{CONVERT}`. The error is the",
        "largest of any output, relative to its largest value; native is the share of nodes that run in C.",
    ]
    head = "| source | package | model | converted | verdict | notes | error | native | seconds |"
    lines = table(head, rows, right=3)
    return ["## Converters", "", *text, "", *lines] if lines else []


def _conversion(row: Mapping[str, Any]) -> str:
    error = "" if row["error"] is None else f"{row['error']:.1e}"
    native = "" if row["native"] is None else f"{row['native']:.0%}"
    notes = " ".join(row["notes"].split()).replace("|", "\\|")
    done = "yes" if row["converted"] else "**no**"
    verdict = row["verdict"] if row["verdict"] != "fail" else "**fail**"
    cells = (row["source"], row["package"], row["model"], done, verdict, notes, error, native, f"{row['seconds']:.1f}")
    return f"| {' | '.join(cells)} |"


def hosted(folder: Path) -> list[str]:
    """Which operators the official tests saw on the host."""
    report, _ = read("backend", folder)
    if not report or not report["hosted_operators"]:
        return []
    rows = [f"| {name} | {count} |" for name, count in report["hosted_operators"].items()]
    text = "An operator that is native as a rule may meet an element type or an attribute that is not."
    head = "| operator | tests |"
    return ["## On the host in official tests", "", f"{text} `{BACKEND}`", "", *table(head, rows, right=1)]


def status(records: Collection[Summary], folder: Path) -> str:
    """The text of docs/status.md."""
    from onnx import __version__ as version

    excluded = [f"| {name} | {reason} |" for name, reason in exclusions().items()]
    lines = [
        "# Status",
        "",
        "Written by `make status`, from what `make figures` and the commands below measured last.",
        "",
        *goals(folder),
        *machines(folder),
        *models(folder),
        *converters(folder),
        *hosted(folder),
        *("## Official tests left out", "", *table("| test | reason |", excluded)),
        *("## Operators", ""),
        f"Operators of `onnx` {version}, and others that models hold. *Native*: compiled to C. *Inlined*: the standard",
        "defines it by other operators, which are compiled. *Host*: the reference evaluator, in Python. What a given",
        "node does, and why, `sardonyx inspect MODEL` says. Domains beyond the standard's show only what is native.",
        "`sardonyx ops` prints this table; `python scripts/status.py --check` compares it with the code.",
        "",
        *counts(records),
        *operators(records),
    ]
    return "\n".join(lines)


def native_rows(text: str) -> set[str]:
    """The rows of native operators in docs/status.md: they depend on nothing but this package."""
    return {line for line in text.splitlines() if "| native |" in line and line.count("|") == 6 and "`ops/" in line}


def main() -> int:
    """Write both files, or check the table of operators."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    records = all_operators()
    if options.check:
        differ = native_rows("\n".join(operators(records))) ^ native_rows(STATUS.read_text(encoding="utf-8"))
        for row in sorted(differ):
            print(f"docs/status.md is out of date (make status): {row}", file=sys.stderr)
        return int(bool(differ))
    old = README.read_text(encoding="utf-8")
    if not MARKED.search(old):
        print("README.md has lost its status markers", file=sys.stderr)
        return 1
    figures = "\n".join(["", *goals(options.results), *machines(options.results), *counts(records), ""])
    STATUS.write_text(status(records, options.results), encoding="utf-8")
    README.write_text(MARKED.sub(lambda match: match[1] + figures + match[2], old), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

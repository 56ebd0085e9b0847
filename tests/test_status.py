"""What the documents say is so: figures from results, commands, files of the layout, blocks of Python."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from sardonyx.cli import cli
from sardonyx.ops.registry import Summary

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {"README.md": README, "CONTRIBUTING.md": (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")}
RUN = """
import re, sys
for block in re.findall(r"```python\\n(.*?)```", open(sys.argv[1], encoding="utf-8").read(), re.DOTALL):
    exec(compile(block, "README.md", "exec"), globals())
assert y.tolist() == [2.5] * 4, y
"""
DIGITS = """<ir_version: 10, opset_import: ["" : 20]>
digits (float[batch,64] pixels) => (int64[batch] digit, float[batch,64] probabilities) {
    probabilities = Softmax(pixels)
    digit = ArgMax <axis = 1, keepdims = 0> (probabilities)
}"""

TIME = {"median": 1.0, "p10": 0.9, "p90": 1.1}


def bench(*models, threads=(1, 2), batches=(1, 8)):
    """Results of a benchmark: (model, ONNX Runtime's ratio, OpenVINO's)."""
    cases = {}
    for name, *ratios in models:
        for t in threads:
            for b in batches:
                timings = {"sardonyx": {**TIME, "median": 2.0 / t}, "onnxruntime": TIME, "openvino": TIME}
                both = dict(zip(("onnxruntime", "openvino"), ratios))
                facts = {"model": name, "threads": t, "batch": b, "timings": timings, "ratios": both, "of_peak": 0.5}
                cases[f"{name} t{t} b{b}"] = facts
    return {"runtimes": {"sardonyx": "1", "onnxruntime": "2", "openvino": "3"}, "cases": cases}


def conversion(source, converted=True, verdict="", error=None, native=None, notes=""):
    """A row of results of a converter."""
    row = {"source": source, "package": "p 1.0", "model": "m", "converted": converted, "verdict": verdict}
    return {**row, "error": error, "native": native, "seconds": 2.0, "notes": notes}


THREADS = {
    "taken_core": {"sardonyx": {"slowdown": 2.0}, "onnxruntime": {"slowdown": 4.0}},
    "two_sessions": {"sardonyx": {"ratio": 1.0}},
    "idle": {"sardonyx": {"median": 90.0}},
}
SEARCHED = {"size": [100, 100], "reason": ""}
RESULTS = {
    "backend": {
        "machine": {"cpu": "Some CPU", "cores": 2, "date": "2020-02-20"},
        "hosted_operators": {"StringSplit": 1},
        "results": [
            {"name": "test_abs", "outcome": "passed", "hosted": []},
            {"name": "test_string_split", "outcome": "passed", "hosted": ["StringSplit"]},
            {"name": "test_out", "outcome": "wrong", "hosted": []},
        ],
    },
    "agreement": {
        "good": {"error": 1e-6, "host": [], "nodes": 3},
        "bad": {"error": None, "host": [], "problem": "it | broke"},
    },
    "loads": {
        "first_load": 10.0,
        "second_load": 7.0,
        "resnet50": {"warm_load": 0.04, "ratio": 1.1},
        "bert_base": {"warm_load": 0.2, "ratio": 1.3},
    },
    "overhead": {"fixed": {"sardonyx": 3.0, "onnxruntime": 4.0}},
    "zoo": bench(("resnet18", 2.0, 3.0), ("unet", 2.0, 0.5)),
    "pruned": {"accuracy": {"original": 0.99, "pruned": 0.985}, "work": 0.5, "ratio": 1.7},
    "operators": {
        "t1": {"conv": {"ratio": 2.0}, "pad": {"ratio": 0.5}, "tile": {"ratio": 1.0}, "cast": {"error": "differs"}},
    },
    "quantized": {
        "unet t1": {"timings": [], "ratios": {"onnxruntime": 3.0, "openvino": 2.0}},
        "bert_base t2": {"ratios": {"floats": 5.0, "own dynamic int8": 2.5}, "snr": {"sardonyx": 30.0}},
    },
    "zoo-avx2": bench(("unet", 3.0, 0.5), threads=(2,), batches=(1,)),
    "tabular": bench(("forest", 4.0), ("mlp_64", 2.0), threads=(2,), batches=(1, 10_000)),
    "threads": {"resnet18": THREADS},
    "targets": {"missing": {"riscv64": "no qemu"}, "rows": [{"machine": "aarch64", "outcome": "same"}]},
    "soak": {"m": {"runs": 10_000, "growth": 1.0, "slack": 16.0}},
    "optimize": {
        "digits": {**SEARCHED, "against_onnxruntime": [3.9, 4.0, 4.1], "size": [900, 100]},
        "efficientnet_lite0": {**SEARCHED, "against_fp32": [1.0, 1.5, 2.0]},
        "ocr_read": {**SEARCHED, "against_fp32": [1.1, 1.2, 1.3], "size": [400, 100]},
        "silero_vad": {**SEARCHED, "against_fp32": [1.0, 1.0, 1.0], "size": [300, 100]},
        "nsnet2": {**SEARCHED, "reason": "nothing is better"},
        "small": {"models": 30, "improved": 11, "slower": 1, "outside": 0, "unexplained": 0},
    },
    "converters": {"rows": [conversion("jax", converted=False, notes="no | form")]},
    "converters_torch": {"rows": [conversion("torch", verdict="pass", error=1e-6, native=0.5)]},
    "fuzz": {"graphs": {"trials": 5, "counts": {"same": 4, "wrong": 1}}},
}
VERDICTS = {
    "official ONNX backend tests pass": ("2 of 2, 1 excluded", "yes"),
    "official node tests all native": ("50.0% (1 of 2)", "**no**"),
    "zoo and trained models agree with ONNX Runtime": ("1 of 2 models (not bad)", "**no**"),
    "zoo and trained models all native": ("1 of 2 models (not bad)", "**no**"),
    "same bits on all threads and targets": ("1 of 1 comparisons on 1 kinds of machines; riscv64 not run", "yes"),
    "first load of resnet50, empty cache": ("10.0 s", "yes"),
    "first load of a second model": ("7.0 s", "**no**"),
    "warm load of resnet50": ("40 ms", "yes"),
    "warm load of bert_base": ("200 ms", "**no**"),
    "peak memory, of weights and activations": ("resnet50 1.10 x, bert_base 1.30 x", "**no**"),
    "memory over 10,000 runs": ("m +1.0 MB", "yes"),
    "overhead of a run, one node": ("fixed 3.0 against 4.0 µs", "yes"),
    "zoo against ONNX Runtime": ("2.00 over 2 models", "yes"),
    "zoo against the best of it and OpenVINO": ("1.00 over 2 models", "**no**"),
    "slowest of the zoo against the best": ("unet 0.50", "**no**"),
    "ResNet-18, U-Net against ONNX Runtime": ("resnet18 2.00, unet 2.00", "yes"),
    "BERT, ViT against the best": ("not measured", "**no**"),
    "mobile networks against the best": ("not measured", "**no**"),
    "one thread, against ONNX Runtime": ("2.00 over 2 models, resnet18 2.00", "yes"),
    "batch 8, against ONNX Runtime": ("2.00 over 2 models, resnet18 2.00", "yes"),
    "random forest against ONNX Runtime": ("forest 4.00, forest of 10,000 4.00", "yes"),
    "perceptrons against ONNX Runtime": ("mlp_64 2.00", "**no**"),
    "zoo against ONNX Runtime, no AVX-512 for anyone": ("3.00: unet 3.00", "yes"),
    "residual network, half of its work pruned": ("50% of the work left, accuracy -0.5%, 1.70 x", "yes"),
    "single operators against ONNX Runtime, 1 thread": ("1.00 over 3 of 4, 1 below 1; lowest: pad 0.50", "yes"),
    "two threads against one": ("resnet18 2.00, unet 2.00", "yes"),
    "fraction of the measured peak": ("unet 50 %", "yes"),
    "slow-down with a core taken, beside ONNX Runtime": ("resnet18 2.00 x against 4.00 x", "yes"),
    "two sessions at once, over one after the other": ("resnet18 1.00", "yes"),
    "processor time burnt after a run": ("resnet18 90 µs", "yes"),
    "digits, 0.5 % drop: against ONNX Runtime's fp32": ("digits 4.00 x, 9.0 x smaller", "yes"),
    "EfficientNet-Lite0, same top-1: against our fp32": ("efficientnet_lite0 1.50 x", "**no**"),
    "MiniLM, cosine 0.995: against ONNX Runtime's fp32": ("not measured", "**no**"),
    "PP-OCRv4, same text: against our fp32": ("ocr_read 1.20 x, 4.0 x smaller", "**no**"),
    "voice models, metric within 1 %: against our fp32": (
        "silero_vad 1.00 x, 3.0 x smaller; nsnet2 0.00 x, 1.0 x smaller",
        "**no**",
    ),
    "QDQ files of the zoo against the best of both": ("2.00: unet t1 2.00", "yes"),
    "bert_base, dynamic int8: against ONNX Runtime in floats, in its own int8": (
        "t2: 5.00 x and 2.50 x, 30 dB",
        "**no**",
    ),
    "small random and adversarial models": ("30 models: 11 improved, 1 slower, 0 outside", "**no**"),
    "architectures of Torchvision": ("not measured", "**no**"),
    "model types of Transformers": ("not measured", "**no**"),
    "broken models and random graphs": ("5 graphs: 1 faults", "**no**"),
}


@pytest.fixture
def status(monkeypatch):
    spec = importlib.util.spec_from_file_location("status_script", ROOT / "scripts" / "status.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "exclusions", lambda: {"test_out": "its reason"})
    monkeypatch.setattr(module, "node_tests", lambda: {"test_abs", "test_string_split"})
    return module


def test_results_become_verdicts(status, tmp_path):
    for part, report in RESULTS.items():
        (tmp_path / f"{part}.json").write_text(json.dumps(report))
    rows = [[cell.strip() for cell in line.split("|")] for line in status.goals(tmp_path)[2:-1]]
    assert {row[1]: (row[3], row[4]) for row in rows} == VERDICTS
    text = status.status([Summary("", "Relu", (1, 6), True, "/x/ops/unary.py", 3, "")], tmp_path)
    for expected in (
        "| backend | Some CPU | 2 |  |  | 2020-02-20 |",
        "| unet | 1.00 [0.90 .. 1.10] | 1.00 [0.90 .. 1.10] | 1.00 [0.90 .. 1.10] | 2.00 | 0.50 |",
        "| bad | it \\| broke | none |",
        "| jax | p 1.0 | m | **no** |  | no \\| form |  |  | 2.0 |",
        "| torch | p 1.0 | m | yes | pass |  | 1.0e-06 | 50% | 2.0 |",
        "| StringSplit | 1 |",
        "| test_out | its reason |",
        "| ai.onnx | Relu | 1, 6 | native | `ops/unary.py` |",
    ):
        assert expected in text


def test_architectures_that_fail_are_named(status):
    rows = [{"package": "net 1.0", "model": f"m{number}", "verdict": "pass"} for number in range(19)]
    other = {"package": "network 2.0", "model": "other", "verdict": "fail"}
    wrong = {"package": "net 1.0", "model": "bad", "verdict": "fail"}
    measure = status.converted("net ", 0.95)
    assert measure({"rows": [*rows, other]}) == ("19 of 19", True)
    assert measure({"rows": [*rows, wrong]}) == ("19 of 20 (not bad)", True)
    assert measure({"rows": [*rows[1:], wrong]}) == ("18 of 19 (not bad)", False)
    assert measure({"rows": [other]}) == ("not measured", False)


def test_what_has_no_results_is_not_measured(status, tmp_path):
    rows = status.goals(tmp_path)[2:-1]
    assert len(rows) == len(status.GOALS) == len(VERDICTS)
    assert all("| not measured |  |" in row for row in rows)


def test_operators_that_are_not_native_say_why(status):
    def place(name, domain=""):
        return status.place(Summary(domain, name, (1,), False, "", 0, ""))

    assert place("SequenceAt") == ("host", "sequences, optionals and maps are Python objects")
    assert place("StringSplit") == ("host", "strings are Python objects")
    assert place("SoftmaxCrossEntropyLoss")[0] == "inlined"
    assert place("ImageDecoder")[0] == "host"


def test_check_reports_operators_that_are_missing_or_gone(status, monkeypatch, tmp_path, capsys):
    relu = Summary("", "Relu", (6,), True, "/x/ops/unary.py", 3, "")
    text = status.status([relu], tmp_path)
    monkeypatch.setattr(status, "STATUS", tmp_path / "status.md")
    status.STATUS.write_text(text, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["status.py", "--check"])
    monkeypatch.setattr(status, "all_operators", lambda: [relu])
    assert status.main() == 0
    status.STATUS.write_text(text.replace("Relu", "Selu"), encoding="utf-8")
    assert status.main() == 1
    assert capsys.readouterr().err.count("out of date") == 2


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_a_page_exist(page):
    text = PAGES[page]
    made = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:^    |`)make ([a-z-]+)", text, re.MULTILINE)) <= made
    assert set(re.findall(r"(?:^    |`)sardonyx ([a-z]+)", text, re.MULTILINE)) <= set(cli.commands)
    for path in re.findall(r"\bpython ((?:scripts|benchmarks|tests)/\S+\.py)", text):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"\]\(([^):#]+)\)", text):
        assert (ROOT / path).exists(), path


def test_every_file_of_the_package_stands_in_the_layout():
    text = (ROOT / "docs" / "layout.md").read_text(encoding="utf-8")
    package = ROOT / "sardonyx"
    modules = {path.name for path in package.rglob("*.py")}
    sources = [path for path in (package / "kernels" / "c").iterdir() if path.suffix in (".c", ".h")]
    kernels = {path.stem for path in sources if path.suffix == ".c"}
    named = set(re.findall(r"`(?:capi/)?(\w+(?:\.\w)?\w*)`", text))
    assert modules <= named
    for path in sources:
        assert path.name in named or (path.stem in kernels and path.stem in named), path.name
    outside = {
        path.name for folder in ("scripts", "benchmarks", "examples") for path in (ROOT / folder).glob("*.[cp]*")
    }
    files = {name for name in named if name.endswith((".py", ".c", ".h"))}
    assert files <= modules | outside | {path.name for path in sources}


def test_blocks_of_python_in_the_readme_run(tmp_path):
    onnx.save(onnx.parser.parse_model(DIGITS), tmp_path / "model.onnx")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", RUN, str(ROOT / "README.md")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "pixels tensor(float) ('batch', 64)" in done.stdout

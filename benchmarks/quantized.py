"""The same quantised files under several runtimes, into benchmarks/results/quantized.json.

    python benchmarks/quantized.py [ROW ...] [--threads 1] [--seconds 3]

Convolution networks of the zoo are quantised by ONNX Runtime's own tool (static, per channel, QDQ) and run by Sardonyx,
ONNX Runtime and OpenVINO. Transformers are quantised by its `quantize_dynamic` and by our step `dynamic-int8`: Sardonyx
runs both, beside ONNX Runtime with its own file and with the model in floats; the signal-to-noise ratio of each is
against the floats, on random tokens.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "quantized.json"
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from sardonyx import Session, SessionOptions  # noqa: E402
from sardonyx.benchmark.versus import compare, machine, make_feeds, take_turns  # noqa: E402
from sardonyx.optimizer.metrics.scores import snr  # noqa: E402

QDQ = ("resnet50", "mobilenet_v2", "unet")
DYNAMIC = ("bert_base", "minilm")
DIMS = {"s": 128, "sequence": 128}
ROUNDS = 5


def zoo_model(name: str) -> Path:
    from models import catalog

    catalog.fill_zoo()
    return catalog.zoo_folder() / f"{name}.onnx"


def quantized_static(model: Path, folder: Path) -> Path:
    """By ONNX Runtime's tool, from two random inputs: ranges matter less than layout for the time."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            inputs = Session(str(model), SessionOptions(threads=1)).inputs
            self.samples: Iterator[Any] = iter([make_feeds(inputs, seed=seed) for seed in range(2)])

        def get_next(self) -> Any:
            return next(self.samples, None)

    prepared, path = folder / "prepared.onnx", folder / f"{model.stem}.qdq.onnx"
    quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared), str(path), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    return path


def quantized_dynamic(model: Path, folder: Path) -> dict[str, Path]:
    """By ONNX Runtime's tool and by our step."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from sardonyx.model.load import load
    from sardonyx.model.save import save
    from sardonyx.optimizer.data import Data
    from sardonyx.optimizer.search.bench import apply_steps
    from sardonyx.optimizer.step import Context

    paths = {name: folder / f"{model.stem}.{name}.onnx" for name in ("onnxruntime", "sardonyx")}
    quantize_dynamic(str(model), str(paths["onnxruntime"]), weight_type=QuantType.QInt8)
    made, _, _ = apply_steps(load(str(model)), [{"dynamic-int8": {}}], Context(Data([{}]), 0))
    save(made, paths["sardonyx"])
    return paths


def qdq_row(name: str, folder: Path, threads: int, seconds: float) -> dict[str, Any]:
    path = quantized_static(zoo_model(name), folder)
    result = compare(str(path), ("onnxruntime", "openvino"), threads=threads, seconds=seconds, tolerance=1.0)
    return {"timings": [asdict(each) for each in result.timings], "differences": result.differences,
            "ratios": {each: result.speedup(each) for each in ("onnxruntime", "openvino")}}  # fmt: skip


def dynamic_row(name: str, folder: Path, threads: int, seconds: float) -> dict[str, Any]:
    model = zoo_model(name)
    files = {"floats": model, **quantized_dynamic(model, folder)}
    sessions = {key: Session(str(path), SessionOptions(threads=threads)) for key, path in files.items()}
    inputs = sessions["floats"].inputs
    symbols = {dim for info in inputs for dim in info.shape or () if isinstance(dim, str)}
    feeds = make_feeds(inputs, {key: size for key, size in DIMS.items() if key in symbols})
    runs = {f"sardonyx, {key}": session.run for key, session in sessions.items()}
    runs |= {f"onnxruntime, {key}": peer(files[key], threads) for key in ("floats", "onnxruntime")}
    blocks = take_turns(runs, feeds, seconds / ROUNDS, ROUNDS)
    times = {key: float(np.median(np.concatenate(each))) / 1e6 for key, each in blocks.items()}
    outputs = {key: session.run(feeds)[0] for key, session in sessions.items()}
    noise = {key: snr([outputs[key]], [outputs["floats"]]) for key in ("onnxruntime", "sardonyx")}
    best = min(times["sardonyx, onnxruntime"], times["sardonyx, sardonyx"])
    ratios = {
        "floats": times["onnxruntime, floats"] / best,
        "own dynamic int8": times["onnxruntime, onnxruntime"] / best,
    }
    return {"milliseconds": times, "ratios": ratios, "snr": noise}


def peer(path: Path, threads: int) -> Any:
    from sardonyx.benchmark.runtimes import load_runtime

    return load_runtime("onnxruntime", str(path), threads)


def main() -> int:
    """Measure the rows asked for, each kept in the file as it comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", default=[*QDQ, *DYNAMIC], metavar="ROW", help=", ".join((*QDQ, *DYNAMIC)))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each runtime")
    arguments = parser.parse_args()
    for name in arguments.rows:
        report = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        with tempfile.TemporaryDirectory(prefix="sardonyx-quantized-") as folder:
            measure = qdq_row if name in QDQ else dynamic_row
            row = measure(name, Path(folder), arguments.threads, arguments.seconds)
        report[f"{name} t{arguments.threads}"] = row
        report["machine"] = {**machine(), "date": time.strftime("%Y-%m-%d")}
        RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(name, {key: round(value, 2) for key, value in row["ratios"].items()}, row.get("snr", ""))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Small models, random and awkward, as optimisers meet them: does any come back slower, or outside of its budget?

`optimize.py small` searches on each with real times, and checks what was returned with new sessions and new samples.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SAMPLES, SECONDS, SESSIONS, SEEDS = 600, 0.5, 3, 3
OBJECTIVES = ("latency", "size", "memory")
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


class Net:
    """A graph that grows node by node; weights are random."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, array: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def weight(self, *shape: int, fan: int, outliers: bool = False) -> str:
        """Normal numbers over sqrt(fan); a channel in ten a hundred times as large where there are outliers."""
        array = self.rng.standard_normal(shape) / np.sqrt(fan)
        if outliers:
            array[self.rng.random(shape[0]) < 0.1] *= 100
        return self.constant(array)

    def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        names = [f"{operator.lower()}{len(self.nodes)}", *(f"more{len(self.nodes)}_{n}" for n in range(1, outputs))]
        self.nodes.append(helper.make_node(operator, inputs, names, names[0], **attributes))
        return names[0]

    def dense(self, x: str, inputs: int, outputs: int, outliers: bool = False) -> str:
        w = self.weight(inputs, outputs, fan=inputs, outliers=outliers)
        return self.add("Gemm", x, w, self.weight(outputs, fan=100))

    def conv(self, x: str, inputs: int, outputs: int, kernel: int, group: int = 1, outliers: bool = False) -> str:
        w = self.weight(outputs, inputs // group, kernel, kernel, fan=inputs // group * kernel**2, outliers=outliers)
        return self.add("Conv", x, w, self.weight(outputs, fan=100), pads=[kernel // 2] * 4, group=group)

    def norm(self, x: str, channels: int) -> str:
        parts = [self.rng.uniform(0.2, 3, channels), *self.rng.standard_normal((2, channels)), np.ones(channels)]
        return self.add("BatchNormalization", x, *(self.constant(part) for part in parts))

    def model(self, shape: tuple[Any, ...], y: str, dtype: int = FLOAT, result: int = FLOAT) -> onnx.ModelProto:
        """From x of `shape` to `y`."""
        x = helper.make_tensor_value_info("x", dtype, ["batch", *shape])
        out = helper.make_tensor_value_info(y, result, None)
        graph = helper.make_graph(self.nodes, "small", [x], [out], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def perceptron(net: Net) -> onnx.ModelProto:
    """Some weights are zero, huge, or tiny."""
    x, sizes = "x", [24, *(int(n) for n in net.rng.integers(8, 160, net.rng.integers(1, 4))), 10]
    for number, (a, b) in enumerate(itertools.pairwise(sizes)):
        x = net.dense(net.add("Relu", x) if number else x, a, b)
        array = numpy_helper.to_array(net.weights[-2]) * np.float32(net.rng.choice([0, 1, 1, 1, 1e6, 1e-6]))
        net.weights[-2].CopyFrom(numpy_helper.from_array(array, net.weights[-2].name))
    return net.model((24,), x)


def outliers(net: Net) -> onnx.ModelProto:
    """One input in ten counts a hundred times as much as the others."""
    hidden = net.add("Relu", net.dense("x", 24, 96, outliers=True))
    return net.model((24,), net.dense(net.add("Relu", net.dense(hidden, 96, 96, outliers=True)), 96, 10))


def convolutions(net: Net) -> onnx.ModelProto:
    x = net.add("Relu", net.norm(net.conv("x", 3, 16, 3), 16))
    x = net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.add("Relu", net.norm(net.conv(x, 16, 32, 3), 32))
    return net.model((3, 16, 16), net.dense(net.add("Flatten", net.add("GlobalAveragePool", x)), 32, 10))


def mobile(net: Net) -> onnx.ModelProto:
    """Depthwise convolutions with channels of unlike size, HardSwish, a residual."""
    x = net.add("HardSwish", net.conv("x", 3, 24, 3))
    inner = net.add("HardSwish", net.conv(x, 24, 24, 5, group=24, outliers=True))
    x = net.add("Add", x, net.conv(inner, 24, 24, 1))
    return net.model((3, 16, 16), net.dense(net.add("Flatten", net.add("GlobalAveragePool", x)), 24, 10))


def attention(net: Net) -> onnx.ModelProto:
    x, width = "x", 32
    scale, shift = net.constant(net.rng.uniform(0.1, 8, width)), net.constant(np.zeros(width))
    normal = net.add("LayerNormalization", x, scale, shift, axis=-1)
    q, k, v = (net.add("MatMul", normal, net.weight(width, width, fan=width)) for _ in range(3))
    found = net.add("Softmax", net.add("MatMul", q, net.add("Transpose", k, perm=[0, 2, 1])), axis=-1)
    x = net.add("Add", x, net.add("MatMul", found, v))
    mean = net.add("ReduceMean", x, axes=[1], keepdims=0)
    return net.model((12, width), net.dense(mean, width, 10))


def recurrent(net: Net) -> onnx.ModelProto:
    kind, gates = net.rng.choice([("LSTM", 4), ("GRU", 3), ("RNN", 1)])
    count, hidden, width = int(gates), 32, 16
    w, r = (net.weight(1, count * hidden, n, fan=n) for n in (width, hidden))
    bias = net.constant(np.zeros((1, 2 * count * hidden)))
    x = net.add("Transpose", "x", perm=[1, 0, 2])
    net.add(str(kind), x, w, r, bias, outputs=2, hidden_size=hidden)
    last = net.add("Squeeze", net.nodes[-1].output[1], net.constant([0], np.int64))
    return net.model((12, width), net.dense(last, hidden, 10))


def embedding(net: Net) -> onnx.ModelProto:
    rows = net.add("Gather", net.weight(97, 48, fan=1), "x")
    mean = net.add("ReduceMean", rows, axes=[1], keepdims=0)
    return net.model((12,), net.dense(net.add("Tanh", net.dense(mean, 48, 48)), 48, 10), INT64)


def cancelling(net: Net) -> onnx.ModelProto:
    """Two halves that are nearly equal and huge, subtracted: what is left is lost in 8 bits."""
    base = net.rng.standard_normal((24, 48)) * 1e3
    halves = [net.add("MatMul", "x", net.constant(base + net.rng.standard_normal((24, 48)))) for _ in range(2)]
    return net.model((24,), net.dense(net.add("Sub", *halves), 48, 10))


def little(net: Net) -> onnx.ModelProto:
    """Nothing to gain: one node, or an output that never changes."""
    kind = int(net.rng.integers(0, 3))
    if kind == 0:
        return net.model((24,), net.add("Relu", "x"))
    if kind == 1:
        return net.model((24,), net.add("Gemm", "x", net.constant(np.zeros((24, 10))), net.weight(10, fan=1)))
    return net.model((24,), net.dense("x", 24, 2))


def odd(net: Net) -> onnx.ModelProto:
    """A product within If, one in double precision, or one that is int8 already."""
    kind = int(net.rng.integers(0, 3))
    if kind == 0:
        w = [net.weight(24, 10, fan=24) for _ in range(2)]
        branches = [
            helper.make_graph(
                [helper.make_node("MatMul", ["x", each], [f"y{n}"])], f"branch{n}", [],
                [helper.make_tensor_value_info(f"y{n}", FLOAT, None)],
            )
            for n, each in enumerate(w)
        ]  # fmt: skip
        total = net.add("ReduceSum", "x", keepdims=0)
        positive = net.add("Greater", total, net.constant(0.0))
        return net.model((24,), net.add("If", positive, then_branch=branches[0], else_branch=branches[1]))
    if kind == 1:
        wide = net.add("Cast", "x", to=TensorProto.DOUBLE)
        y = net.add("MatMul", wide, net.constant(net.rng.standard_normal((24, 96)), np.float64))
        y = net.add("MatMul", net.add("Relu", y), net.constant(net.rng.standard_normal((96, 10)), np.float64))
        return net.model((24,), net.add("Cast", y, to=FLOAT))
    x = "x"
    for a, b in ((24, 96), (96, 10)):
        grid = net.constant(0.05), net.constant(128, np.uint8)
        x = net.add("DequantizeLinear", net.add("QuantizeLinear", x, *grid), *grid)
        w = net.constant(net.rng.integers(-127, 128, (a, b)), np.int8)
        x = net.add("MatMul", x, net.add("DequantizeLinear", w, net.constant(0.01 / np.sqrt(a))))
    return net.model((24,), x)


KINDS: tuple[Callable[[Net], onnx.ModelProto], ...] = (
    perceptron, outliers, convolutions, mobile, attention, recurrent, embedding, cancelling, little, odd,
)  # fmt: skip
NAMES = [f"{kind.__name__}{seed}" for seed in range(SEEDS) for kind in KINDS]


def build(name: str) -> tuple[onnx.ModelProto, Callable[[int], dict[str, np.ndarray]]]:
    """A model, and what gives any number of its samples, the same ones each time."""
    kind = next(each for each in KINDS if each.__name__ == name.rstrip("0123456789"))
    seed = NAMES.index(name)
    model = kind(Net(seed))
    info = model.graph.input[0]
    shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim[1:]]

    def samples(number: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((seed, number))
        if info.type.tensor_type.elem_type == INT64:
            return {"x": rng.integers(0, 97, (SAMPLES, *shape))}
        x = rng.standard_t(3, (SAMPLES, *shape)) if seed % 2 else rng.standard_normal((SAMPLES, *shape))
        return {"x": x.astype(np.float32)}

    return model, samples


def judge(name: str, seconds: float, threads: int | None) -> dict[str, Any]:
    """Search on one model; what came back, on samples and sessions that the search has not seen."""
    import sardonyx
    from sardonyx.optimizer.search.measure import compare_times

    model, samples = build(name)
    seed = NAMES.index(name)
    objective = OBJECTIVES[seed % len(OBJECTIVES)]
    with tempfile.TemporaryDirectory(prefix="sardonyx-small-") as folder:
        path, output = Path(folder) / "model.onnx", Path(folder) / "out.onnx"
        onnx.save(model, path)
        options = sardonyx.SessionOptions(threads=threads, progress=False)
        original = sardonyx.Session(str(path), options)
        data: dict[str, np.ndarray] = samples(0)
        budget: dict[str, Any] = {"metric": "snr", "max_drop": 0.05}
        scores = _all(original, data)
        if seed % 4 and scores.ndim == 2:
            data, budget = {**data, "labels": scores.argmax(1)}, {"metric": "accuracy", "max_drop": 0.02}
        result = sardonyx.optimize(
            path, output, data=data, seconds=seconds, threads=threads, objective=objective, **budget
        )
        best = result.best.figures
        row = {
            "objective": objective,
            "steps": result.best.title,
            "reason": result.reason,
            "metric": [budget["metric"], result.limits.floor, best.metric, best.proof],
            "size": [result.original.figures.size, best.size],
            "memory": [result.original.figures.memory, best.memory],
            "noise": result.limits.noise,
            "seconds": result.seconds,
            "inside": not result.limits.problem(best),
        }
        if not result.improved:
            row["same"] = output.read_bytes() == path.read_bytes()
            return row
        found = sardonyx.Session(str(output), options)
        row["fresh"] = _fresh(budget, _all(original, samples(1)), _all(found, samples(1)))
        one, least = {"x": samples(1)["x"][:1]}, 1 + result.limits.noise
        times = []
        for _ in range(SESSIONS):
            a, b = (sardonyx.Session(str(each), options) for each in (output, path))
            times.append(compare_times(partial(a.run, one), partial(b.run, one), SECONDS, decisive=least))
        middle = sorted(times, key=lambda each: each.median)[SESSIONS // 2]
        return row | {"ratio": [middle.low, middle.median, middle.high], "slower": middle.low > least}


def _all(session: Any, data: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([session.run({"x": row[None]})[0] for row in data["x"]])


def _fresh(budget: dict[str, Any], before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """How it does on new samples, and whether that is beyond the budget by more than chance explains."""
    if budget["metric"] == "accuracy":
        drop = float(np.mean(before.argmax(1) != after.argmax(1)))
        doubt = 2 * np.sqrt(budget["max_drop"] * (1 - budget["max_drop"]) / len(before))
        return {"drop": drop, "beyond": bool(drop > budget["max_drop"] + doubt)}
    noise, signal = np.square(after - before, dtype=np.float64).sum(), np.square(before, dtype=np.float64).sum()
    drop = float(np.sqrt(noise / (signal or 1.0)))
    return {"drop": drop, "beyond": drop > 1.5 * budget["max_drop"]}


def summary(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Counts over all models."""
    improved = [row for row in rows.values() if not row["reason"]]
    return {
        "models": len(rows),
        "improved": len(improved),
        "slower": sum(row["slower"] for row in improved),
        "outside": sum(not row["inside"] or row["fresh"]["beyond"] for row in improved),
        "unexplained": sum(not row["same"] for row in rows.values() if row["reason"]),
    }

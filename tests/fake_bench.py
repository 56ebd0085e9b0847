"""A bench without a clock or a child process, small models, and data for them: searches that repeat exactly."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sardonyx.optimizer.optimize import Reading, Task
from sardonyx.optimizer.reading.read import DataOptions
from sardonyx.optimizer.search.bench import Bench, size_of
from sardonyx.optimizer.search.budget import Budget
from sardonyx.optimizer.search.measure import Ratio


class FakeBench(Bench):
    """Times are as the sizes of the files."""

    def time(self, path, seconds, decisive=None):
        ratio = size_of(path) / size_of(self.path)
        return Ratio(ratio, ratio, ratio, ratio, 1.0, 9)

    def time_again(self, path, seconds, decisive=None):
        return self.time(path, 3 * seconds, decisive)

    def noise(self, seconds):
        return [self.time(self.path, seconds)]


def fake(arguments, progress):
    return contextlib.nullcontext(FakeBench(*arguments, progress))


def perceptron(path, sizes=(13, 64, 7), seed=0):
    """A network of random weights, x [batch, sizes[0]] -> y [batch, sizes[-1]]."""
    rng = np.random.default_rng(seed)
    nodes, weights, value = [], [], "x"
    for n, (a, b) in enumerate(itertools.pairwise(sizes)):
        weights.append(numpy_helper.from_array((rng.standard_normal((a, b)) / np.sqrt(a)).astype(np.float32), f"w{n}"))
        weights.append(numpy_helper.from_array(rng.standard_normal(b).astype(np.float32) / 10, f"b{n}"))
        last = n == len(sizes) - 2
        nodes.append(helper.make_node("Gemm", [value, f"w{n}", f"b{n}"], ["y" if last else f"d{n}"], f"dense{n}"))
        if not last:
            nodes.append(helper.make_node("Relu", [f"d{n}"], [f"r{n}"], f"relu{n}"))
            value = f"r{n}"
    graph = helper.make_graph(
        nodes,
        "perceptron",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", sizes[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", sizes[-1]])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return Path(path)


def rows(model, count=61, seed=1, width=13):
    """Rows, and the classes that the model itself gives them."""
    from onnx.reference import ReferenceEvaluator

    x = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    [y] = ReferenceEvaluator(str(model)).run(None, {"x": x})
    return {"x": x, "labels": y.argmax(1)}


def task(model, output, data, *, metric=None, seed=0, resume=False, trials=2, seconds=None, bench=fake, **budget):
    """What `optimize` does, on another bench."""
    reading = Reading(data, None, DataOptions(), 0.25, seed)
    return Task(
        Path(model), Path(output), reading, Budget(**budget), metric, None, seconds, trials, resume, None, bench
    )

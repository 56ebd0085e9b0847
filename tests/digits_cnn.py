"""A small convolutional network, trained here on scikit-learn's digits in plain numpy, as an ONNX model."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

HIDDEN, CLASSES = 64, 10


@cache
def digits():
    """(train images [n, 1, 8, 8], labels), (test images, labels); pixels between 0 and 1."""
    data = load_digits()
    images = (data.images[:, None] / 16).astype(np.float32)
    parts = train_test_split(images, data.target, test_size=0.25, random_state=0, stratify=data.target)
    return (parts[0], parts[2]), (parts[1], parts[3])


def columns(x):
    """Neighbourhoods of 3 x 3 of [n, c, h, w], as [n, h, w, c * 9]."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(*x.shape[:1], *x.shape[2:], -1)


class Network:
    """conv 3x3, relu, conv 3x3, relu, 2x2 max pooling, dense, relu, dense."""

    def __init__(self, channels=(16, 32), seed=0):
        rng = np.random.default_rng(seed)
        a, b = channels
        shapes = [(9, a), (9 * a, b), (b * 16, HIDDEN), (HIDDEN, CLASSES)]
        self.weights = [(rng.standard_normal(s) * np.sqrt(2 / s[0])).astype(np.float32) for s in shapes]
        self.biases = [np.zeros(s[1], np.float32) for s in shapes]

    def step(self, x, labels):
        """Gradients of the cross entropy of one batch."""
        (w1, w2, w3, w4), (b1, b2, b3, b4) = self.weights, self.biases
        n = len(x)
        c1 = columns(x)
        h1 = np.maximum(c1 @ w1 + b1, 0)
        c2 = columns(h1.transpose(0, 3, 1, 2))
        h2 = np.maximum(c2 @ w2 + b2, 0)
        blocks = h2.reshape(n, 4, 2, 4, 2, -1).transpose(0, 1, 3, 5, 2, 4).reshape(n, 4, 4, -1, 4)
        first = blocks.argmax(-1)
        pooled = np.take_along_axis(blocks, first[..., None], -1)[..., 0]
        flat = pooled.transpose(0, 3, 1, 2).reshape(n, -1)
        h3 = np.maximum(flat @ w3 + b3, 0)
        logits = h3 @ w4 + b4
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        p[np.arange(n), labels] -= 1
        p /= n
        d3 = (p @ w4.T) * (h3 > 0)
        dp = (d3 @ w3.T).reshape(n, -1, 4, 4).transpose(0, 2, 3, 1)
        db = np.zeros_like(blocks)
        np.put_along_axis(db, first[..., None], dp[..., None], -1)
        d2 = db.reshape(n, 4, 4, -1, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(h2.shape) * (h2 > 0)
        back = (d2 @ w2.T).reshape(n, 8, 8, -1, 3, 3)
        d1 = np.zeros((n, 10, 10, h1.shape[-1]), np.float32)
        for i in range(3):
            for j in range(3):
                d1[:, i : i + 8, j : j + 8] += back[..., i, j]
        d1 = d1[:, 1:9, 1:9] * (h1 > 0)
        pairs = [(c1, d1), (c2, d2), (flat, d3), (h3, p)]
        flat_pairs = [(a.reshape(-1, a.shape[-1]), d.reshape(-1, d.shape[-1])) for a, d in pairs]
        return [a.T @ d for a, d in flat_pairs], [d.sum(0) for _, d in flat_pairs]

    def train(self, x, labels, epochs=12, batch=32, rate=2e-3, seed=0):
        """Adam (Kingma and Ba 2014) with a rate that falls to zero."""
        rng = np.random.default_rng(seed)
        values = [*self.weights, *self.biases]
        first, second = [np.zeros_like(v) for v in values], [np.zeros_like(v) for v in values]
        steps = epochs * (len(x) // batch)
        for number in range(steps):
            if number % (len(x) // batch) == 0:
                order = rng.permutation(len(x))
            at = number % (len(x) // batch) * batch
            chosen = order[at : at + batch]
            gradients = [g for part in self.step(x[chosen], labels[chosen]) for g in part]
            now = rate * (1 - number / steps)
            for v, g, m, s in zip(values, gradients, first, second):
                m += 0.1 * (g - m)
                s += 0.001 * (g * g - s)
                v -= now * (m / (1 - 0.9 ** (number + 1))) / (np.sqrt(s / (1 - 0.999 ** (number + 1))) + 1e-8)
        return self

    def to_onnx(self):
        """The network as ONNX: pixels [batch, 1, 8, 8] -> scores [batch, 10]."""
        (w1, w2, w3, w4), biases = self.weights, self.biases
        convolutions = [w.reshape(-1, 3, 3, w.shape[1]).transpose(3, 0, 1, 2) for w in (w1, w2)]
        arrays = {f"w{n}": w for n, w in enumerate([*convolutions, w3, w4], 1)}
        arrays |= {f"b{n}": b for n, b in enumerate(biases, 1)}
        nodes = [
            helper.make_node("Conv", ["pixels", "w1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
            helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], "conv2", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c2"], ["r2"], "relu2"),
            helper.make_node("MaxPool", ["r2"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Flatten", ["p"], ["f"], "flatten"),
            helper.make_node("Gemm", ["f", "w3", "b3"], ["d3"], "dense3"),
            helper.make_node("Relu", ["d3"], ["r3"], "relu3"),
            helper.make_node("Gemm", ["r3", "w4", "b4"], ["scores"], "dense4"),
        ]
        values = [numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in arrays.items()]
        graph = helper.make_graph(
            nodes,
            "digits",
            [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 1, 8, 8])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", CLASSES])],
            values,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        return model


@cache
def trained(channels=(16, 32), epochs=12):
    """The trained model, as ONNX."""
    (x, y), _ = digits()
    return Network(channels).train(x, y, epochs).to_onnx()

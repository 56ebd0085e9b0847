"""A residual network trained on scikit-learn's digits with numpy alone, as ONNX."""

from __future__ import annotations

import functools

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

from sardonyx.optimizer.data import Data

EPSILON = 1e-5


@functools.cache
def images(size: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images [n, 1, size, size] and labels: to train, and held out (a quarter)."""
    digits = load_digits()
    x = (digits.images[:, None].astype(np.float32) - 8) / 8
    x = x.repeat(size // 8, 2).repeat(size // 8, 3)
    order = np.random.default_rng(5).permutation(len(x))
    x, y = x[order], digits.target[order]
    cut = len(x) * 3 // 4
    return x[:cut], y[:cut], x[cut:], y[cut:]


def calibration(size: int = 8, count: int = 300) -> Data:
    """Images of the training part, one a sample."""
    return Data([{"x": x[None]} for x in images(size)[0][:count]], origin="digits")


class Layer:
    """Convolution (3x3 or 1x1), batch normalisation and, if wanted, ReLU; [n, h, w, c] inside."""

    def __init__(
        self, rng: np.random.Generator, inputs: int, outputs: int, k: int = 3, stride: int = 1, relu: bool = True
    ):
        self.k, self.stride, self.relu = k, stride, relu
        scale = np.sqrt(2 / (k * k * inputs))
        self.w = rng.normal(0, scale, (k * k * inputs, outputs)).astype(np.float32)
        self.gain, self.shift = np.ones(outputs, np.float32), np.zeros(outputs, np.float32)
        self.mean, self.var = np.zeros(outputs, np.float32), np.ones(outputs, np.float32)

    def _taps(self, h: int, w: int) -> list[tuple[slice, slice]]:
        s, k = self.stride, self.k
        return [(slice(i, i + h - h % s, s), slice(j, j + w - w % s, s)) for i in range(k) for j in range(k)]

    def forward(self, x: np.ndarray) -> np.ndarray:
        p = self.k // 2
        padded = np.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
        self.shape, self.taps = padded.shape, self._taps(*x.shape[1:3])
        self.columns = np.concatenate([padded[:, a, b] for a, b in self.taps], -1)
        z = self.columns @ self.w
        mean, var = z.mean((0, 1, 2)), z.var((0, 1, 2))
        self.mean += 0.1 * (mean - self.mean)
        self.var += 0.1 * (var - self.var)
        self.scale = 1 / np.sqrt(var + EPSILON)
        self.normal = (z - mean) * self.scale
        y = self.normal * self.gain + self.shift
        self.on = y > 0
        return y * self.on if self.relu else y

    def backward(self, d: np.ndarray) -> np.ndarray:
        d = d * self.on if self.relu else d
        dn, n = d * self.gain, d[..., 0].size
        dz = self.scale * (dn - dn.mean((0, 1, 2)) - self.normal * (dn * self.normal).sum((0, 1, 2)) / n)
        flat = self.columns.reshape(-1, self.columns.shape[-1])
        self.grads = [flat.T @ dz.reshape(-1, dz.shape[-1]), (d * self.normal).sum((0, 1, 2)), d.sum((0, 1, 2))]
        dc, dx = dz @ self.w.T, np.zeros(self.shape, np.float32)
        c, p = self.shape[-1], self.k // 2
        for number, (a, b) in enumerate(self.taps):
            dx[:, a, b] += dc[..., number * c : (number + 1) * c]
        return dx[:, p : self.shape[1] - p, p : self.shape[2] - p]

    @property
    def params(self) -> list[np.ndarray]:
        return [self.w, self.gain, self.shift]


class Network:
    """Stem, one residual block, one that halves the image and doubles the channels, one more, mean, product."""

    def __init__(self, width: int, seed: int = 3):
        rng = np.random.default_rng(seed)
        self.stem = Layer(rng, 1, width)
        self.blocks = []
        for inputs, outputs, stride in ((width, width, 1), (width, 2 * width, 2), (2 * width, 2 * width, 1)):
            skip = None if inputs == outputs else Layer(rng, inputs, outputs, 1, stride, relu=False)
            self.blocks.append((Layer(rng, inputs, outputs, 3, stride), Layer(rng, outputs, outputs, relu=False), skip))
        self.head = rng.normal(0, 0.1, (2 * width, 10)).astype(np.float32)
        self.bias = np.zeros(10, np.float32)

    @property
    def layers(self) -> list[Layer]:
        return [self.stem, *(layer for block in self.blocks for layer in block if layer is not None)]

    def step(self, x: np.ndarray, y: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Pairs of parameters and gradients of one batch."""
        h = self.stem.forward(x.transpose(0, 2, 3, 1))
        signs = []
        for first, second, skip in self.blocks:
            h = second.forward(first.forward(h)) + (h if skip is None else skip.forward(h))
            signs.append(h > 0)
            h = h * signs[-1]
        pooled = h.mean((1, 2))
        logits = pooled @ self.head + self.bias
        p = np.exp(logits - logits.max(1, keepdims=True))
        d = (p / p.sum(1, keepdims=True) - np.eye(10, dtype=np.float32)[y]) / len(x)
        found = [(self.head, pooled.T @ d), (self.bias, d.sum(0))]
        dh = np.broadcast_to((d @ self.head.T)[:, None, None] / h[0, ..., 0].size, h.shape)
        for (first, second, skip), sign in zip(self.blocks[::-1], signs[::-1], strict=True):
            dh = dh * sign
            dh = first.backward(second.backward(dh)) + (dh if skip is None else skip.backward(dh))
        self.stem.backward(dh)
        return found + [pair for layer in self.layers for pair in zip(layer.params, layer.grads, strict=True)]


@functools.cache
def trained(width: int = 16, epochs: int = 8, size: int = 8) -> onnx.ModelProto:
    """The network after `epochs` of Adam."""
    net, rng = Network(width), np.random.default_rng(11)
    x, y, *_ = images(size)
    moments: dict[int, list[np.ndarray]] = {}
    batches, count = len(x) // 64, 0
    for _ in range(epochs):
        for batch in np.array_split(rng.permutation(len(x)), batches):
            count += 1
            rate = 4e-3 * 0.5 * (1 + np.cos(np.pi * count / (epochs * batches + 1)))
            for parameter, gradient in net.step(x[batch], y[batch]):
                m, v = moments.setdefault(id(parameter), [np.zeros_like(parameter), np.zeros_like(parameter)])
                m += 0.1 * (gradient - m)
                v += 0.01 * (gradient**2 - v)
                parameter -= rate * (m / (1 - 0.9**count)) / (np.sqrt(v / (1 - 0.99**count)) + 1e-8)
    return exported(net, size)


def exported(net: Network, size: int) -> onnx.ModelProto:
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def constant(name: str, array: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name))
        return name

    def layer(name: str, part: Layer, x: str) -> str:
        inputs = len(part.w) // part.k**2
        w = part.w.reshape(part.k, part.k, inputs, -1).transpose(3, 2, 0, 1)
        p = part.k // 2
        nodes.append(helper.make_node("Conv", [x, constant(f"{name}.w", w)], [f"{name}.z"], name,
                                      pads=[p] * 4, strides=[part.stride] * 2))  # fmt: skip
        values = {"gain": part.gain, "shift": part.shift, "mean": part.mean, "var": part.var}
        names = [constant(f"{name}.{key}", value) for key, value in values.items()]
        nodes.append(helper.make_node("BatchNormalization", [f"{name}.z", *names], [f"{name}.n"], f"{name}.bn"))
        if part.relu:
            nodes.append(helper.make_node("Relu", [f"{name}.n"], [f"{name}.y"]))
        return nodes[-1].output[0]

    h = layer("stem", net.stem, "x")
    for number, (first, second, skip) in enumerate(net.blocks):
        z = layer(f"b{number}.2", second, layer(f"b{number}.1", first, h))
        around = h if skip is None else layer(f"b{number}.skip", skip, h)
        nodes.append(helper.make_node("Add", [z, around], [f"b{number}.sum"]))
        nodes.append(helper.make_node("Relu", [f"b{number}.sum"], [f"b{number}.y"]))
        h = f"b{number}.y"
    nodes.append(helper.make_node("GlobalAveragePool", [h], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    nodes.append(
        helper.make_node("Gemm", ["flat", constant("head", net.head), constant("bias", net.bias)], ["scores"], "head")
    )
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, size, size])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 10])
    graph = helper.make_graph(nodes, "digits", [x], [scores], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)

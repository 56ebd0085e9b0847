"""What quantisation costs a trained network: digits, read by random filters and a readout in closed form."""

from __future__ import annotations

import functools

import numpy as np
import onnx_ir as ir
import pytest
from optimizer.quantize.helpers import apply, model_of, normal, run
from sklearn.datasets import load_digits

from sardonyx.optimizer.data import Data

FEATURES = """g (float[n,1,8,8] image) => (float[n,{width}] {name}) {{
    a = Conv <pads = [1,1,1,1]> (image, w1, b1)
    b = Relu(a)
    c = Conv(b, w2)
    d = Relu(c)
    e = MaxPool <kernel_shape = [2,2], strides = [2,2]> (d)
    {last}
}}"""


@functools.cache
def digits() -> tuple[ir.Model, np.ndarray, np.ndarray]:
    """The network; images and labels that it was not made with."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    weights = {"w1": normal(16, 1, 3, 3, seed=1, scale=0.5), "b1": normal(16, seed=2, scale=0.2),
               "w2": normal(40, 16, 3, 3, seed=3, scale=0.1)}  # fmt: skip
    body = FEATURES.format(width=360, name="f", last="f = Flatten(e)")
    seen = run(model_of(body, **weights), {"image": images})[0].astype(np.float64)
    known, target = seen[:1200], np.eye(10)[labels[:1200]] - 0.1
    centre = known.mean(axis=0)
    readout = np.linalg.solve((known - centre).T @ (known - centre) + np.eye(360), (known - centre).T @ target)
    body = FEATURES.format(width=10, name="y", last="f = Flatten(e) y = Gemm(f, w3, b3)")
    model = model_of(body, **weights, w3=readout.astype(np.float32), b3=(-centre @ readout).astype(np.float32))
    return model, images, labels


def accuracy(model: ir.Model) -> float:
    _, images, labels = digits()
    return float(np.mean(run(model, {"image": images[1200:]})[0].argmax(axis=1) == labels[1200:]))


STEPS = {
    "static-int8": [{}, {"calibration": "percentile"}, {"calibration": "entropy"}, {"calibration": "mse"},
                    {"rounding": "descent", "bias_correction": True}],
    "dynamic-int8": [{"convolutions": True, "smallest": 1}],
    "weights-int8": [{"smallest": 1}],
    "weights-int4": [{"smallest": 1, "method": "gptq"}, {"smallest": 1, "method": "hqq"}],
}  # fmt: skip


@pytest.mark.parametrize(("name", "settings"), [(name, each) for name, some in STEPS.items() for each in some])
def test_accuracy_falls_by_half_a_percent_at_most(name: str, settings: dict) -> None:
    model, images, _ = digits()
    data = Data([{"image": images[start : start + 64]} for start in range(0, 512, 64)])
    exact = accuracy(model)
    assert exact > 0.9
    assert accuracy(apply(name, model, data, **settings).model) >= exact - 0.005


def test_int8_without_data_costs_more_and_still_works() -> None:
    model = digits()[0]
    assert accuracy(apply("static-int8", model).model) >= accuracy(model) - 0.05

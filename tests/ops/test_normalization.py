"""Normalisations against the reference."""

from __future__ import annotations

import numpy as np
import pytest
from close_models import close, random
from onnx import helper
from small_models import FLOAT, model_of

node = helper.make_node


def test_layer_normalization_with_all_outputs_of_symbolic_shapes():
    nodes = [
        node("LayerNormalization", ["x", "s", "b"], ["y", "m", "i"], epsilon=1e-3),
        node("LayerNormalization", ["x", "s"], ["z"], axis=2),
        node("RMSNormalization", ["x", "s"], ["r"]),
    ]
    constants = [("s", random(37)), ("b", random(37) + 1)]
    model = model_of(nodes, [("x", FLOAT, ["n", "m", 37])], ["y", "m", "i", "z", "r"], opset=23, constants=constants)
    close(model, {"x": random(2, 5, 37) * 9}, {"x": random(1, 1, 37)}, rtol=1e-4, atol=1e-5)


def test_layer_normalization_over_several_axes():
    model = model_of(
        [node("LayerNormalization", ["x", "s", "b"], ["y"], axis=1)], [("x", FLOAT, ["n", 3, 20])], "y",
        constants=[("s", random(3, 20)), ("b", random(3, 20) + 1)],
    )  # fmt: skip
    close(model, {"x": random(4, 3, 20)}, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [16, 5])
def test_image_normalizations_between_convolutions(channels):
    """After a convolution the image is in blocks of channels; nothing may change with that."""
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("InstanceNormalization", ["c", "s", "b"], ["i"]),
        node("BatchNormalization", ["i", "s", "b", "b", "v"], ["y"]),
        node("ReduceMean", ["i", "hw"], ["m"]),
        node("ReduceMax", ["i", "hw"], ["t"], keepdims=0),
        node("MeanVarianceNormalization", ["c"], ["z"]),
        node("LRN", ["c"], ["l"], size=3),
        node("LpNormalization", ["c"], ["p"], axis=1),
        node("Softmax", ["c"], ["q"], axis=1),
    ]
    weights = [("w", random(channels, 16, 3, 3) / 9), ("s", random(channels)), ("b", random(channels) + 1)]
    weights += [("v", np.abs(random(channels)) + 0.5), ("hw", np.array([2, 3]))]
    model = model_of(nodes, [("x", FLOAT, [1, 16, 9, 7])], ["y", "m", "t", "z", "l", "p", "q"], constants=weights)
    close(model, {"x": random(1, 16, 9, 7)}, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("opset", "size"), [(18, 2), (21, 6)])
def test_group_normalization_by_group_and_by_channel(opset, size):
    model = model_of(
        [node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2)], [("x", FLOAT, ["n", 6, "h", 4])], "y",
        opset=opset, constants=[("s", random(size)), ("b", random(size) + 1)],
    )  # fmt: skip
    close(model, {"x": random(2, 6, 3, 4)}, {"x": random(1, 6, 1, 4)}, rtol=1e-4, atol=1e-5)


def test_batch_normalization_in_training_gives_running_statistics():
    nodes = [node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y", "rm", "rv"], training_mode=1, momentum=0.8)]
    inputs = [("x", FLOAT, ["n", 3, 4, 5]), *((name, FLOAT, [3]) for name in "sbmv")]
    model = model_of(nodes, inputs, ["y", "rm", "rv"])
    feed = {name: np.abs(random(3)) for name in "sbmv"}
    close(model, {"x": random(2, 3, 4, 5), **feed}, rtol=1e-4, atol=1e-5)

"""Resizing, sampling, regions and transforms against the reference."""

from __future__ import annotations

import numpy as np
import pytest
from close_models import close, random
from onnx import helper
from small_models import FLOAT, INT64, model_of, typed

import sardonyx

node = helper.make_node


def test_resizing_to_sizes_and_by_scales_that_only_the_run_knows():
    nodes = [
        node("Resize", ["x", "", "", "sizes"], ["a"], mode="linear"),
        node("Resize", ["x", "", "", "sizes"], ["b"], mode="cubic", coordinate_transformation_mode="align_corners"),
        node("Resize", ["x", "", "scales"], ["c"], nearest_mode="ceil", coordinate_transformation_mode="asymmetric"),
        node("Resize", ["x", "", "", "sizes"], ["d"], mode="linear", antialias=1),
        node("Resize", ["x", "", "", "two"], ["e"], axes=[2, 3], keep_aspect_ratio_policy="not_larger"),
    ]
    inputs = [("x", FLOAT, ["n", 2, "h", "w"]), ("sizes", INT64, [4]), ("scales", FLOAT, [4]), ("two", INT64, [2])]
    model = model_of(nodes, inputs, "abcde")
    for shape, size in (((1, 2, 5, 4), (7, 3)), ((2, 2, 3, 9), (2, 11))):
        feed = {"x": random(*shape), "sizes": np.array([*shape[:2], *size]), "two": np.array(size)}
        close(model, feed | {"scales": np.array([1, 1, 1.5, 0.5], np.float32)}, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [16, 3])
def test_resizing_after_a_convolution(channels):
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Resize", ["c", "", "twice"], ["a"], coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        node("Resize", ["c", "", "twice"], ["b"], mode="linear"),
        node("Resize", ["c", "", "odd"], ["d"], mode="cubic"),
        node("Resize", ["x", "", "twice"], ["e"], coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    ]
    constants = [("w", random(channels, 16, 1, 1)), ("twice", np.array([1, 1, 2, 2], np.float32))]
    constants.append(("odd", np.array([1, 1, 0.7, 3], np.float32)))
    model = model_of(nodes, [("x", FLOAT, [1, 16, 6, 5])], "abde", constants=constants)
    close(model, {"x": random(1, 16, 6, 5)}, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_sampling_far_outside_of_the_image(padding):
    nodes = [
        node("GridSample", ["x", "g"], [f"{mode}{corners}"], mode=mode, padding_mode=padding, align_corners=corners)
        for mode in ("nearest", "linear", "cubic") for corners in (0, 1)
    ]  # fmt: skip
    inputs = [("x", FLOAT, ["n", 2, "h", "w"]), ("g", FLOAT, ["n", "p", "q", 2])]
    model = model_of(nodes, inputs, [n.output[0] for n in nodes], opset=20)
    close(model, {"x": random(2, 2, 4, 5), "g": random(2, 3, 7, 2) * 2}, rtol=1e-3, atol=1e-4)
    wild = np.array([[[[np.nan, 0], [np.inf, 1], [-1e30, 1e30]]]], np.float32)
    for result in sardonyx.Session(typed(model)).run({"x": random(1, 2, 4, 5), "g": wild}):
        assert result.shape == (1, 2, 1, 3)


def test_suppression_keeps_the_first_of_equal_scores():
    boxes = np.array([[[0, 0, 1, 1], [1, 1, 0, 0], [0, 2, 1, 3], [5, 5, 6, 6]]], np.float32)
    scores = np.array([[[0.5, 0.5, 0.5, 0.1], [0, np.nan, 0.2, 0.9]]], np.float32)
    model = model_of(
        [node("NonMaxSuppression", ["b", "s", "n", "o", "t"], ["y"])],
        [("b", FLOAT, [1, "k", 4]), ("s", FLOAT, [1, "c", "k"]), ("n", INT64, [1])], "y",
        constants=[("o", np.array([0.5], np.float32)), ("t", np.array([0.05], np.float32))],
    )  # fmt: skip
    session = sardonyx.Session(typed(model))
    (kept,) = session.run({"b": boxes, "s": scores, "n": np.array([2])})
    np.testing.assert_array_equal(kept, [[0, 0, 0], [0, 0, 2], [0, 1, 3], [0, 1, 2]])
    (none,) = session.run({"b": boxes, "s": scores, "n": np.array([0])})
    assert none.shape == (0, 3)


def test_regions_as_onnxruntime_pools_them():
    runtime = pytest.importorskip("onnxruntime")
    nodes = [
        node("MaxRoiPool", ["x", "five"], ["a"], pooled_shape=[2, 3], spatial_scale=0.5),
        node("RoiAlign", ["x", "four", "batch"], ["b"], output_height=3, output_width=2, sampling_ratio=2),
        node("RoiAlign", ["x", "four", "batch"], ["c"], output_height=2, output_width=2, spatial_scale=0.5),
    ]
    inputs = [("x", FLOAT, [2, 3, 9, 8]), ("five", FLOAT, [2, 5]), ("four", FLOAT, [2, 4]), ("batch", INT64, [2])]
    model = model_of(nodes, inputs, "abc", opset=16)
    four = np.array([[1, 1, 9, 12], [0, 2, 7, 4]], np.float32)
    five = np.concatenate([np.array([[1], [0]], np.float32), four], axis=1)
    feed = {"x": random(2, 3, 9, 8), "five": five, "four": four, "batch": np.array([0, 1])}
    wanted = runtime.InferenceSession(typed(model).SerializeToString()).run(None, feed)
    for want, have in zip(wanted, sardonyx.Session(model).run(feed), strict=True):
        np.testing.assert_allclose(have, want, 1e-5, 1e-5)


def test_transforms_of_signals():
    nodes = [
        node("DFT", ["x"], ["a"], onesided=1),
        node("DFT", ["x", "longer"], ["b"]),
        node("DFT", ["a2"], ["c"], inverse=1),
        node("STFT", ["x", "hop", "window"], ["d"]),
    ]
    constants = [("longer", np.array(23)), ("hop", np.array(5)), ("window", np.hanning(8).astype(np.float32))]
    inputs = [("x", FLOAT, ["n", 20, 1]), ("a2", FLOAT, ["n", "m", 2])]
    model = model_of(nodes, inputs, "abcd", opset=20, constants=constants)
    close(model, {"x": random(2, 20, 1), "a2": random(2, 11, 2)}, rtol=1e-3, atol=1e-5)

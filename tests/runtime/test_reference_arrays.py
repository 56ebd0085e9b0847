"""Operators that are computed whole arrays at a time mean what `onnx.reference` says element by element."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from sardonyx.runtime.reference import Evaluator

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _the_same_values_in_any_order() -> None:
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


def draw(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def both(kind: str, inputs: dict[str, np.ndarray], **options):
    """The outputs of one node by the standard's evaluator and by ours."""
    return [run(each, kind, inputs, **options) for each in (ReferenceEvaluator, Evaluator)]


def run(evaluator, kind: str, inputs: dict[str, np.ndarray], outputs: int = 1, opset: int = 20, **attributes):
    names, kinds = [f"y{number}" for number in range(outputs)], onnx.helper.np_dtype_to_tensor_dtype
    node = onnx.helper.make_node(kind, list(inputs), names, **attributes)
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [onnx.helper.make_tensor_value_info(name, kinds(value.dtype), None) for name, value in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in names],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10)
    return evaluator(model).run(None, inputs)


def same(kind: str, inputs: dict[str, np.ndarray], **options) -> None:
    for want, have in zip(*both(kind, inputs, **options), strict=True):
        assert have.dtype == want.dtype
        # Where a sum cancels, what is left is the rounding of its parts: 4 units in the last place of numbers below 8.
        np.testing.assert_allclose(have, want, rtol=2e-5, atol=4 * 2.0**-21)


@pytest.mark.parametrize(
    ("shape", "kernel", "group", "attributes"),
    [
        ((2, 3, 11, 7), (5, 3, 3, 3), 1, {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
        ((1, 6, 13, 5), (4, 3, 3, 2), 2, {"dilations": [2, 3], "pads": [2, 1, 2, 1]}),
        ((2, 5, 7, 7), (5, 1, 3, 3), 5, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ((2, 4, 9), (3, 4, 4), 1, {"auto_pad": "SAME_LOWER"}),
        ((1, 2, 5, 7, 3), (3, 2, 2, 3, 3), 1, {"pads": [0, 1, 1, 1, 0, 1]}),
    ],
)
def test_convolutions(shape, kernel, group, attributes):
    same("Conv", {"x": draw(*shape), "w": draw(*kernel), "b": draw(kernel[0])}, group=group, **attributes)


@pytest.mark.parametrize(
    ("size", "attributes"),
    [
        ((7, 5), {"pads": [1, 0, 2, 1], "strides": [2, 3], "output_padding": [1, 0]}),
        ((3, 5), {"dilations": [2, 3], "pads": [2, 1, 0, 1]}),
        ((5, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 1]}),
        ((5, 3), {"auto_pad": "SAME_LOWER", "strides": [2, 3], "output_shape": [11, 9]}),
    ],
)
def test_transposed_convolutions(size, attributes):
    """In groups each is its own: the standard's evaluator mixes groups up."""
    inputs = {"x": draw(2, 4, *size), "w": draw(4, 3, 3, 2), "b": draw(3)}
    same("ConvTranspose", inputs, **attributes)
    halves = [{"x": inputs["x"][:, half], "w": inputs["w"][half]} for half in (slice(2), slice(2, 4))]
    wanted = [run(ReferenceEvaluator, "ConvTranspose", half, **attributes)[0] for half in halves]
    [whole] = run(Evaluator, "ConvTranspose", {"x": inputs["x"], "w": inputs["w"]}, group=2, **attributes)
    np.testing.assert_allclose(whole, np.concatenate(wanted, 1), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
        {"kernel_shape": [2, 3], "strides": [2, 1], "storage_order": 1},
        {"kernel_shape": [3, 3], "strides": [3, 2], "ceil_mode": 1},
        {"kernel_shape": [2, 2], "dilations": [2, 3], "pads": [0, 1, 1, 0]},
        {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    ],
)
def test_largest_of_windows_and_where_it_is(attributes):
    same("MaxPool", {"x": draw(2, 3, 11, 7)}, outputs=2, **attributes)


def test_largest_of_bytes():
    same("MaxPool", {"x": RNG.integers(-128, 0, (1, 2, 7, 5)).astype(np.int8)}, kernel_shape=[2, 2], strides=[2, 1])


def test_a_window_with_a_nan_has_a_nan():
    x = draw(1, 1, 5, 5)
    x[0, 0, 2, 2] = np.nan
    [have] = run(Evaluator, "MaxPool", {"x": x}, kernel_shape=[2, 2])
    assert np.isnan(have).sum() == 4


@pytest.mark.parametrize("counted", [0, 1])
@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
        {"kernel_shape": [2, 3], "strides": [3, 2], "ceil_mode": 1},
        {"kernel_shape": [2, 2], "dilations": [2, 3], "pads": [0, 1, 1, 0]},
        {"kernel_shape": [3, 2], "auto_pad": "SAME_UPPER"},
    ],
)
def test_means_of_windows(attributes, counted):
    same("AveragePool", {"x": draw(2, 3, 11, 7)}, count_include_pad=counted, **attributes)


@pytest.mark.parametrize("opset", [10, 20])
@pytest.mark.parametrize("ratio", [0, 2])
def test_regions_of_images(opset, ratio):
    """They lie inside, partly outside, far away, and are smaller than a pixel."""
    rois = np.array([[1, 1, 13, 9], [-5, -3, 4, 30], [90, 90, 99, 99], [3, 3, 3.2, 3.1]], np.float32)
    inputs = {"x": draw(2, 3, 11, 7), "rois": rois, "of": np.array([1, 0, 1, 0])}
    attributes = {"output_height": 3, "output_width": 2, "sampling_ratio": ratio, "spatial_scale": 0.5}
    if opset > 10:
        same("RoiAlign", inputs, opset=opset, **attributes)
        same("RoiAlign", inputs, opset=opset, mode="max", **attributes)
        attributes["coordinate_transformation_mode"] = "output_half_pixel"
        same("RoiAlign", inputs, opset=opset, **attributes)
    else:  # the standard's evaluator takes half pixels for version 10 too
        old = run(Evaluator, "RoiAlign", inputs, opset=10, **attributes)
        attributes["coordinate_transformation_mode"] = "output_half_pixel"
        np.testing.assert_array_equal(old, run(Evaluator, "RoiAlign", inputs, **attributes))


@pytest.mark.parametrize("centred", [0, 1])
def test_boxes_that_overlap_are_dropped(centred):
    """Corners in any order; equal scores; boxes without an area."""
    boxes = np.round(draw(2, 23, 4), 1)
    boxes[:, 3] = boxes[:, 7]
    boxes[0, 5, 2:] = boxes[0, 5, :2]
    scores = np.round(np.abs(draw(2, 3, 23)), 1)
    limits = {"most": np.array([7]), "overlap": np.array([0.3], np.float32), "least": np.array([0.2], np.float32)}
    same("NonMaxSuppression", {"boxes": boxes, "scores": scores, **limits}, opset=11, center_point_box=centred)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
def test_elements_put_in_their_places(reduction):
    places = np.array([[0, 1], [-1, 2], [0, 1]])
    same("ScatterND", {"x": draw(3, 4, 2), "at": places, "new": draw(3, 2)}, reduction=reduction)
    rows = np.array([[0, -1, 1], [0, 2, 1]])
    same("ScatterElements", {"x": draw(5, 3), "at": rows, "new": draw(2, 3)}, axis=0, reduction=reduction)
    same("ScatterElements", {"x": draw(2, 5), "at": rows, "new": draw(2, 3)}, axis=-1, reduction=reduction)


@pytest.mark.parametrize("batch_dims", [0, 1])
def test_slices_taken_from_their_places(batch_dims):
    places = np.array([[[0, 1], [1, -1]], [[1, 0], [0, 0]]])
    same("GatherND", {"x": draw(2, 3, 4, 5), "at": places}, batch_dims=batch_dims)


@pytest.mark.parametrize(("axis", "shape"), [(1, (0, 12)), (0, (1, 0)), (2, (0, 4)), (-1, (0, 4)), (3, (0, 1))])
def test_a_matrix_without_rows_keeps_its_columns(axis, shape):
    """A detector that finds nothing flattens the boxes that it did not find."""
    [y] = run(Evaluator, "Flatten", {"x": np.zeros((0, 3, 4), np.float32)}, axis=axis)
    assert y.shape == shape


def test_convolutions_of_no_images():
    nothing = np.zeros((0, 4, 5, 3), np.float32)
    assert run(Evaluator, "Conv", {"x": nothing, "w": draw(7, 4, 3, 2)})[0].shape == (0, 7, 3, 2)
    assert run(Evaluator, "ConvTranspose", {"x": nothing, "w": draw(4, 7, 3, 2)})[0].shape == (0, 7, 7, 4)
    assert run(Evaluator, "MaxPool", {"x": nothing}, kernel_shape=[2, 2])[0].shape == (0, 4, 4, 2)
    assert run(Evaluator, "AveragePool", {"x": nothing}, kernel_shape=[2, 2])[0].shape == (0, 4, 4, 2)


@pytest.mark.parametrize("transform", ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"])
@pytest.mark.parametrize(
    "options",
    [{"mode": "linear"}, {"mode": "cubic"}, {"mode": "cubic", "exclude_outside": 1, "cubic_coeff_a": -0.5}],
)
def test_other_sizes(transform, options):
    """Sizes at which no sample hits a pixel but by all roundings alike."""
    inputs = {"x": draw(1, 2, 7, 5), "roi": draw(0), "s": np.array([1, 1, 1.7, 0.6], np.float32)}
    same("Resize", inputs, coordinate_transformation_mode=transform, **options)
    sizes = {"x": inputs["x"], "roi": inputs["roi"], "s": inputs["roi"], "n": np.array([11, 3])}
    same("Resize", sizes, coordinate_transformation_mode=transform, axes=[2, 3], **options)


@pytest.mark.parametrize("nearest", ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
def test_other_sizes_of_nearest_pixels(nearest):
    inputs = {"x": draw(1, 2, 7, 5), "roi": draw(0), "s": np.array([1, 1, 1.7, 0.6], np.float32)}
    same("Resize", inputs, mode="nearest", nearest_mode=nearest)


def test_a_sample_that_hits_a_pixel_but_for_rounding_is_that_pixel():
    """(10 + 0.5) / 1.4 - 0.5 is 7 and a little: the standard's evaluator gives the pixel before."""
    x = np.arange(30, dtype=np.float32).reshape(1, 1, 30, 1)
    inputs = {"x": x, "roi": draw(0), "s": draw(0), "n": np.array([1, 1, 42, 1])}
    for mode in ("linear", "nearest"):
        assert run(Evaluator, "Resize", inputs, mode=mode)[0][0, 0, 10, 0] == 7

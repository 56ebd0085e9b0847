"""What skl2onnx gets wrong, put right while it converts: `corrected`.

* Attributes are numpy's numbers, which newer versions of onnx refuse.
* Isotonic calibration takes the nearest step where scikit-learn interpolates between two.
* Neighbours weighted by distance: all distances are negated and so cut off at the same smallest value; and a neighbour
  at distance 0, which scikit-learn lets decide alone, is one among others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


@contextlib.contextmanager
def corrected() -> Iterator[None]:
    """skl2onnx with the corrections of this file, for a while."""
    from skl2onnx.common._container import ModelComponentContainer
    from skl2onnx.operator_converters import calibrated_classifier_cv, nearest_neighbours

    with contextlib.ExitStack() as stack:
        for place, name, change in (
            (ModelComponentContainer, "add_node", _with_plain_attributes),
            (calibrated_classifier_cv, "_transform_isotonic", lambda original: _interpolated),
            (nearest_neighbours, "_convert_nearest_neighbors", _with_weights),
        ):
            original = getattr(place, name)
            setattr(place, name, change(original))
            stack.callback(setattr, place, name, original)
        yield


def _with_plain_attributes(original: Callable[..., Any]) -> Callable[..., Any]:
    def add_node(self: Any, *arguments: Any, **attributes: Any) -> Any:
        for name, value in attributes.items():
            if isinstance(value, list) and value and isinstance(value[0], (int, float, np.generic)):
                numbers = [v.item() if isinstance(v, np.generic) else v for v in value]
                attributes[name] = [int(v) if isinstance(v, bool) else v for v in numbers]
        return original(self, *arguments, **attributes)

    return add_node


def _interpolated(
    scope: Any, container: Any, model: Any, scores: str, k: int, dtype: type[np.floating], proto_type: int
) -> str:
    """Probabilities [rows, 1] of class `k` by isotonic regression: between two thresholds on a straight line."""
    del proto_type
    calibrator = model.calibrators[k]
    x, y = (np.asarray(a, np.float64) for a in (calibrator.X_thresholds_, calibrator.y_thresholds_))
    if len(x) == 1:
        x, y = np.repeat(x, 2), np.repeat(y, 2)
    width = np.diff(x)
    limits = np.finfo(dtype)
    slope = np.clip(np.divide(np.diff(y), width, out=np.zeros_like(width), where=width > 0), limits.min, limits.max)

    def constant(name: str, values: np.ndarray) -> str:
        from onnx.helper import np_dtype_to_tensor_dtype

        unique = scope.get_unique_variable_name(name)
        container.add_initializer(unique, np_dtype_to_tensor_dtype(values.dtype), values.shape, values.ravel())
        return unique

    def node(kind: str, *inputs: str, **attributes: Any) -> str:
        output = scope.get_unique_variable_name(f"isotonic_{kind}")
        container.add_node(kind, list(inputs), [output], name=scope.get_unique_operator_name(kind), **attributes)
        return output

    column = node("Reshape", scores, constant("column", np.array([-1, 1], np.int64)))
    if calibrator.out_of_bounds == "clip":
        column = node("Clip", column, *(constant("end", np.array(end, dtype)) for end in (x[0], x[-1])))
    passed = node("GreaterOrEqual", column, constant("inner", x[1:-1].astype(dtype)))  # [rows, thresholds - 2]
    counted = node("Cast", passed, to=7)  # int64
    segment = node("ReduceSum", counted, constant("axis", np.array([1], np.int64)), keepdims=1)
    start, height, rise, low, high = (
        node("Gather", constant(name, values.astype(dtype)), segment)
        for name, values in (
            ("x", x[:-1]),
            ("y", y[:-1]),
            ("slope", slope),
            ("low", np.minimum(y[:-1], y[1:])),
            ("high", np.maximum(y[:-1], y[1:])),
        )
    )
    line = node("Add", height, node("Mul", node("Sub", column, start), rise))
    return node("Min", node("Max", line, low), high)  # rounding must not leave the two ends


def _with_weights(original: Callable[..., Any]) -> Callable[..., Any]:
    def convert(operator: Any, container: Any, k: int | None = None, radius: float | None = None) -> Any:
        """Weights relative to that of the nearest neighbour: 1 for it, 0 for all others where its distance is 0."""
        from skl2onnx.algebra.onnx_ops import (
            OnnxAbs,
            OnnxDiv,
            OnnxEqual,
            OnnxNeg,
            OnnxReduceMaxApi18,
            OnnxReduceSumApi11,
            OnnxWhere,
        )

        indices, distances, labels, weights, norm, axis = original(operator, container, k=k, radius=radius)
        estimator = operator.raw_operator
        by_count = getattr(estimator, "n_neighbors", None) is not None
        if weights is not None and by_count and getattr(estimator, "weights", None) == "distance":
            opset = container.target_opset
            distance = OnnxAbs(distances, op_version=opset)
            largest = OnnxReduceMaxApi18(OnnxNeg(distance, op_version=opset), axes=[1], op_version=opset)
            least = OnnxNeg(largest, op_version=opset)
            ratio = OnnxDiv(least, distance, op_version=opset)
            one = np.ones(1, ratio_dtype(operator))
            weights = OnnxWhere(OnnxEqual(distance, least, op_version=opset), one, ratio, op_version=opset)
            norm = OnnxReduceSumApi11(weights, op_version=opset, axes=[1], keepdims=0)
        return indices, distances, labels, weights, norm, axis

    return convert


def ratio_dtype(operator: Any) -> type[np.floating]:
    """The element type in which skl2onnx computes distances."""
    from skl2onnx.common.data_types import guess_numpy_type

    return np.float64 if guess_numpy_type(operator.inputs[0].type) == np.float64 else np.float32

"""Which values of its features a fitted model knows: samples to compare with should lie there.

Normal noise would fall on one side of every split of a tree that was trained on ages or prices, and beyond all
neighbours of a model that remembers its data: it would prove little.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

Range = tuple[tuple[float, ...], tuple[float, ...]]  # the smallest and the largest value of each feature
_MARGIN = 0.1  # of the width, beyond the outermost split of a tree
_DEVIATIONS = 3.0  # of a scaler's mean


def of_estimator(step: Any) -> Range | None:
    """Of a fitted estimator of scikit-learn, by what it keeps of its training data; None: nothing."""
    for name in ("_fit_X", "X_train_", "support_vectors_", "cluster_centers_", "X_fit_"):
        data = getattr(step, name, None)
        if isinstance(data, np.ndarray) and data.ndim == 2 and len(data) > 1:
            return _pairs(data.min(0), data.max(0))
    low, high = getattr(step, "data_min_", None), getattr(step, "data_max_", None)
    if isinstance(low, np.ndarray) and isinstance(high, np.ndarray):
        return _pairs(low, high)
    quantiles = getattr(step, "quantiles_", None)
    if isinstance(quantiles, np.ndarray) and quantiles.ndim == 2:
        return _pairs(quantiles.min(0), quantiles.max(0))
    mean, scale = getattr(step, "mean_", None), getattr(step, "scale_", None)
    if isinstance(mean, np.ndarray) and isinstance(scale, np.ndarray) and mean.shape == scale.shape:
        return _pairs(mean - _DEVIATIONS * scale, mean + _DEVIATIONS * scale)
    for name in ("theta_", "means_"):  # of classes, or of the parts of a mixture
        means = getattr(step, name, None)
        if isinstance(means, np.ndarray) and means.ndim == 2 and len(means) > 1:
            width = np.maximum(np.ptp(means, 0), 1e-3)
            return _pairs(means.min(0) - width / 2, means.max(0) + width / 2)
    return None


def of_trees(model: ir.Model, width: int) -> Range | None:
    """Of the decision trees of an ONNX model that read its first input, by their splits; None: there are none."""
    low, high = np.full(width, np.inf), np.full(width, -np.inf)
    for node in model.graph:
        if node.op_type.startswith("TreeEnsemble") and _reads_input(node, model.graph.inputs[0]):
            features, values = _splits(node)
            known = features < width
            np.minimum.at(low, features[known], values[known])
            np.maximum.at(high, features[known], values[known])
    if not np.isfinite(low).any():
        return None
    unused = ~np.isfinite(low)
    low[unused], high[unused] = -1.0, 1.0
    margin = np.maximum(_MARGIN * (high - low), 1e-3)
    return _pairs(low - margin, high + margin)


def _reads_input(node: ir.Node, graph_input: ir.Value) -> bool:
    value = node.inputs[0]
    while value is not None:
        maker = value.producer()
        if maker is None or maker.op_type not in ("Cast", "Identity"):
            break
        value = maker.inputs[0]
    return value is graph_input


def _splits(node: ir.Node) -> tuple[np.ndarray, np.ndarray]:
    """Feature and threshold of each split; leaves left out."""
    attributes = node.attributes
    if node.op_type == "TreeEnsemble":
        return np.asarray(attributes["nodes_featureids"].as_ints()), attributes["nodes_splits"].as_tensor().numpy()
    features = np.asarray(attributes["nodes_featureids"].as_ints())
    if "nodes_values_as_tensor" in attributes:
        values = attributes["nodes_values_as_tensor"].as_tensor().numpy()
    else:
        values = np.asarray(attributes["nodes_values"].as_floats())
    inner = np.array([mode != "LEAF" for mode in attributes["nodes_modes"].as_strings()])
    kept = inner & np.isfinite(values)
    return features[kept], values[kept]


def _pairs(low: Sequence[float] | np.ndarray, high: Sequence[float] | np.ndarray) -> Range:
    return tuple(float(value) for value in low), tuple(float(value) for value in high)

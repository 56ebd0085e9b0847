"""What layers read, as means and covariances of their features over calibration data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sardonyx.errors import OptimizationError
from sardonyx.optimizer.activations import activations
from sardonyx.optimizer.data import Data
from sardonyx.optimizer.products import Product, find_products
from sardonyx.optimizer.step import Context
from sardonyx.runtime.options import SessionOptions

__all__ = ["Moments", "measure", "measured_products"]

_MOST_FEATURES = 6144  # of a layer whose covariance is made: 150 MB
_MOST_ROWS = 16384  # of a layer's inputs that its moments are taken of; at least 4 for each feature where there are


@dataclass
class Moments:
    """Of the inputs of a product.

    Attributes:
        mean: [features].
        covariance: [features, features].
    """

    mean: np.ndarray
    covariance: np.ndarray


def measured_products(
    model: ir.Model, smallest: int, context: Context, *, grouped: bool = True
) -> tuple[list[Product], dict[Product, Moments]]:
    """The layers of at least `smallest` weights and what they read; nothing is known of that without data.

    Args:
        model: see `tidied`.
        smallest: weights of a layer.
        context: with the data, if there is any.
        grouped: with those of convolutions in groups.
    """
    products = [p for p in find_products(model) if grouped or p.groups == 1]
    products = [p for p in products if p.matrix().size >= smallest and p.matrix().shape[1] <= _MOST_FEATURES]
    if context.data is None or not len(context.data):
        return products, {}
    context.progress("measuring what layers read")
    return products, measure(model, products, context.data, context.seed)


def measure(model: ir.Model, products: Sequence[Product], data: Data, seed: int) -> dict[Product, Moments]:
    """The moments of what each product reads, from positions drawn at random.

    Memory: the covariances, and the inner values of one sample.

    Raises:
        OptimizationError: there are values that are not finite.
    """
    if not products:
        return {}
    rng = np.random.default_rng(seed)
    sums: dict[Product, np.ndarray] = {}
    totals: dict[Product, np.ndarray] = {}
    counts: dict[Product, int] = defaultdict(int)
    names = [str(product.x.name) for product in products]
    for values in activations(model, names, data, SessionOptions(cache=False, progress=False)):
        for product in products:
            features = product.matrix().shape[1]
            most = -(-max(_MOST_ROWS, 4 * features) // len(data))
            [rows] = product.rows(rng, most, values[str(product.x.name)])
            if product not in sums:
                sums[product] = np.zeros((features, features), np.float32)
                totals[product] = np.zeros(features)
            sums[product] += rows.T @ rows
            totals[product] += rows.sum(0, dtype=np.float64)
            counts[product] += len(rows)
    found = {}
    for product, products_of_two in sums.items():
        mean = (totals[product] / counts[product]).astype(np.float32)
        products_of_two /= counts[product]
        products_of_two -= np.outer(mean, mean)
        if not np.isfinite(products_of_two).all():
            message = "calibration data gives NaN or infinity in what the layer reads"
            raise OptimizationError(message, node=product.name, hint="Look for such values in the data.")
        found[product] = Moments(mean, products_of_two)
    return found

"""The step `palette`: the weights of a layer take few distinct values, found by k-means.

The result is an ordinary ONNX model of the same size; in a container (`container.py`) each weight is then 4 bits for 16
values, 8 for 256. ONNX has no smaller form of its own for them: the indices of Gather are at least 32 bits each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sardonyx.errors import InputError
from sardonyx.optimizer.moments import Moments, measure
from sardonyx.optimizer.products import Product, find_products
from sardonyx.optimizer.step import Applied, Context, Step, step
from sardonyx.optimizer.tidy import tidied

__all__ = ["Palette", "cluster"]

_ROUNDS = 60  # of k-means in one dimension; it stands still sooner


@step("palette")
@dataclass(frozen=True)
class Palette(Step):
    """Cluster the weights of Conv, Gemm and MatMul.

    Attributes:
        entries: distinct values of a layer, 2 to 256.
        error: share of the energy of a layer's weights that may be lost; a layer that would lose more is left alone.
        smallest: weights of a layer from which on it is looked at.
    """

    entries: int = 16
    error: float = 0.02
    smallest: int = 1024

    def __post_init__(self) -> None:
        if not 2 <= self.entries <= 256 or not 0 < self.error <= 1:
            raise InputError("a palette has 2 to 256 entries, and its error is a share of 1")

    def apply(self, model: ir.Model, context: Context) -> Applied:
        """Cluster; with data, biases make up for the mean error of the outputs."""
        result = tidied(model)
        products = [p for p in find_products(result) if p.groups == 1 and p.matrix().size >= self.smallest]
        moments: dict[Product, Moments] = {}
        if context.data is not None and len(context.data):
            moments = measure(result, [p for p in products if p.bias is not None], context.data, context.seed)
        notes, lost = [], []
        for product in products:
            context.progress(f"clustering {product.name}")
            W = product.matrix()
            values = cluster(W.reshape(-1), self.entries)
            near = values[np.searchsorted((values[1:] + values[:-1]) / 2, W)].astype(W.dtype)
            share = float(((near - W) ** 2).sum() / ((W**2).sum() or 1.0))
            if share > self.error:
                notes.append(f"{product.name} keeps its weights: {self.entries} values lose {share:.1%} of them")
                continue
            bias = None
            if product in moments:
                bias = product.bias.const_value.numpy() + (W - near) @ moments[product].mean  # type: ignore[union-attr]
            product.store(near, bias)
            lost.append(share)
        if lost:
            notes.append(
                f"{len(lost)} layers with {self.entries} values each, {np.mean(lost):.2%} of their energy lost"
            )
        return Applied(result, bool(lost), notes if lost else [*notes, "no layer takes a palette within the error"])


def cluster(values: np.ndarray, entries: int) -> np.ndarray:
    """At most `entries` values, sorted, with a small sum of squared distances: k-means in one dimension."""
    ordered = np.sort(values.astype(np.float64))
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    spread = np.linspace(ordered[0], ordered[-1], entries)
    middle = np.quantile(ordered, (np.arange(entries) + 0.5) / entries)
    centres = np.unique((spread + middle) / 2)  # dense where weights are, and yet out to the largest
    for _ in range(_ROUNDS):
        cuts = np.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2)
        ends = np.concatenate([[0], cuts, [len(ordered)]])
        counts = np.diff(ends)
        means = np.diff(sums[ends])[counts > 0] / counts[counts > 0]
        if len(means) == len(centres) and np.allclose(means, centres, rtol=0, atol=1e-7 * np.abs(means).max()):
            return np.asarray(means)
        centres = means
    return np.asarray(centres)

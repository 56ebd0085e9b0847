"""After pruning: the kept weights of each layer are fitted anew, so that its outputs are again those of the original.

Layer by layer in the order of the graph, from what the pruned model itself feeds it, by least squares:

    min over D, d of  |Y - X (W + D)' - d|² + k |D|²

X are rows of the layer's inputs in the pruned model, Y of its outputs in the original. The ridge k pulls to the kept
weights, not to zero, and is chosen by the error on a fifth of the samples that the fit does not see; no change at all
is one of the choices, so that a layer with little data is left alone. What is added to the outputs (the way around a
residual block) has errors of its own in the pruned model: Y makes up for them (arXiv:1707.06168).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import onnx_ir as ir

from sardonyx.optimizer.data import Data
from sardonyx.optimizer.products import Product, find_products
from sardonyx.optimizer.segments import Segments

__all__ = ["Fit", "Rows", "fit", "reconstruct", "walk"]

_MOST_ROWS = 32768  # of a layer; at least 6 for each feature where there are
_RIDGES = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # shares of the mean of the diagonal
_HELD_OUT = 5  # every fifth sample judges


@dataclass
class Rows:
    """Sums over rows: all that least squares needs of them."""

    count: int
    x: np.ndarray
    y: np.ndarray
    xx: np.ndarray
    xy: np.ndarray
    yy: float

    @classmethod
    def zeros(cls, features: int, outputs: int) -> Rows:
        """No rows."""
        return cls(0, np.zeros(features), np.zeros(outputs), np.zeros((features, features)),
                   np.zeros((features, outputs)), 0.0)  # fmt: skip

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """More rows."""
        self.count += len(x)
        self.x += x.sum(0)
        self.y += y.sum(0)
        self.xx += x.T @ x
        self.xy += x.T @ y
        self.yy += float(np.vdot(y, y))

    def centred(self, x: np.ndarray, y: np.ndarray) -> Rows:
        """The same of rows from which x and y are subtracted."""
        n = self.count
        xx = self.xx - np.outer(self.x, x) - np.outer(x, self.x) + n * np.outer(x, x)
        xy = self.xy - np.outer(self.x, y) - np.outer(x, self.y) + n * np.outer(x, y)
        yy = self.yy - 2 * float(self.y @ y) + n * float(y @ y)
        return Rows(n, self.x - n * x, self.y - n * y, xx, xy, yy)

    def error(self, weights: np.ndarray) -> float:
        """``|Y - X W'|²``."""
        return max(
            self.yy - 2 * float(np.vdot(self.xy, weights.T)) + float(np.vdot(weights.T, self.xx @ weights.T)), 0.0
        )


@dataclass(frozen=True)
class Fit:
    """New weights [outputs, features] and bias, with the share of the energy of the outputs that they miss."""

    weights: np.ndarray
    bias: np.ndarray | None
    before: float
    after: float


def fit(train: Rows, held: Rows, weights: np.ndarray, bias: np.ndarray | None) -> Fit:
    """The formula above.

    Args:
        train: rows to fit.
        held: rows to judge.
        weights: as they are now.
        bias: as it is now; None: the layer has none, and gets none.
    """
    features = weights.shape[1]
    means = (np.zeros(features), np.zeros(len(weights)))
    now = np.zeros(len(weights)) if bias is None else bias.astype(np.float64)
    if bias is not None:
        means = (train.x / train.count, train.y / train.count)
    inside, outside = train.centred(*means), held.centred(*means)
    energy = held.centred(np.zeros(features), held.y / max(held.count, 1)).yy or 1.0
    start = weights.astype(np.float64)
    before = held.centred(np.zeros(features), now).error(start)
    gradient = inside.xy - inside.xx @ start.T
    best, chosen = outside.error(start), start
    diagonal = float(np.diag(inside.xx).mean()) or 1.0
    for ridge in _RIDGES:
        matrix = inside.xx + ridge * diagonal * np.eye(features)
        try:
            candidate = start + np.linalg.solve(matrix, gradient).T
        except np.linalg.LinAlgError:
            continue
        error = outside.error(candidate)
        if error < best:
            best, chosen = error, candidate
    if best >= before:  # neither weights nor bias are better for it
        return Fit(weights, bias, before / energy, before / energy)
    fresh = None if bias is None else (means[1] - chosen @ means[0]).astype(np.float32)
    return Fit(chosen.astype(np.float32), fresh, before / energy, best / energy)


def walk(
    original: ir.Model, model: ir.Model, names: set[str], data: Data
) -> Iterator[tuple[list[Product], list[Product], Segments, Segments]]:
    """Products of `model` called `names`, those of the same input together, with the runs of both models at that point.

    The caller may change the weights of these products before the next step. Yields the products of the model, those of
    the original, and both runs: `values` of the first has their inputs, of the second their outputs.
    """
    old = {(product.name, product.group): product for product in find_products(original)}
    found = [p for p in find_products(model) if p.name in names and (p.name, p.group) in old]
    ours, theirs = Segments(model, data), Segments(original, data)
    for _, same in groupby(found, key=lambda product: product.x):
        products = list(same)
        originals = [old[product.name, product.group] for product in products]
        ends = [product.y.producer() for product in originals]
        beside = [str(value.name) for value in map(partner, originals) if value is not None]
        ours.advance(ours.place_of(products[0].node), keep=[str(products[0].x.name), *beside])
        places = [theirs.place_of(end) for end in ends if end is not None]
        theirs.advance(max(places) + 1, keep=[str(product.y.name) for product in originals] + beside)
        yield products, originals, ours, theirs


def reconstruct(
    original: ir.Model,
    model: ir.Model,
    names: set[str],
    kept: Callable[[Product], np.ndarray],
    data: Data,
    *,
    seed: int = 0,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Fit]:
    """Fit the products called `names` of `model`, in place.

    Args:
        original: whose outputs are wanted.
        model: the pruned one.
        names: of the nodes to fit.
        kept: for a product of the original, which of its outputs are left.
        data: samples to fit.
        seed: of the choice of rows.
        progress: called for each layer.

    Returns:
        What was fitted, by name.
    """
    fits: dict[str, Fit] = {}
    for products, originals, ours, theirs in walk(original, model, names, data):
        for product, source in zip(products, originals, strict=True):
            progress(f"fitting {product.name}")
            train, held = gather(product, source, ours, theirs, kept(source), seed)
            bias = None if product.bias is None else _part(product, product.bias)
            result = fit(train, held, product.matrix(), bias)
            product.store(result.weights, result.bias)
            fits[product.name] = result
    return fits


def gather(
    product: Product, source: Product, ours: Segments, theirs: Segments, kept: np.ndarray, seed: int
) -> tuple[Rows, Rows]:
    """Rows of inputs of `product` and outputs of `source`: to fit, and to judge."""
    outputs, features = product.matrix().shape
    rng = np.random.default_rng(seed)
    train, held = Rows.zeros(features, outputs), Rows.zeros(features, outputs)
    inputs, targets = ours.values[str(product.x.name)], _targets(product, source, ours, theirs, kept)
    most = -(-max(_MOST_ROWS, 6 * features) // len(inputs))
    for number, (x, y) in enumerate(zip(inputs, targets, strict=True)):
        rows = product.rows(rng, most, x, y)
        if len(inputs) >= _HELD_OUT:
            (held if number % _HELD_OUT == _HELD_OUT - 1 else train).add(*rows)
            continue
        judge = np.arange(len(rows[0])) % _HELD_OUT == _HELD_OUT - 1
        train.add(*(part[~judge] for part in rows))
        held.add(*(part[judge] for part in rows))
    return train, held


def partner(product: Product) -> ir.Value | None:
    """What is added to the outputs of `product`, if that is all that happens to them."""
    users = list(product.y.uses())
    if len(users) != 1 or users[0].node.op_type != "Add" or product.y.is_graph_output():
        return None
    other = users[0].node.inputs[1 - users[0].idx]
    return None if other is None or other.const_value is not None else other


def _targets(
    product: Product, source: Product, ours: Segments, theirs: Segments, kept: np.ndarray
) -> Iterator[np.ndarray]:
    """What the outputs should be, for each sample."""
    other = partner(source)
    name = "" if other is None else str(other.name)
    here, there = ours.values.get(name), theirs.values.get(name)
    for number, y in enumerate(theirs.values[str(source.y.name)]):
        axis = 1 if product.node.op_type == "Conv" else y.ndim - 1
        target = np.compress(kept, y, axis)
        if here is not None and there is not None and there[number].shape == y.shape:
            target = target + np.compress(kept, there[number], axis) - here[number]
        yield target


def _part(product: Product, bias: ir.Value) -> np.ndarray:
    array: np.ndarray = bias.const_value.numpy()  # type: ignore[union-attr]
    return array.reshape(product.groups, -1)[product.group]


def affected(model: ir.Model, pruned: set[str]) -> set[str]:
    """Names of the nodes in `pruned`, and of all that come after one of them."""
    dirty: set[ir.Value] = set()
    names: set[str] = set()
    for node in model.graph:
        if node.name in pruned or any(value in dirty for value in node.inputs if value is not None):
            names.add(str(node.name))
            dirty.update(node.outputs)
    return names

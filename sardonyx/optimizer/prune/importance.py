"""How much is lost with a unit: the growth of the squared error of the outputs of the layers that read it.

All measures are shares of a layer's output, so that layers can be compared: 0 for a unit that nobody misses, 1 for the
energy of the whole output.

- ``obs``: what is lost after the other inputs have taken over what they can: ``tr(W_s (H^-1_ss)^-1 W_s')`` for the
  features s of the unit and the covariance H of the layer's inputs (the optimal brain surgeon for groups,
  arXiv:2208.11580). Each removal updates weights and inverse, so that of two equal channels only one is free.
- ``activation``: what is lost if nobody takes over, and inputs were uncorrelated: ``sum H_ff |W_f|²``.
- ``l2``, ``l1``: the unit's share of squares, or absolute values, of the weights that read it and that make it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from sardonyx.optimizer.moments import Moments
from sardonyx.optimizer.products import Product
from sardonyx.optimizer.prune.flow import Flow

__all__ = ["Activation", "Importance", "Magnitude", "Surgeon"]

_MOST_FEATURES = 6144  # of a layer whose inverse covariance is taken: 150 MB
_DAMPING = 1e-2  # added to the diagonal, as a share of its mean; 1 % is what GPTQ and SparseGPT use


class Importance:
    """Losses of units, kept up to date while units go.

    Args:
        flow: the units.
        products: the layers that read them.
    """

    def __init__(self, flow: Flow, products: Sequence[Product]):
        self.readers: dict[int, list[tuple[Product, np.ndarray]]] = defaultdict(list)  # unit -> its features
        self.makers: dict[int, list[tuple[Product, np.ndarray]]] = defaultdict(list)  # unit -> its outputs
        for product in products:
            inputs = flow.units(product.x, product.channel_axis)[product.channels()]
            outputs = flow.units(product.weights, product.output_axis)[product.outputs()]
            for units, table in ((inputs, self.readers), (outputs, self.makers)):
                order = np.argsort(units, kind="stable")
                order = order[units[order] >= 0]
                for places in np.split(order, np.flatnonzero(np.diff(units[order])) + 1):
                    if len(places):
                        table[int(units[places[0]])].append((product, places))

    def losses(self, units: np.ndarray) -> np.ndarray:
        """What is lost with each of `units`, which belong to one pool."""
        lost = np.zeros(len(units))
        by_product: dict[tuple[Product, int], list[tuple[int, np.ndarray]]] = defaultdict(list)
        for number, unit in enumerate(units.tolist()):
            for product, places in self.readers[unit]:
                by_product[product, len(places)].append((number, places))
        for (product, _), found in by_product.items():
            numbers = [number for number, _ in found]
            lost[numbers] += self.lost(product, np.stack([places for _, places in found]))
        return lost

    def lost(self, product: Product, features: np.ndarray) -> np.ndarray:
        """What `product` loses with each of n sets of s features, [n, s]."""
        raise NotImplementedError

    def remove(self, units: np.ndarray) -> None:
        """Units go."""


class Magnitude(Importance):
    """``l2`` (power 2) and ``l1`` (power 1)."""

    def __init__(self, flow: Flow, products: Sequence[Product], power: int):
        super().__init__(flow, products)
        self._weights = {product: np.abs(product.matrix()) ** power for product in products}
        self._totals = {product: float(weights.sum()) or 1.0 for product, weights in self._weights.items()}

    def losses(self, units: np.ndarray) -> np.ndarray:
        """Shares of the layers that read a unit, and of those that make it."""
        lost = super().losses(units)
        for number, unit in enumerate(units.tolist()):
            for product, places in self.makers[unit]:
                lost[number] += self._weights[product][places].sum() / self._totals[product]
        return lost

    def lost(self, product: Product, features: np.ndarray) -> np.ndarray:
        """Shares of the weights."""
        return self._weights[product].sum(0)[features].sum(1) / self._totals[product]


class Activation(Importance):
    """``activation``."""

    def __init__(self, flow: Flow, products: Sequence[Product], moments: Mapping[Product, Moments]):
        super().__init__(flow, products)
        self._energy = {}
        for product in products:
            each = np.diag(moments[product].covariance) * (product.matrix() ** 2).sum(0)
            self._energy[product] = each / (each.sum() or 1.0)

    def lost(self, product: Product, features: np.ndarray) -> np.ndarray:
        """Shares of the energy."""
        return self._energy[product][features].sum(1)


class Surgeon(Importance):
    """``obs``; takes the covariances over, so as not to have them twice."""

    def __init__(self, flow: Flow, products: Sequence[Product], moments: dict[Product, Moments]):
        super().__init__(flow, products)
        self._weights: dict[Product, np.ndarray] = {}
        self._inverse: dict[Product, np.ndarray] = {}  # a vector where it would be too large: of the diagonal alone
        self._energy: dict[Product, float] = {}
        for product in products:
            H, W = moments.pop(product).covariance, product.matrix().astype(np.float32)
            self._energy[product] = float(np.einsum("of,of->", W @ H, W)) or 1.0
            damping = _DAMPING * float(np.diag(H).mean()) or 1.0
            self._weights[product] = W
            if len(H) > _MOST_FEATURES:
                self._inverse[product] = 1 / (np.diag(H) + damping)
                continue
            H[np.diag_indices_from(H)] += damping
            self._inverse[product] = np.linalg.inv(H)

    def lost(self, product: Product, features: np.ndarray) -> np.ndarray:
        """The formula above for each set."""
        W = self._weights[product][:, features].transpose(1, 2, 0)  # [n, s, outputs]
        inverse = self._inverse[product]
        if inverse.ndim == 1:
            return (W**2 / inverse[features][:, :, None]).sum((1, 2)) / self._energy[product]
        blocks = inverse[features[:, :, None], features[:, None, :]]
        return np.einsum("nso,nso->n", W, np.linalg.solve(blocks, W)) / self._energy[product]

    def remove(self, units: np.ndarray) -> None:
        """The others take over: ``W -= W_s (H^-1_ss)^-1 H^-1_s`` and the inverse of what is left."""
        gone: dict[Product, list[np.ndarray]] = defaultdict(list)
        for unit in units.tolist():
            for product, places in self.readers[unit]:
                gone[product].append(places)
            for product, places in self.makers[unit]:
                self._weights[product][places] = 0  # outputs that nobody needs any more
        for product, sets in gone.items():
            s, W, inverse = np.concatenate(sets), self._weights[product], self._inverse[product]
            if inverse.ndim == 2:
                taken = np.linalg.solve(inverse[np.ix_(s, s)], inverse[s])
                W -= W[:, s] @ taken
                inverse -= inverse[:, s] @ taken
                inverse[s, :] = inverse[:, s] = 0
                inverse[s, s] = 1
            W[:, s] = 0

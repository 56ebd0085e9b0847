"""The step `prune-weights`: single weights become zero, n of each m or the least useful, and others make up for it.

Column by column as in SparseGPT (arXiv:2301.00774): with the Cholesky factor R of H^-1 (upper, H the covariance of the
layer's inputs), weight w_j costs ``(w_j / R_jj)²``; what is removed is spread over the columns to the right. The model
stays ordinary ONNX, with zeros. They make the file smaller once compressed; they do not make it faster
(docs/experiments.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sardonyx.errors import InputError
from sardonyx.optimizer.moments import measured_products
from sardonyx.optimizer.step import Applied, Context, Step, step
from sardonyx.optimizer.tidy import tidied

__all__ = ["PruneWeights", "sparse"]

_DAMPING = 1e-2
_BLOCK = 128  # columns for which one threshold is chosen, as in the paper


@step("prune-weights")
@dataclass(frozen=True)
class PruneWeights(Step):
    """Set weights of Conv, Gemm and MatMul to zero.

    Attributes:
        sparsity: share of a layer's weights that become zero; not used with a pattern.
        pattern: (n, m): of m weights in a row along a layer's inputs, n become zero; () for none.
        smallest: weights of a layer from which on it is looked at.
    """

    sparsity: float = 0.5
    pattern: tuple[int, ...] = ()
    smallest: int = 1024

    def __post_init__(self) -> None:
        if not 0 < self.sparsity < 1:
            raise InputError("sparsity has to be between 0 and 1")
        if self.pattern and (len(self.pattern) != 2 or not 0 < self.pattern[0] < self.pattern[1] <= _BLOCK):
            raise InputError("a pattern is two numbers n < m", hint="(2, 4): two of four weights become zero.")

    def apply(self, model: ir.Model, context: Context) -> Applied:
        """Prune."""
        result = tidied(model)
        products, moments = measured_products(result, self.smallest, context)
        notes = [] if moments else ["without data, the smallest weights go and none make up for them"]
        for product in products:
            context.progress(f"pruning {product.name}")
            found, W = moments.get(product), product.matrix()
            pruned = sparse(W, None if found is None else found.covariance, self.sparsity, self.pattern)
            bias = None
            if found is not None and product.bias is not None:
                old = product.bias.const_value.numpy().reshape(product.groups, -1)[product.group]  # type: ignore[union-attr]
                bias = old + (W - pruned) @ found.mean
            product.store(pruned.astype(W.dtype), bias)
        if products:
            zeros = sum(int((p.matrix() == 0).sum()) for p in products) / sum(p.matrix().size for p in products)
            notes.append(f"{zeros:.1%} of the weights of {len(products)} layers are zero")
        return Applied(result, bool(products), notes)


def sparse(W: np.ndarray, H: np.ndarray | None, sparsity: float, pattern: tuple[int, ...] = ()) -> np.ndarray:
    """W [outputs, features] with zeros, and the other weights such that outputs change little.

    Args:
        W: the weights.
        H: covariance [features, features] of the inputs; None: unknown, the others stay as they are.
        sparsity: share of zeros.
        pattern: n of m in the place of `sparsity`.
    """
    W = W.astype(np.float64)
    features = W.shape[1]
    R = np.eye(features)
    if H is not None:
        damped = H.astype(np.float64) + _DAMPING * (float(np.diag(H).mean()) or 1.0) * np.eye(features)
        R = np.linalg.cholesky(np.linalg.inv(damped)).T
    step_ = pattern[1] if pattern else _BLOCK
    for start in range(0, features, step_):
        block = slice(start, min(start + step_, features))
        gone = _chosen((W[:, block] / np.diag(R)[block]) ** 2, sparsity, pattern)
        for offset in range(gone.shape[1]):
            j = start + offset
            error = np.where(gone[:, offset], W[:, j], 0) / R[j, j]
            W[:, j:] -= np.outer(error, R[j, j:])
            W[gone[:, offset], j] = 0
    return W


def _chosen(costs: np.ndarray, sparsity: float, pattern: tuple[int, ...]) -> np.ndarray:
    """The cheapest of each row of a full pattern, or else of all."""
    gone = np.zeros(costs.shape, bool)
    if pattern:
        if costs.shape[1] == pattern[1]:
            np.put_along_axis(gone, np.argsort(costs, 1, kind="stable")[:, : pattern[0]], True, 1)
        return gone
    flat = np.argsort(costs, axis=None, kind="stable")[: round(sparsity * costs.size)]
    gone.reshape(-1)[flat] = True
    return gone

"""The step `low-rank`: a large layer becomes two small ones, where that saves work at little error.

The weights W [outputs, features] become A B with r columns in A. With calibration data it is not W that is
approximated but what the layer gives: with the covariance H = L L' of its inputs, the best A B of rank r for
``|W X - A B X|²`` comes from the singular values of W L, and their squares are the errors of leaving them out
(arXiv:2403.07378).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sardonyx.errors import InputError
from sardonyx.ops.node import Node
from sardonyx.optimizer.moments import Moments, measured_products
from sardonyx.optimizer.products import Product
from sardonyx.optimizer.step import Applied, Context, Step, step
from sardonyx.optimizer.tidy import constant, tidied

__all__ = ["LowRank"]

_DAMPING = 1e-4  # added to the diagonal of H, as a share of its mean


@step("low-rank")
@dataclass(frozen=True)
class LowRank(Step):
    """Factorise Conv, Gemm and MatMul with constant weights.

    Attributes:
        error: share of the energy (the variance, with data) of a layer's outputs that may be lost.
        saving: share of a layer's multiply-adds that must be saved, or it is left alone.
        smallest: weights of a layer from which on it is looked at.
    """

    error: float = 0.01
    saving: float = 0.25
    smallest: int = 16384

    def __post_init__(self) -> None:
        if not 0 < self.error < 1 or not 0 <= self.saving < 1:
            raise InputError("low-rank needs an error between 0 and 1 and a saving from 0 to below 1")

    def apply(self, model: ir.Model, context: Context) -> Applied:
        """Factorise."""
        result = tidied(model)
        products, moments = measured_products(result, self.smallest, context, grouped=False)
        without = "without data, the weights themselves are approximated, not what layers give"
        notes, done, saved, work = [] if moments else [without], 0, 0, 0
        for product in products:
            context.progress(f"factorising {product.name}")
            W = product.matrix()
            work += W.size
            A, B, lost = factors(W, moments.get(product), self.error)
            if A.size + B.size > (1 - self.saving) * W.size:
                continue
            _replace(result, product, A, B, moments.get(product))
            done, saved = done + 1, saved + W.size - A.size - B.size
            notes.append(f"{product.name}: rank {B.shape[0]} of {min(W.shape)}, {lost:.2%} of its outputs lost")
        if done:
            notes.append(
                f"{done} of {len(products)} large layers factorised, {saved / work:.0%} of their weights saved"
            )
        return Applied(result, bool(done), notes if done else [*notes, "no layer is of low enough rank"])


def factors(W: np.ndarray, moments: Moments | None, error: float) -> tuple[np.ndarray, np.ndarray, float]:
    """A [outputs, r] and B [r, features] with the smallest r that loses at most `error`, and what is lost."""
    root: np.ndarray = np.eye(W.shape[1])
    if moments is not None:
        H = moments.covariance.astype(np.float64)
        H[np.diag_indices_from(H)] += _DAMPING * (float(np.diag(H).mean()) or 1.0)
        root = np.linalg.cholesky(H)
    U, s, V = np.linalg.svd(W.astype(np.float64) @ root, full_matrices=False)
    left = np.append(np.cumsum((s**2)[::-1])[::-1], 0) / (float((s**2).sum()) or 1.0)  # lost with rank 0, 1, ...
    rank = max(int(np.argmax(left <= error)), 1)
    scale = np.sqrt(s[:rank])
    B = np.linalg.solve(root.T, (V[:rank] * scale[:, None]).T).T
    return (U[:, :rank] * scale).astype(W.dtype), B.astype(W.dtype), float(left[rank])


def _replace(model: ir.Model, product: Product, A: np.ndarray, B: np.ndarray, moments: Moments | None) -> None:
    """Two nodes in the place of one; the bias makes up for what the mean of the inputs loses."""
    node, name = product.node, product.name
    if moments is not None and product.bias is not None:
        bias = product.bias.const_value.numpy()  # type: ignore[union-attr]
        shifted = bias + (product.matrix() - A @ B) @ moments.mean
        product.bias.const_value = ir.Tensor(shifted.astype(bias.dtype), name=product.bias.name)
    view = Node(node, 0)
    attributes: dict[str, int | list[int]] = {}
    if node.op_type == "Conv":
        kernel = product.weights.const_value.numpy().shape[1:]  # type: ignore[union-attr]
        B, A = B.reshape(-1, *kernel), A.reshape(*A.shape, *[1] * (len(kernel) - 1))
        rest = {attribute.name: attribute.value for attribute in node.attributes.values()}
        rank = len(kernel) - 1
        attributes = {"kernel_shape": [1] * rank}
        first = ir.node("Conv", [node.inputs[0], constant(model, f"{name}.down", B)], rest, name=f"{name}.down")
    elif node.op_type == "Gemm":
        transposed = {"transA": view.attr("transA", 0), "transB": 1}
        first = ir.node("Gemm", [node.inputs[0], constant(model, f"{name}.down", B)], transposed, name=f"{name}.down")
        attributes = {"transB": 1}
    else:
        first = ir.node("MatMul", [node.inputs[0], constant(model, f"{name}.down", B.T)], name=f"{name}.down")
        A = A.T
    first.outputs[0].name = f"{name}.low"
    first.outputs[0].type = node.outputs[0].type
    operands = [first.outputs[0], constant(model, f"{name}.up", A), *node.inputs[2:]]
    second = ir.node(node.op_type, operands, attributes, name=name, outputs=None)
    graph, old, new = model.graph, node.outputs[0], second.outputs[0]
    graph.insert_before(node, [first, second])
    new.type, new.shape = old.type, old.shape
    if old.is_graph_output():
        graph.outputs[:] = [new if value is old else value for value in graph.outputs]
    shown, old.name = old.name, None
    old.replace_all_uses_with(new)
    new.name = shown
    graph.remove(node, safe=True)
    del graph.initializers[str(product.weights.name)]

"""How the inputs of a layer belong together: the Gram matrices of what its weights are multiplied by.

For a layer ``y = W x`` the mean squared error of rounding W to Q is ``tr((Q - W) H (Q - W)')`` with ``H = mean(x x')``
over data, where x is a row of the input of a product, or what one window of a convolution sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
import onnx_ir as ir

from sardonyx.optimizer.activations import activations
from sardonyx.optimizer.data import Data
from sardonyx.optimizer.quantize.feeds import QUIET
from sardonyx.optimizer.quantize.graph import int_of
from sardonyx.optimizer.quantize.plan import Product
from sardonyx.optimizer.quantize.rounding import descent

__all__ = ["descended", "grams", "has_gram", "matrix", "windows", "with_matrix"]

WINDOWS = 2048  # of each sample that are looked at
_BUDGET = 2**29  # bytes of matrices in memory at once; more layers take another run over the data


def has_gram(product: Product) -> bool:
    """Whether the layer is of a kind that `grams` knows: Conv, Gemm, MatMul with the constant on the right."""
    node = product.node
    if node.op_type == "Gemm":
        return product.weight == 1 and not int_of(node, "transA")
    if node.op_type == "MatMul":
        shape = None if product.weight != 1 else node.inputs[1].shape  # type: ignore[union-attr]
        return shape is not None and len(shape) == 2
    return node.op_type == "Conv"


def matrix(product: Product, weight: np.ndarray) -> np.ndarray:
    """The weight as [groups, outputs of a group, inputs]; a copy."""
    node = product.node
    if node.op_type == "Conv":
        groups = int_of(node, "group", 1)
        return np.array(weight.reshape(groups, weight.shape[0] // groups, -1))
    transposed = node.op_type == "Gemm" and int_of(node, "transB")
    return np.array(weight if transposed else weight.T)[None]


def with_matrix(product: Product, rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """What `matrix` made of a weight of `shape`, undone."""
    node = product.node
    if node.op_type == "Conv" or (node.op_type == "Gemm" and int_of(node, "transB")):
        return rows.reshape(shape)
    return np.ascontiguousarray(rows[0].T)


def descended(product: Product, weight: np.ndarray, scale: np.ndarray, H: np.ndarray, limit: int = 127) -> np.ndarray:
    """The integers of `weight` that `rounding.descent` finds, int8 of its shape.

    Args:
        product: the layer; it `has_gram`.
        weight: its floats.
        scale: for each output channel, or one.
        H: its matrices, as `grams` gives them.
        limit: the largest integer, by size.
    """
    rows = matrix(product, weight)
    scales = np.broadcast_to(scale, len(rows) * len(rows[0])).reshape(len(rows), -1)
    chosen = [descent(W, s, h, limit) for W, s, h in zip(rows, scales, H, strict=True)]
    return with_matrix(product, np.stack(chosen), weight.shape)


def grams(model: ir.Model, products: Sequence[Product], data: Data) -> Iterator[tuple[Product, np.ndarray]]:
    """For each product that `has_gram` its matrices [groups, inputs, inputs], float64.

    They are made a few at a time, as memory allows.
    """
    wanted = [product for product in products if has_gram(product)]
    for _, some in groupby(_portions(wanted), lambda pair: pair[0]):
        yield from _run(model, [product for _, product in some], data)


def _portions(products: Sequence[Product]) -> Iterator[tuple[int, Product]]:
    """Each product with the number of the run that it belongs to."""
    number, used = 0, 0
    for product in products:
        shape = matrix(product, np.empty(_shape(product), np.int8)).shape
        size = 8 * shape[0] * shape[2] ** 2
        if used and used + size > _BUDGET:
            number, used = number + 1, 0
        used += size
        yield number, product


def _shape(product: Product) -> tuple[int, ...]:
    shape = product.node.inputs[product.weight or 0].shape  # type: ignore[union-attr]
    assert shape is not None
    return tuple(int(dim) for dim in shape)  # type: ignore[arg-type]


def _run(model: ir.Model, products: Sequence[Product], data: Data) -> Iterator[tuple[Product, np.ndarray]]:
    sums: dict[int, np.ndarray] = {}
    counts = dict.fromkeys(range(len(products)), 0)
    names = [str(product.node.inputs[product.data[0]].name) for product in products]  # type: ignore[union-attr]
    for values in activations(model, names, data, QUIET):
        for number, (product, name) in enumerate(zip(products, names)):
            rows = windows(product, np.asarray(values[name]))
            counts[number] += rows.shape[1]
            found = np.matmul(rows.transpose(0, 2, 1), rows).astype(np.float64)
            sums[number] = sums[number] + found if number in sums else found
    for number, product in enumerate(products):
        yield product, sums.pop(number) / max(counts[number], 1)


def windows(product: Product, x: np.ndarray, most: int = WINDOWS) -> np.ndarray:
    """What the weights are multiplied by, [groups, rows, inputs] float32: at most `most` rows, evenly spread."""
    if product.node.op_type != "Conv":
        rows = x.reshape(-1, x.shape[-1])
        return rows[_spread(len(rows), most)][None]
    kernel = _shape(product)[2:]
    stride, dilation = (product.node.attributes.get_ints(key, [1] * len(kernel)) for key in ("strides", "dilations"))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation)]
    x = np.pad(x, [(0, 0), (0, 0), *_pads(product.node, x.shape[2:], reach, stride)])
    axes = tuple(range(2, x.ndim))
    seen = np.lib.stride_tricks.sliding_window_view(x, reach, axis=axes)  # [n, c, *out, *reach]
    seen = seen[(slice(None), slice(None), *(slice(None, None, s) for s in stride),
                 *(slice(None, None, d) for d in dilation))]  # fmt: skip
    seen = np.moveaxis(seen, 1, len(kernel) + 1)  # [n, *out, c, *kernel]
    place = np.unravel_index(_spread(int(np.prod(seen.shape[: len(kernel) + 1])), most), seen.shape[: len(kernel) + 1])
    groups = int_of(product.node, "group", 1)
    rows = seen[place]
    return np.ascontiguousarray(rows.reshape(len(rows), groups, -1).transpose(1, 0, 2))


def _spread(count: int, most: int) -> np.ndarray:
    return np.arange(count) if count <= most else np.linspace(0, count - 1, most).astype(np.int64)


def _pads(node: ir.Node, sizes: Sequence[int], reach: Sequence[int], stride: Sequence[int]) -> list[tuple[int, int]]:
    """Padding before and after each spatial axis."""
    automatic = node.attributes.get_string("auto_pad", "NOTSET")
    rank = len(reach)
    if automatic in ("NOTSET", "VALID"):
        pads = node.attributes.get_ints("pads", [0] * 2 * rank) if automatic == "NOTSET" else [0] * 2 * rank
        return [(pads[axis], pads[axis + rank]) for axis in range(rank)]
    found = []
    for size, r, s in zip(sizes, reach, stride):
        total = max((-(-size // s) - 1) * s + r - size, 0)
        less, more = total // 2, total - total // 2
        found.append((less, more) if automatic == "SAME_UPPER" else (more, less))
    return found

"""``smooth-quant``: outliers of activations move into the weights that read them; the model computes what it did.

Channel j of a normalised value is divided by ``s_j = max|x_j| ** alpha / max|w_j| ** (1 - alpha)`` (by the scale and
shift of the normalisation, at no cost) and row j of the weights is multiplied by it. G. Xiao et al., "SmoothQuant",
arXiv:2211.10438. Needs data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sardonyx.optimizer.activations import activations
from sardonyx.optimizer.quantize.feeds import QUIET, calibration_data
from sardonyx.optimizer.quantize.graph import (
    add_constant,
    add_node,
    array_of,
    consumers,
    editable,
    finish,
    int_of,
    is_op,
    summary,
    unknown,
)
from sardonyx.optimizer.quantize.parameters import between
from sardonyx.optimizer.step import Applied, Context, Step, step

__all__ = ["SmoothQuant"]


@dataclass
class _Group:
    """A value, the products that read it, and where a factor for each channel can go.

    Attributes:
        value: [..., channels].
        products: MatMul and Gemm with a constant on the right.
        places: (node, position) of the constants that are divided, vectors of the channels.
        insert: the value is read elsewhere, too, or computed otherwise: a Mul is put in front of the products.
    """

    value: ir.Value
    products: list[ir.Node]
    places: list[tuple[ir.Node, int]]
    insert: bool


@step("smooth-quant")
@dataclass(frozen=True)
class SmoothQuant(Step):
    """SmoothQuant.

    Attributes:
        alpha: how much of the difficulty moves to the weights, 0 ... 1.
        insert: where the factor cannot go into a normalisation (its value is read elsewhere, too), insert a Mul.
        skip: names of products that keep their weights.
    """

    alpha: float = 0.5
    insert: bool = False
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        between("alpha", self.alpha, 0, 1)

    def apply(self, model: ir.Model, context: Context) -> Applied:
        """See `Step.apply`."""
        work = editable(model)
        groups, notes = self._groups(work)
        notes = [*unknown(work, self.skip), *notes]
        if not groups:
            return Applied(model, False, [*notes, "there is no normalised value that only products read"])
        data = calibration_data(work, context, notes)
        context.progress("ranges of channels")
        names = [str(group.value.name) for group in groups]
        largest: dict[str, np.ndarray] = {}
        for values in activations(work, names, data, QUIET):
            for name, array in values.items():
                now = np.max(np.abs(array.reshape(-1, array.shape[-1])), axis=0, initial=0.0)
                largest[name] = np.maximum(largest.get(name, 0.0), now)
        for group, name in zip(groups, names):
            self._smooth(work.graph, group, largest[name])
        return Applied(finish(work), True, [*notes, f"{len(groups)} values are smoothed"])

    def _groups(self, model: ir.Model) -> tuple[list[_Group], list[str]]:
        by_value: dict[ir.Value, list[ir.Node]] = {}
        for node in model.graph:
            if _is_product(node) and node.name not in self.skip:
                by_value.setdefault(node.inputs[0], []).append(node)  # type: ignore[arg-type]
        groups, kept = [], list[tuple[str, str]]()
        for value, products in by_value.items():
            places = _places(value, _weight_rows(products[0]).shape[0])
            alone = len(consumers(value)) == len(products) and not value.is_graph_output()
            if places and alone:
                groups.append(_Group(value, products, places, False))
            elif places and self.insert:
                groups.append(_Group(value, products, [], True))
            elif places:
                kept.append((str(value.name), "it is read elsewhere, too"))
        return groups, summary(kept, "unsmoothed")

    def _smooth(self, graph: ir.Graph, group: _Group, largest: np.ndarray) -> None:
        weights = np.max([np.max(np.abs(_weight_rows(node)), axis=1) for node in group.products], axis=0)
        alive = (largest > 0) & (weights > 0)
        x, w = np.where(alive, largest, 1.0), np.where(alive, weights, 1.0)
        factor = np.where(alive, x.astype(np.float64) ** self.alpha / w.astype(np.float64) ** (1 - self.alpha), 1.0)
        for node in group.products:
            value, array = node.inputs[1], array_of(node.inputs[1])
            assert value is not None
            assert array is not None
            axis = 1 if is_op(node, "Gemm") and int_of(node, "transB") else 0
            scaled = array * np.expand_dims(factor, 1 - axis)
            node.replace_input_with(1, add_constant(graph, f"{value.name}.smooth", scaled.astype(np.float32)))
        for node, at in group.places:
            value, array = node.inputs[at], array_of(node.inputs[at])
            assert value is not None
            assert array is not None
            divided = (array / factor).astype(np.float32)
            node.replace_input_with(at, add_constant(graph, f"{value.name}.smooth", divided))
        if group.insert:
            name = f"{group.value.name}.smooth"
            inverse = add_constant(graph, f"{name}.factor", (1 / factor).astype(np.float32))
            smooth = add_node(group.products[0], "Mul", [group.value, inverse], name, like=group.value)
            for node in group.products:
                node.replace_input_with(0, smooth)


def _is_product(node: ir.Node) -> bool:
    if not is_op(node, "MatMul", "Gemm") or (is_op(node, "Gemm") and int_of(node, "transA")):
        return False
    array = array_of(node.inputs[1])
    return array is not None and array.dtype == np.float32 and array.ndim == 2 and bool(np.isfinite(array).all())


def _weight_rows(node: ir.Node) -> np.ndarray:
    """[inputs, outputs]."""
    array = array_of(node.inputs[1])
    assert array is not None
    return array.T if is_op(node, "Gemm") and int_of(node, "transB") else array


def _places(value: ir.Value, channels: int) -> list[tuple[ir.Node, int]]:
    """The constants that scale and shift `value`: of a normalisation, or of the Mul and Add that spell one out."""
    node = value.producer()
    if is_op(node, "LayerNormalization", "RMSNormalization"):
        assert node is not None
        places = [(node, at) for at in (1, 2) if at < len(node.inputs) and node.inputs[at] is not None]
        last = node.attributes.get_int("axis", -1)
        rank = None if value.shape is None else len(value.shape)
        if last not in (-1, None if rank is None else rank - 1):
            return []
    else:
        shift = _operand(node, "Add", channels)
        places = [] if node is None or shift is None else [(node, shift)]
        if places:
            assert node is not None
            inner = node.inputs[1 - places[0][1]]
            if inner is None or len(consumers(inner)) != 1 or inner.is_graph_output():
                return []
            node = inner.producer()
        scale = _operand(node, "Mul", channels)
        if node is None or scale is None:
            return []
        places.append((node, scale))
    arrays = [array_of(where.inputs[at]) for where, at in places]
    fits = all(a is not None and a.dtype == np.float32 and a.shape == (channels,) for a in arrays)
    return places if fits else []


def _operand(node: ir.Node | None, operator: str, channels: int) -> int | None:
    """The position of the constant vector of an Add or Mul."""
    if node is None or not is_op(node, operator):
        return None
    for at, value in enumerate(node.inputs):
        array = array_of(value)
        if array is not None and array.shape == (channels,):
            return at
    return None

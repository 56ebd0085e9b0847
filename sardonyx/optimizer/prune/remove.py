"""Take units out of a graph: weights lose rows, and what counts channels in a node is counted anew."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from sardonyx.optimizer.prune.flow import Axis, Flow
from sardonyx.optimizer.prune.rules import known, number, sliced
from sardonyx.optimizer.tidy import constant

__all__ = ["Removal", "remove"]


class Removal:
    """The units that go, and what is left of each axis."""

    def __init__(self, flow: Flow, removed: np.ndarray):
        self.flow = flow
        self._masks: dict[Axis, np.ndarray] = {}
        for value, axis in flow.axes:
            units = flow.units(value, axis)
            mask = ~removed[np.where(units >= 0, units, 0)] | (units < 0)
            if not mask.all():
                self._masks[value, axis] = mask

    def mask(self, value: ir.Value | None, axis: int) -> np.ndarray | None:
        """True for the indices that stay; None: all do."""
        shape = self.flow.shape(value)
        return None if value is None or not shape else self._masks.get((value, axis % len(shape)))

    def changed(self, value: ir.Value | None) -> dict[int, np.ndarray]:
        """The axes of `value` that lose something -> what stays."""
        return {axis: mask for (each, axis), mask in self._masks.items() if each is value}

    @property
    def values(self) -> set[ir.Value]:
        """Values that lose something."""
        return {value for value, _ in self._masks}


def remove(flow: Flow, removed: np.ndarray) -> Removal:
    """Remove units from the model of `flow`, in place.

    Args:
        flow: the units.
        removed: for each number of a unit whether it goes.
    """
    removal = Removal(flow, removed)
    for node in list(flow.model.graph):
        if node.op_type in REWRITES and not node.domain:
            REWRITES[node.op_type](removal, node)
    for value in removal.values:
        if value.const_value is not None:
            array = value.const_value.numpy()
            for axis, mask in removal.changed(value).items():
                array = np.compress(mask, array, axis)
            value.const_value = ir.Tensor(np.ascontiguousarray(array), name=value.name)
            value.shape = ir.Shape(array.shape)
        elif value.shape is not None:
            sizes = {axis: int(mask.sum()) for axis, mask in removal.changed(value).items()}
            value.shape = ir.Shape([sizes.get(axis, dim) for axis, dim in enumerate(value.shape)])
    return removal


Rewrite = Callable[[Removal, ir.Node], None]
REWRITES: dict[str, Rewrite] = {}


def rewrite(*operators: str) -> Callable[[Rewrite], Rewrite]:
    """Enter what is to be done to a node."""

    def enter(function: Rewrite) -> Rewrite:
        REWRITES.update(dict.fromkeys(operators, function))
        return function

    return enter


@rewrite("Conv", "ConvTranspose")
def groups(removal: Removal, node: ir.Node) -> None:
    """Where whole groups go, there are fewer; where a channel of each goes, there are as many."""
    count, x, w = number(node, "group", 1), node.inputs[0], node.inputs[1]
    mask, shape = removal.mask(x, 1), removal.flow.shape(x)
    if count == 1 or mask is None or shape is None:
        return
    if removal.mask(w, 1) is None:
        node.attributes["group"] = ir.AttrInt64("group", int(mask.sum()) * count // shape[1])


@rewrite("LSTM", "GRU", "RNN")
def hidden(removal: Removal, node: ir.Node) -> None:
    """The number of hidden units."""
    mask = removal.mask(node.inputs[2], 2)
    if mask is not None:
        node.attributes["hidden_size"] = ir.AttrInt64("hidden_size", int(mask.sum()))


@rewrite("Split")
def parts(removal: Removal, node: ir.Node) -> None:
    """Sizes of the parts."""
    axis = number(node, "axis", 0) % len(removal.flow.shape(node.inputs[0]) or (0,))
    if removal.mask(node.inputs[0], axis) is None:
        return
    sizes = []
    for output in node.outputs:
        mask, shape = removal.mask(output, axis), removal.flow.shape(output)
        assert shape is not None
        sizes.append(shape[axis] if mask is None else int(mask.sum()))
    if "split" in node.attributes:
        node.attributes["split"] = ir.AttrInt64s("split", sizes)
        return
    node.attributes.pop("num_outputs", None)
    node.resize_inputs(2)
    node.replace_input_with(1, constant(removal.flow.model, f"{node.name}.sizes", np.array(sizes, np.int64)))


@rewrite("Slice")
def stretch(removal: Removal, node: ir.Node) -> None:
    """Where stretches begin and end: how many indices before them are left."""
    cuts = sliced(removal.flow, node)
    masks = {axis: removal.mask(node.inputs[0], axis) for axis in cuts or {}}
    if cuts is None or all(mask is None for mask in masks.values()):
        return
    starts: list[int] = []
    ends: list[int] = []
    steps: list[int] = []
    for axis, taken in cuts.items():
        mask = masks[axis]
        start, stop = taken.start, taken.stop
        if mask is not None:
            start, stop = int(mask[:start].sum()), int(mask[:stop].sum())
        elif taken.step < 0 and stop < 0:
            stop = -(2**31)
        starts, ends, steps = [*starts, start], [*ends, stop], [*steps, taken.step]
    values = {"starts": starts, "ends": ends, "axes": list(cuts), "steps": steps}
    if "starts" in node.attributes:
        for name in ("starts", "ends", "axes"):
            node.attributes[name] = ir.AttrInt64s(name, values[name])
        return
    node.resize_inputs(5)
    for position, (name, numbers) in enumerate(values.items(), 1):
        fresh = constant(removal.flow.model, f"{node.name}.{name}", np.array(numbers, np.int64))
        node.replace_input_with(position, fresh)


@rewrite("Gather")
def indices(removal: Removal, node: ir.Node) -> None:
    """Numbers of indices that are left."""
    axis = number(node, "axis", 0) % len(removal.flow.shape(node.inputs[0]) or (0,))
    mask, values = removal.mask(node.inputs[0], axis), known(removal.flow, node, 1)
    if mask is None or values is None:
        return
    values = values % len(mask)
    values = (np.cumsum(mask) - 1)[values[mask[values]]]
    node.replace_input_with(1, constant(removal.flow.model, f"{node.name}.indices", values.astype(np.int64)))


@rewrite("Reshape", "Expand", "Resize", "ConstantOfShape")
def target(removal: Removal, node: ir.Node) -> None:
    """Sizes that are written down; those that are computed follow by themselves."""
    place = {"Reshape": 1, "Expand": 1, "Resize": 3, "ConstantOfShape": 0}[node.op_type]
    wanted = node.inputs[place] if place < len(node.inputs) else None
    changed = removal.changed(node.outputs[0])
    values = removal.flow.shapes.known.get(wanted) if wanted is not None else None
    if wanted is None or values is None or not changed:
        return
    shift = len(removal.flow.shape(node.outputs[0]) or ()) - len(values)
    sizes = {axis - shift: int(mask.sum()) for axis, mask in changed.items() if axis >= shift}
    written = {axis: size for axis, size in sizes.items() if values[axis] > 0}
    fresh = _with_sizes(removal.flow, wanted, written)
    if fresh is not wanted:
        node.replace_input_with(place, fresh)


def _with_sizes(flow: Flow, value: ir.Value, sizes: dict[int, int]) -> ir.Value:
    """`value`, a list of sizes, with some of them replaced where they are constants."""
    if not sizes:
        return value
    if value.const_value is not None:
        array = flow.shapes.known[value].copy()
        array[list(sizes)] = list(sizes.values())
        return constant(flow.model, f"{value.name}.pruned", array)
    node = value.producer()
    if node is None or node.op_type != "Concat":
        return value
    start, pieces = 0, []
    for piece in node.inputs:
        assert piece is not None
        length = len(flow.shapes.known[piece])
        inside = {axis - start: size for axis, size in sizes.items() if start <= axis < start + length}
        pieces.append(_with_sizes(flow, piece, inside))
        start += length
    if all(new is old for new, old in zip(pieces, node.inputs, strict=True)):
        return value
    copy = ir.node("Concat", pieces, {"axis": 0}, name=f"{node.name}.pruned{len(node.outputs[0].uses())}")
    copy.outputs[0].name = f"{value.name}.pruned"
    flow.shapes.known[copy.outputs[0]] = flow.shapes.known[value]
    flow.model.graph.insert_after(node, copy)
    return copy.outputs[0]

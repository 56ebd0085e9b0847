"""The step `prune-layers`: whole residual blocks go, until a share of the work is gone.

A block is what lies between a value and the Add that adds it to what was made of it: ``y = x + f(x)``. Without the
block, y is x. What is lost is the energy of f(x) as a share of that of y, on calibration data; the layers that follow
are then fitted anew as after the removal of channels.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sardonyx.compiler.arithmetic import RULES as OPERATIONS
from sardonyx.errors import InputError, OptimizationError
from sardonyx.model import load
from sardonyx.model.prepare import remove_unused
from sardonyx.ops.node import Node
from sardonyx.optimizer.activations import activations
from sardonyx.optimizer.data import Data
from sardonyx.optimizer.products import Product, find_products
from sardonyx.optimizer.prune.reconstruct import affected, reconstruct
from sardonyx.optimizer.shapes import Shapes, sizes_of
from sardonyx.optimizer.step import Applied, Context, Step, step
from sardonyx.optimizer.tidy import tidied
from sardonyx.runtime.options import SessionOptions

__all__ = ["Block", "PruneLayers", "blocks"]


@dataclass(frozen=True)
class Block:
    """A residual block.

    Attributes:
        add: the Add at its end.
        around: what goes around it, x.
        made: what it adds, f(x).
        nodes: the nodes that nothing else needs.
    """

    add: ir.Node
    around: ir.Value
    made: ir.Value
    nodes: frozenset[ir.Node]


@step("prune-layers")
@dataclass(frozen=True)
class PruneLayers(Step):
    """Remove residual blocks, those first that lose least for what they save.

    Attributes:
        flops: share of the multiply-adds of the model's products to remove, 0 to 1.
        loss: share of the energy of a block's output that may be lost with it at most.
        reconstruct: fit the weights of the layers that follow anew by least squares.
    """

    flops: float = 0.2
    loss: float = 0.5
    reconstruct: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.flops < 1 or not 0 < self.loss <= 1:
            raise InputError("prune-layers needs flops and loss between 0 and 1")

    def apply(self, model: ir.Model, context: Context) -> Applied:
        """Remove.

        Raises:
            OptimizationError: there is no data to judge blocks by.
        """
        if context.data is None or not len(context.data):
            raise OptimizationError("whole layers cannot be judged without data", hint="Give calibration data.")
        original = tidied(model)
        pruned = load(original)
        shapes = Shapes(pruned, sizes_of(pruned, context.data.feeds[0]))
        found = [block for block in blocks(pruned) if shapes.of(block.around) == shapes.of(block.made)]
        work = {node: _work(node, shapes) for node in pruned.graph}
        losses = _losses(pruned, found, context.data)
        total, gone = sum(work.values()), 0.0
        names: list[str] = []
        touched: set[ir.Node] = set()
        saved = {block: sum(work[node] for node in block.nodes) for block in found}
        for block in sorted(found, key=lambda each: losses[each] / max(saved[each], 1.0)):
            small = gone + saved[block] <= self.flops * total and saved[block] > 0
            if not small or losses[block] > self.loss or touched & {*block.nodes, block.add}:
                continue
            names.append(f"{block.add.name} ({losses[block]:.1%})")
            touched |= {*block.nodes, block.add}
            gone += saved[block]
        if not names:
            return Applied(load(model), False, [f"none of {len(found)} residual blocks can go within flops and loss"])
        after = {str(user.name) for each in found if each.add in touched for user in each.add.outputs[0].consumers()}
        for block in found:
            if block.add in touched:
                block.add.outputs[0].replace_all_uses_with(block.around)
        remove_unused(pruned)
        notes = [f"removed {gone / total:.1%}: {len(names)} of {len(found)} residual blocks: {', '.join(names)}"]
        if self.reconstruct:
            followers = affected(pruned, after) & {product.name for product in find_products(pruned)}
            fits = reconstruct(
                original, pruned, followers, _all, context.data, seed=context.seed, progress=context.progress
            )
            notes.append(f"fitted {len(fits)} layers")
        return Applied(pruned, True, notes)


def blocks(model: ir.Model) -> list[Block]:
    """Residual blocks of the main graph; those whose end is an output of the model are none."""
    places = {node: place for place, node in enumerate(model.graph)}
    found = []
    for node in model.graph:
        if node.op_type != "Add" or node.domain or node.outputs[0].is_graph_output():
            continue
        for around, made in (node.inputs, tuple(node.inputs)[::-1]):
            if around is None or made is None or around is made or around.const_value is not None:
                continue
            nodes = _only_for(made, places)
            if nodes and any(around in each.inputs for each in nodes) and around.producer() not in nodes:
                found.append(Block(node, around, made, frozenset(nodes)))
                break
    return found


def _only_for(made: ir.Value, places: dict[ir.Node, int]) -> set[ir.Node]:
    """The nodes that are needed for `made` and for nothing else."""
    producer = made.producer()
    if producer is None or producer not in places or len(made.uses()) != 1 or made.is_graph_output():
        return set()
    nodes = {producer}
    pending = [value.producer() for value in producer.inputs if value is not None]
    pending.sort(key=lambda each: -1 if each is None else places.get(each, -1))
    while pending:
        node = pending.pop()  # the latest first: all that use it were seen
        if node is None or node in nodes or node not in places:
            continue
        alone = all(not v.is_graph_output() and all(user in nodes for user in v.consumers()) for v in node.outputs)
        if alone:
            nodes.add(node)
            pending += [value.producer() for value in node.inputs if value is not None]
            pending.sort(key=lambda each: -1 if each is None else places.get(each, -1))
    return nodes


def _losses(model: ir.Model, found: list[Block], data: Data) -> dict[Block, float]:
    """The energy that each block brings, as a share of that of its output."""
    energy: dict[Block, list[float]] = defaultdict(lambda: [0.0, 0.0])
    names = [str(value.name) for block in found for value in (block.made, block.add.outputs[0])]
    for values in activations(model, names, data, SessionOptions(cache=False, progress=False)) if names else ():
        for block in found:
            for place, value in enumerate((block.made, block.add.outputs[0])):
                energy[block][place] += float(np.square(values[str(value.name)], dtype=np.float64).sum())
    return {block: energy[block][0] / (energy[block][1] or 1.0) for block in found}


def _work(node: ir.Node, shapes: Shapes) -> float:
    if node.op_type not in OPERATIONS:
        return 0.0
    sides = [[shapes.of(value) or () for value in side] for side in (node.inputs, node.outputs)]
    try:
        return float(OPERATIONS[node.op_type](Node(node, 0), *sides))  # type: ignore[arg-type]
    except IndexError:
        return 0.0


def _all(product: Product) -> np.ndarray:
    return np.ones(product.weights.const_value.numpy().shape[product.output_axis], bool)  # type: ignore[union-attr]

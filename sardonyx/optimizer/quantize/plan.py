"""What of a graph becomes integers: the products, what lies between them, and which values share a scale.

Products (Conv, Gemm, MatMul) are what pays. Pooling, concatenation, sums and movement between two of them are computed
on integers as well, so that whole chains stay narrow. Functions of one value between two such nodes (Relu, GELU of any
number of nodes, a bias added) ask for nothing: they belong to the node before them; what comes out is rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from sardonyx.optimizer.quantize.graph import array_of, consumers, int_of, is_op, summary

__all__ = ["Choice", "Plan", "Product", "make_plan", "weight_axis"]

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# Their outputs are values of their input, or lie between them: input and output share one scale.
VIEWS = (
    "DepthToSpace", "Expand", "Flatten", "Gather", "GlobalMaxPool", "Identity", "MaxPool", "Pad", "Reshape", "Resize",
    "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
)  # fmt: skip
POOLS = ("AveragePool", "GlobalAveragePool", "ReduceMean")
JOINS = ("Add", "Concat", "Mul", "Sub")
FUNCTIONS = (
    "Abs", "Add", "BatchNormalization", "Celu", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish",
    "LeakyRelu", "Mish", "Mul", "Neg", "PRelu", "Pow", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Sub",
    "Swish", "Tanh", "ThresholdedRelu",
)  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """What the user wants to be quantised.

    Attributes:
        skip: names of nodes that stay in float.
        skip_first: so do the products that read the inputs of the model;
        skip_last: and those that its outputs come from.
        dynamic_products: MatMul of two values that are computed, as in attention.
        share_concat: the inputs of Concat have one scale, so that joining them is a copy.
        integer_outputs: round what each product gives even where a function follows, which ONNX Runtime's integer
            kernels need, unless it is Relu or Clip.
    """

    skip: tuple[str, ...] = ()
    skip_first: bool = False
    skip_last: bool = False
    dynamic_products: bool = False
    share_concat: bool = False
    integer_outputs: bool = False


@dataclass(frozen=True)
class Product:
    """A product to quantise.

    Attributes:
        node: the node.
        data: positions of its inputs that are computed.
        weight: position of the constant one; None: both are computed.
        bias: the constant bias, by position; None: none, or it stays in float.
    """

    node: ir.Node
    data: tuple[int, ...]
    weight: int | None
    bias: int | None


@dataclass
class Plan:
    """What becomes integers.

    Attributes:
        products: in order.
        values: what is rounded, in order, each with the nodes that are to read the rounded value.
        shared: value -> the value that stands for all that have the same scale.
        notes: what was left alone, and why.
    """

    products: list[Product] = field(default_factory=list)
    values: dict[ir.Value, list[ir.Node]] = field(default_factory=dict)
    shared: dict[ir.Value, ir.Value] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def root(self, value: ir.Value) -> ir.Value:
        """The value that stands for all that share a scale with `value`."""
        while value in self.shared:
            value = self.shared[value]
        return value

    def sources(self) -> dict[ir.Value, list[ir.Value]]:
        """For each root the values whose range decides: those that are no mere view of another one."""
        found: dict[ir.Value, list[ir.Value]] = {}
        for value in self.values:
            producer = value.producer()
            first = None if producer is None or not producer.inputs else producer.inputs[0]
            shared = first is not None and first in self.values and self.root(first) is self.root(value)
            if not (shared and (_view(producer) or is_op(producer, "Concat"))):
                found.setdefault(self.root(value), []).append(value)
        return found


def make_plan(model: ir.Model, choice: Choice) -> Plan:
    """What of the main graph of `model` (see `editable`) becomes integers. Types must be known."""
    plan, kept = Plan(), list[tuple[str, str]]()
    for node in model.graph:
        if node.op_type in PRODUCTS and not node.domain:
            found = _product(node, choice)
            if isinstance(found, Product):
                plan.products.append(found)
            else:
                kept.append((str(node.name), found))
    kept += _skip_ends(model, plan, choice)
    plan.notes += summary(kept)
    functions = _functions(model, choice)
    inside = _between({product.node for product in plan.products}, functions, model, choice)
    _demand(model, plan, inside, inside & functions, choice)
    _share(plan, inside, choice)
    _note_bodies(model, plan)
    return plan


# Products.


def weight_axis(product: Product) -> int | None:
    """The axis of the weight that counts output channels; None where there is none to be had.

    For a ConvTranspose in groups it counts those of one group, which share a scale with those of the others.
    """
    node, at = product.node, product.weight
    assert at is not None
    shape = node.inputs[at].shape  # type: ignore[union-attr]
    rank = 0 if shape is None else len(shape)
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    if node.op_type == "Gemm":
        return 0 if int_of(node, "transB") else 1
    return 1 if at == 1 and rank == 2 else None


def _product(node: ir.Node, choice: Choice) -> Product | str:
    """How to quantise `node`, or why not."""
    if node.name in choice.skip:
        return "as asked"
    x, w = node.inputs[0], node.inputs[1]
    for value in (x, w):
        if value is None or value.dtype is None:
            return "the type of an input is not known"
        if value.dtype != ir.DataType.FLOAT:
            return f"{value.name!r} is {value.dtype.name.lower()}, not float32"
    first, second = array_of(x), array_of(w)
    if first is not None and second is not None:
        return "both inputs are constants"
    if node.op_type == "MatMul" and first is None and second is None:
        return Product(node, (0, 1), None, None) if choice.dynamic_products else "both inputs are computed"
    if node.op_type != "MatMul" and second is None:
        return "its weight is no constant"
    if _is_rounded(x) or _is_rounded(w):
        return "it is quantised already"
    weight = 1 if second is not None else 0
    array = second if second is not None else first
    if array is None or array.size == 0:
        return "its weight is empty"
    if not np.isfinite(array).all():
        return "its weight holds NaN or infinity"
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    at = 2 if bias is not None and _plain_bias(node, bias) else None
    return Product(node, (1 - weight,), weight, at)


def _is_rounded(value: ir.Value | None) -> bool:
    return value is not None and is_op(value.producer(), "DequantizeLinear")


def _plain_bias(node: ir.Node, bias: ir.Value) -> bool:
    array = array_of(bias)
    if array is None or array.ndim != 1:
        return False
    if node.op_type == "ConvTranspose":
        return int_of(node, "group", 1) == 1  # else its length is not that of the weight's axis
    plain = all(node.attributes.get_float(key, 1.0) == 1.0 for key in ("alpha", "beta"))
    channels = weight_axis(Product(node, (0,), 1, None))
    assert channels is not None
    return plain and node.inputs[1].shape is not None and node.inputs[1].shape[channels] == array.size  # type: ignore[union-attr]


def _skip_ends(model: ir.Model, plan: Plan, choice: Choice) -> list[tuple[str, str]]:
    """Take the first and last products out of `plan`; their names, with the reason."""
    nodes = {product.node for product in plan.products}
    ends: dict[ir.Node, str] = {}
    if choice.skip_last:
        ends |= dict.fromkeys(_reach(model.graph.outputs, nodes, _before), "it is a last one")
    if choice.skip_first:
        ends |= dict.fromkeys(_reach(model.graph.inputs, nodes, consumers), "it is a first one")
    plan.products = [product for product in plan.products if product.node not in ends]
    return [(str(node.name), reason) for node, reason in ends.items()]


def _before(value: ir.Value) -> list[ir.Node]:
    producer = value.producer()
    return [] if producer is None else [producer]


def _reach(start: Iterable[ir.Value], ends: set[ir.Node], step: Callable[[ir.Value], list[ir.Node]]) -> list[ir.Node]:
    """The nodes of `ends` that can be reached without passing another one, in order of discovery."""
    pending, seen, found = list(start), set(start), dict[ir.Node, None]()
    while pending:
        for node in step(pending.pop()):
            if node in ends:
                found[node] = None
                continue
            further = node.outputs if step is consumers else [v for v in node.inputs if v is not None]
            fresh = [value for value in further if value not in seen]
            seen.update(fresh)
            pending += fresh
    return list(found)


# What lies between.


def _between(products: set[ir.Node], functions: set[ir.Node], model: ir.Model, choice: Choice) -> set[ir.Node]:
    """Products, and what may follow them and has one on either side."""
    candidates = products | functions | {node for node in model.graph if _may_follow(node, choice)}
    after, before = set(products), set(products)
    for node in model.graph:
        if node in candidates and any(producer in after for producer in _producers(node)):
            after.add(node)
    for node in reversed(model.graph):
        if node in candidates and any(reader in before for output in node.outputs for reader in consumers(output)):
            before.add(node)
    return after & before


def _producers(node: ir.Node) -> Iterator[ir.Node]:
    for value in node.inputs:
        producer = None if value is None else value.producer()
        if producer is not None:
            yield producer


def _may_follow(node: ir.Node, choice: Choice) -> bool:
    if not _is_float(node, choice) or _is_rounded(node.inputs[0]):
        return False
    return _view(node) or is_op(node, *POOLS) or is_op(node, *JOINS)


def _is_float(node: ir.Node, choice: Choice) -> bool:
    if node.name in choice.skip or not node.inputs or node.inputs[0] is None:
        return False
    values = [node.inputs[0], *(output for output in node.outputs if output.name)]
    return all(value.dtype == ir.DataType.FLOAT for value in values)


def _functions(model: ir.Model, choice: Choice) -> set[ir.Node]:
    """Nodes that, element by element, compute a function of one value, everything else being constant.

    GELU and SiLU are several nodes, and the value is read more than once: what counts is where all comes from.
    """
    found: set[ir.Node] = set()
    origin: dict[ir.Value, ir.Value] = {}
    for node in model.graph:
        if not is_op(node, *FUNCTIONS) or not _is_float(node, choice):
            continue
        computed = [value for value in node.inputs if value is not None and array_of(value) is None]
        origins = {origin.get(value, value) for value in computed}
        if len(origins) == 1:
            found.add(node)
            origin[node.outputs[0]] = origins.pop()
    return found


def _view(node: ir.Node | None) -> bool:
    """Whether no value that `node` gives lies outside of what its input can have."""
    if node is None or not is_op(node, *VIEWS):
        return False
    if node.op_type == "Pad":
        mode = node.attributes.get_string("mode", "constant")
        given = node.inputs[2] if len(node.inputs) > 2 else None
        fill = array_of(given)
        zero = node.attributes.get_float("value", 0.0) == 0.0 and (
            given is None or (fill is not None and not fill.any())
        )
        return mode != "constant" or zero
    if node.op_type == "Resize":
        linear = node.attributes.get_string("mode", "nearest") in ("nearest", "linear")
        inside = node.attributes.get_string("coordinate_transformation_mode", "half_pixel") != "tf_crop_and_resize"
        return linear and inside
    return True


def _demand(model: ir.Model, plan: Plan, inside: set[ir.Node], functions: set[ir.Node], choice: Choice) -> None:
    """Find the values to round: what the nodes `inside` that work on integers read, and what views of it give."""
    products = {product.node: product for product in plan.products}
    wanted: set[ir.Value] = set()
    for node in model.graph:
        if node in products:
            wanted.update(node.inputs[at] for at in products[node].data)  # type: ignore[misc]
        elif node in inside and node not in functions:
            data = [node.inputs[0]] if _view(node) or is_op(node, *POOLS) else list(node.inputs)
            wanted.update(value for value in data if value is not None and array_of(value) is None)
            wanted.update(node.outputs if _view(node) or is_op(node, "Concat") else [])
        if choice.integer_outputs and node in products and _needs_output(node, inside):
            wanted.add(node.outputs[0])
    for value in [*model.graph.inputs, *(output for node in model.graph for output in node.outputs)]:
        if value in wanted:
            plan.values[value] = [node for node in consumers(value) if node in inside and node.graph is model.graph]


def _needs_output(node: ir.Node, inside: set[ir.Node]) -> bool:
    readers = consumers(node.outputs[0])
    return any(reader in inside for reader in readers) and not all(is_op(reader, "Relu", "Clip") for reader in readers)


def _share(plan: Plan, inside: set[ir.Node], choice: Choice) -> None:
    """Let inputs and outputs of views, and if asked of Concat, have one scale."""
    for node in dict.fromkeys(node for value in plan.values for node in (*_before(value), *plan.values[value])):
        if node not in inside:
            continue
        joined = choice.share_concat and is_op(node, "Concat")
        if not (joined or _view(node)):
            continue
        data = node.inputs if joined else node.inputs[:1]
        members = [value for value in (*data, *node.outputs) if value is not None and value in plan.values]
        for value in members[1:]:
            first, other = plan.root(members[0]), plan.root(value)
            if first is not other:
                plan.shared[other] = first


def _note_bodies(model: ir.Model, plan: Plan) -> None:
    inner = [n for graph in model.graph.subgraphs() for n in graph if is_op(n, *PRODUCTS)]
    if inner:
        plan.notes.append(f"{len(inner)} products inside of If, Loop or Scan stay in float, {inner[0].name!r} for one")

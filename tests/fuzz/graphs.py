"""Random valid graphs: node after node, each evaluated by the reference as soon as it is added.

A node that the reference refuses is dropped, so a maker may propose what does not always make sense.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from sardonyx.errors import SardonyxError
from sardonyx.runtime.reference import run_node

OPSETS = (18, 20, 21)
MOST_ELEMENTS = 6000
SIZES = (1, 2, 3, 4, 5, 7, 13, 17)
SPECIAL = (np.nan, np.inf, -np.inf, -0.0, 0.0, 1e30, -1e30, 1e-40)
FLOATS = ("float32", "float64", "float16")
INTEGERS = ("int64", "int32", "uint8", "int8")
# Operators that compute in floating point, where native code may round differently than the reference.
ROUNDING = frozenset(
    "Add Sub Mul Div Pow Sqrt Exp Log Sigmoid Tanh Erf Softplus Reciprocal Elu HardSigmoid Softsign Sin Cos Gelu "
    "HardSwish LeakyRelu ReduceSum ReduceMean ReduceProd ReduceL1 ReduceL2 ReduceLogSumExp ReduceSumSquare Softmax "
    "LogSoftmax LayerNormalization MatMul Gemm Conv ConvTranspose AveragePool GlobalAveragePool BatchNormalization "
    "InstanceNormalization CumSum Resize If Loop Cast Sum Mean Einsum".split()
)


@dataclass
class Graph:
    """A model in the making, with the value of everything in it.

    Attributes:
        number: decides all choices.
        nodes: in order.
        feeds, weights: values of inputs and initializers.
        values: all values by name.
        names: for each input, its dims as declared: a symbol for some.
    """

    number: int
    opset: int = 21
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    feeds: dict[str, np.ndarray] = field(default_factory=dict)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    values: dict[str, np.ndarray] = field(default_factory=dict)
    names: dict[str, list[int | str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.number)
        self.numpy = np.random.default_rng(self.number)

    # Values.

    def array(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Random values, at times with special ones among them."""
        if dtype == "bool":
            return self.numpy.random(shape) < 0.5
        if dtype in INTEGERS:
            return self.numpy.integers(0 if dtype == "uint8" else -9, 10, shape).astype(dtype)
        values = np.asarray(self.numpy.standard_normal(shape) * self.rng.choice([1, 1, 3, 30]))
        if values.size and self.rng.random() < 0.15:
            values.reshape(-1)[self.numpy.integers(0, values.size, 3)] = self.rng.choices(SPECIAL, k=3)
        with np.errstate(all="ignore"):
            return values.astype(dtype)

    def shape(self, rank: int | None = None) -> tuple[int, ...]:
        rank = self.rng.choice([0, 1, 2, 2, 3, 3, 4]) if rank is None else rank
        sizes = [self.rng.choice(SIZES if self.rng.random() < 0.97 else (0,)) for _ in range(rank)]
        while np.prod(sizes, dtype=float) > MOST_ELEMENTS:
            sizes[self.rng.randrange(rank)] = 1
        return tuple(sizes)

    def new(self, shape: tuple[int, ...], dtype: str, *, constant: bool | None = None) -> str:
        """A new input or weight."""
        return self.put(self.array(shape, dtype), constant=constant)

    def put(self, array: np.ndarray, *, constant: bool | None = None) -> str:
        """`array` as a new input or weight."""
        constant = self.rng.random() < 0.5 if constant is None else constant
        held = self.weights if constant else self.feeds
        name = f"{'w' if constant else 'x'}{len(held)}"
        held[name] = self.values[name] = array
        if not constant:
            dynamic = self.rng.random() < 0.4
            self.names[name] = [f"d{n}" if dynamic and self.rng.random() < 0.7 else n for n in array.shape]
        return name

    def ints(self, *values: int) -> str:
        """A constant vector, as shapes and axes are; sometimes an input."""
        return self.put(np.array(values, np.int64), constant=self.rng.random() < 0.85)

    def pick(self, dtypes: tuple[str, ...] = FLOATS, rank: int | None = None, most: int = 9) -> str:
        """A value of one of `dtypes`, recent ones more often; a new one when there is none."""
        fitting = [
            name for name, array in self.values.items()
            if str(array.dtype) in dtypes and (rank is None or array.ndim == rank) and array.ndim <= most
        ]  # fmt: skip
        if not fitting or self.rng.random() < 0.1:
            return self.new(
                self.shape(rank), self.rng.choice(("float32", "float32", *dtypes) if dtypes == FLOATS else dtypes)
            )
        return self.rng.choice(fitting[-6:] if self.rng.random() < 0.7 else fitting)

    def of(self, name: str) -> np.ndarray:
        return self.values[name]

    def broadcastable(self, name: str) -> str:
        """Another value of the same type that broadcasts with `name`."""
        array = self.of(name)
        for other in self.rng.sample(list(self.values), min(len(self.values), 8)):
            if self.values[other].dtype == array.dtype and other != name:
                try:
                    np.broadcast_shapes(array.shape, self.values[other].shape)
                except ValueError:
                    continue
                return other
        shape = [1 if self.rng.random() < 0.3 else n for n in array.shape][self.rng.randint(0, array.ndim) :]
        return self.new(tuple(shape), str(array.dtype))

    # Nodes.

    def add(self, operator: str, inputs: list[str], outputs: int = 1, **attributes: object) -> list[str] | None:
        """Add a node if the reference can run it and its results are small."""
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        attributes = {key: value for key, value in attributes.items() if value != []}  # an empty list has no type
        node = helper.make_node(operator, inputs, names, name=f"n{len(self.nodes)}", **attributes)
        try:
            results = run_node(
                ir.from_proto(node), [self.values.get(n) for n in inputs], {"": self.opset}, captured=self.values
            )
        except SardonyxError:
            return None
        if any(
            not isinstance(r, np.ndarray | np.generic) or np.size(r) > MOST_ELEMENTS or np.ndim(r) > 6 for r in results
        ):
            return None
        self.nodes.append(node)
        self.values.update(zip(names, map(np.asarray, results), strict=True))
        return names

    def model(self, outputs: list[str] | None = None) -> onnx.ModelProto:
        """The model; without `outputs`, those values are outputs that nothing uses, and one other."""
        if outputs is None:
            made = [name for node in self.nodes for name in node.output]
            used = {name for node in self.nodes for name in node.input}
            outputs = [name for name in made if name not in used]
            outputs += [name for name in made if name in used][self.number % 5 :: 7]
        infos = [helper.make_tensor_value_info(n, _onnx(self.feeds[n]), self.names[n]) for n in self.feeds]
        results = [helper.make_tensor_value_info(n, _onnx(self.values[n]), None) for n in outputs]
        weights = [numpy_helper.from_array(array, name) for name, array in self.weights.items()]
        graph = helper.make_graph(self.nodes, "random", infos, results, weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9)


def _onnx(array: np.ndarray) -> int:
    return helper.np_dtype_to_tensor_dtype(array.dtype)


# ---- makers: each proposes one or a few nodes ------------------------------------------------------------


def unary(g: Graph) -> None:
    names = "Relu Sigmoid Tanh Exp Log Sqrt Abs Neg Floor Ceil Round Erf Softplus Reciprocal LeakyRelu Elu HardSigmoid"
    names += " Sign Sin Cos HardSwish Softsign IsNaN IsInf Identity" + " Gelu" * (g.opset >= 20)
    g.add(g.rng.choice(names.split()), [g.pick(("float32",) if g.rng.random() < 0.7 else FLOATS)])


def binary(g: Graph) -> None:
    a = g.pick(("float32",) if g.rng.random() < 0.6 else (*FLOATS, "int64", "int32"))
    operators = ["Add", "Sub", "Mul", "Max", "Min", "Less", "Greater", "Equal", "LessOrEqual", "GreaterOrEqual"]
    operators += ["Div", "Pow"] if g.of(a).dtype.kind == "f" else []
    pair = [a, g.broadcastable(a)]
    g.add(g.rng.choice(operators), g.rng.sample(pair, 2))


def integer(g: Graph) -> None:
    a = g.pick(INTEGERS)
    array = g.of(a)
    divisor = g.array(array.shape if g.rng.random() < 0.5 else (), str(array.dtype))
    divisor = np.where(divisor == 0, 3, divisor).astype(array.dtype)
    if array.dtype.kind == "i" and g.rng.random() < 0.8:
        g.add(g.rng.choice(["Div", "Mod"]), [a, g.put(divisor)])
    elif array.dtype == np.uint8:
        g.add("BitShift", [a, g.put(divisor % 8)], direction=g.rng.choice(["LEFT", "RIGHT"]))
    else:
        g.add(g.rng.choice(["BitwiseAnd", "BitwiseOr", "BitwiseXor", "Abs"][: 3 + (array.dtype.kind == "i")]),
              [a, g.broadcastable(a)])  # fmt: skip


def logical(g: Graph) -> None:
    a = g.pick(("bool",))
    if g.rng.random() < 0.3:
        g.add("Not", [a])
    elif g.rng.random() < 0.5:
        g.add(g.rng.choice(["And", "Or", "Xor"]), [a, g.broadcastable(a)])
    else:
        x = g.pick()
        c = g.new(np.shape(g.of(x))[g.rng.randint(0, g.of(x).ndim) :], "bool")
        g.add("Where", [c, x, g.broadcastable(x)])


def cast(g: Graph) -> None:
    x = g.pick((*FLOATS, *INTEGERS, "bool"))
    target = g.rng.choice((*FLOATS, *INTEGERS, "bool"))
    array = g.of(x)
    inside = array > -1 if target == "uint8" else np.abs(array) < 100
    if array.dtype.kind == "f" and target in INTEGERS and not np.all(inside & (np.abs(array) < 100)):
        return  # what the target cannot hold has no defined value
    g.add("Cast", [x], to=helper.np_dtype_to_tensor_dtype(np.dtype(target)))


def clip(g: Graph) -> None:
    x = g.pick()
    low, high = (g.put(np.asarray(value, g.of(x).dtype)) for value in (-1.5, 2.0))
    g.add("Clip", g.rng.choice([[x, low, high], [x, low], [x, "", high]]))


def transpose(g: Graph) -> None:
    x = g.pick((*FLOATS, "int64", "bool"))
    g.add("Transpose", [x], perm=g.rng.sample(range(g.of(x).ndim), g.of(x).ndim))


def reshape(g: Graph) -> None:
    x = g.pick((*FLOATS, "int64", "uint8"))
    left, shape = g.of(x).size, []
    while left > 1 and g.rng.random() < 0.8:
        divisors = [n for n in range(1, left + 1) if left % n == 0]
        shape.append(g.rng.choice(divisors))
        left //= shape[-1]
    shape.append(left)
    if g.of(x).size and g.rng.random() < 0.4:
        shape[g.rng.randrange(len(shape))] = -1
    kind = g.rng.randrange(4)
    if kind == 0:
        g.add("Flatten", [x], axis=g.rng.randint(0, g.of(x).ndim))
    elif kind == 1:
        g.add("Unsqueeze", [x, g.ints(g.rng.randint(-g.of(x).ndim - 1, g.of(x).ndim))])
    elif kind == 2 and 1 in g.of(x).shape:
        g.add("Squeeze", [x, g.ints(g.of(x).shape.index(1))])
    else:
        g.add("Reshape", [x, g.ints(*shape)])


def by_shape(g: Graph) -> None:
    """A shape computed in the graph."""
    x = g.pick(most=4)
    shape = g.add("Shape", [x])
    if shape is None or g.of(x).ndim == 0:
        return
    kind = g.rng.randrange(4)
    if kind == 0:
        first = g.add("Gather", [shape[0], g.ints(0)])
        g.add("Concat", [first[0], g.ints(-1)], axis=0)
        g.add("Reshape", [x, f"v{len(g.nodes) - 1}_0"])
    elif kind == 1:
        g.add("Expand", [g.new((1,), "float32"), shape[0]])
    elif kind == 2:
        g.add("ConstantOfShape", shape, value=numpy_helper.from_array(np.array([1.5], np.float32)))
    else:
        last = g.add("Gather", [shape[0], g.put(np.array(-1, np.int64), constant=True)])
        g.add(
            "Range", [g.put(np.array(0, np.int64), constant=True), last[0], g.put(np.array(1, np.int64), constant=True)]
        )


def slice_(g: Graph) -> None:
    x = g.pick((*FLOATS, "int64", "bool"))
    array = g.of(x)
    if not array.ndim:
        return
    axes = g.rng.sample(range(array.ndim), g.rng.randint(1, array.ndim))
    steps = [g.rng.choice([1, 1, 2, -1, -2, 3]) for _ in axes]
    starts = [g.rng.randint(-array.shape[axis] - 2, array.shape[axis] + 2) for axis in axes]
    ends = [g.rng.choice([g.rng.randint(-9, 9), 1 << 40, -(1 << 40)]) for _ in axes]
    g.add("Slice", [x, g.ints(*starts), g.ints(*ends), g.ints(*axes), g.ints(*steps)])


def concat(g: Graph) -> None:
    x = g.pick((*FLOATS, "int64"))
    if not g.of(x).ndim:
        return
    axis = g.rng.randrange(g.of(x).ndim)
    shape = list(g.of(x).shape)
    shape[axis] = g.rng.choice([1, 2, 3, 0])
    parts = [x, g.new(tuple(shape), str(g.of(x).dtype))] + [x] * g.rng.randint(0, 1)
    g.rng.shuffle(parts)
    g.add("Concat", parts, axis=axis - g.rng.choice([0, g.of(x).ndim]))


def split(g: Graph) -> None:
    x = g.pick((*FLOATS, "int64"))
    if not g.of(x).ndim or not max(g.of(x).shape) > 1:
        return
    axis = int(np.argmax(g.of(x).shape))
    first = g.rng.randint(0, g.of(x).shape[axis])
    g.add("Split", [x, g.ints(first, g.of(x).shape[axis] - first)], 2, axis=axis)


def pad(g: Graph) -> None:
    x = g.pick((*FLOATS, "int64"))
    mode = g.rng.choice(["constant", "constant", "reflect", "edge"])
    if 0 in g.of(x).shape and mode != "constant":
        return
    most = [2 if mode != "reflect" else min(2, n - 1) for n in g.of(x).shape]
    pads = [g.rng.randint(-1 if mode == "constant" and n > 1 else 0, m) for n, m in zip(g.of(x).shape * 2, most * 2)]
    g.add("Pad", [x, g.ints(*pads)], mode=mode)


def repeat(g: Graph) -> None:
    x = g.pick((*FLOATS, "int64", "bool"))
    if g.rng.random() < 0.5:
        g.add("Tile", [x, g.ints(*(g.rng.choice([1, 2, 3, 0 if g.rng.random() < 0.1 else 1]) for _ in g.of(x).shape))])
    else:
        shape = [g.rng.choice([1, 2]), *(g.rng.choice([n, 1]) if n != 1 else 3 for n in g.of(x).shape)]
        g.add("Expand", [x, g.ints(*shape)])


def gather(g: Graph) -> None:
    x = g.pick((*FLOATS, "int64", "bool"))
    array = g.of(x)
    if not array.ndim or 0 in array.shape:
        return
    axis = g.rng.randrange(array.ndim)
    extent = array.shape[axis]
    kind = g.rng.randrange(4)
    if kind == 0:
        shape = g.shape(g.rng.choice([0, 1, 2]))
        g.add("Gather", [x, g.put(g.numpy.integers(-extent, extent, shape))], axis=axis)
    elif kind == 1:
        g.add("GatherElements", [x, g.put(g.numpy.integers(-extent, extent, array.shape))], axis=axis)
    elif kind == 2:
        depth = g.rng.randint(1, array.ndim)
        index = [g.numpy.integers(-n, n, (3,)) for n in array.shape[:depth]]
        g.add("GatherND", [x, g.put(np.stack(index, -1))])
    else:
        condition = g.put(g.numpy.random(extent) < 0.6)
        g.add("Compress", [x, condition], axis=axis)


def scatter(g: Graph) -> None:
    x = g.pick((*FLOATS, "int64"))
    array = g.of(x)
    if not array.ndim or 0 in array.shape:
        return
    axis = g.rng.randrange(array.ndim)
    if g.rng.random() < 0.5:
        order = np.argsort(g.numpy.random(array.shape), axis=axis)  # each place at most once: the order is not defined
        part = order[tuple(slice(0, n) if a != axis else slice(0, max(1, n // 2)) for a, n in enumerate(array.shape))]
        updates = g.array(part.shape, str(array.dtype))
        options = {"reduction": g.rng.choice(["none", "add", "mul", "max", "min"])} if g.rng.random() < 0.4 else {}
        g.add("ScatterElements", [x, g.put(part.astype(np.int64)), g.put(updates)], axis=axis, **options)
    else:
        rows = g.numpy.permutation(array.shape[0])[:2].reshape(-1, 1)
        updates = g.array((len(rows), *array.shape[1:]), str(array.dtype))
        g.add("ScatterND", [x, g.put(rows.astype(np.int64)), g.put(updates)])


def reduction(g: Graph) -> None:
    x = g.pick((*FLOATS, "int64") if g.rng.random() < 0.3 else FLOATS)
    rank = g.of(x).ndim
    names = ["ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSumSquare", "ReduceL1"]
    names += ["ReduceMean", "ReduceL2", "ReduceLogSumExp"] if g.of(x).dtype.kind == "f" else []
    axes = g.rng.sample(range(-rank, 0), g.rng.randint(0, rank))
    inputs = [x, g.put(np.array(axes, np.int64), constant=True)] if axes or g.rng.random() < 0.5 else [x]
    g.add(g.rng.choice(names), inputs, keepdims=g.rng.randint(0, 1), noop_with_empty_axes=g.rng.choice([0, 0, 1]))


def along_axis(g: Graph) -> None:
    x = g.pick()
    rank = g.of(x).ndim
    if not rank:
        return
    axis = g.rng.randrange(-rank, rank)
    kind = g.rng.randrange(5)
    if kind < 2:
        g.add(g.rng.choice(["Softmax", "LogSoftmax"]), [x], axis=axis)
    elif kind == 2:
        options = {"exclusive": g.rng.randint(0, 1), "reverse": g.rng.randint(0, 1)}
        g.add("CumSum", [x, g.put(np.array(axis, np.int64), constant=True)], **options)
    elif kind == 3:
        g.add(g.rng.choice(["ArgMax", "ArgMin"]), [x], axis=axis, keepdims=g.rng.randint(0, 1))
    elif g.of(x).size and not np.isnan(g.of(x)).any():
        k = g.rng.randint(1, g.of(x).shape[axis])
        g.add("TopK", [x, g.ints(k)], 2, axis=axis, largest=g.rng.randint(0, 1))


def layer_norm(g: Graph) -> None:
    x = g.pick(("float32", "float64"))
    if g.of(x).ndim and g.of(x).size:
        scale = g.new(g.of(x).shape[-1:], str(g.of(x).dtype))
        g.add("LayerNormalization", [x, scale] + [scale] * g.rng.randint(0, 1), axis=-1)


def matmul(g: Graph) -> None:
    a = g.pick(("float32",) if g.rng.random() < 0.8 else (*FLOATS, "int64"))
    array = g.of(a)
    if not array.ndim:
        return
    n = g.rng.choice(SIZES)
    batch = array.shape[:-2] if g.rng.random() < 0.4 else g.rng.choice([(), (), (2,), (1,)])
    shape = (array.shape[-1],) if g.rng.random() < 0.1 else (*batch, array.shape[-1], n)
    b = g.new(shape, str(array.dtype))
    if array.ndim == 2 and len(shape) == 2 and array.dtype.kind == "f" and g.rng.random() < 0.5:
        c = g.new(g.rng.choice([(n,), (1, n), (array.shape[0], 1), ()]), str(array.dtype))
        g.add("Gemm", [a, b, c], alpha=g.rng.choice([1.0, 0.5]), beta=g.rng.choice([1.0, 2.0]))
    else:
        g.add("MatMul", [a, b])


def convolution(g: Graph) -> None:
    x = g.pick(("float32",), rank=g.rng.choice([3, 4]))
    _, channels, *spatial = g.of(x).shape
    if 0 in g.of(x).shape:
        return
    groups = g.rng.choice([k for k in range(1, channels + 1) if channels % k == 0])
    filters = groups * g.rng.choice([1, 2, 3, 8])
    kernel = [g.rng.randint(1, min(3, size)) for size in spatial]
    rank = len(spatial)
    options = {"strides": [g.rng.choice([1, 1, 2]) for _ in spatial], "group": groups}
    options["pads"] = [g.rng.randint(0, k - 1) for k in kernel * 2]
    if g.rng.random() < 0.25:
        w = g.new((channels, filters // groups, *kernel), "float32", constant=True)
        g.add("ConvTranspose", [x, w], **options)
    else:
        # The reference puts zeros into a dilated kernel, which infinities in between turn into NaN.
        large = all(size >= 2 * k for size, k in zip(spatial, kernel))
        if g.rng.random() < 0.3 and np.isfinite(g.of(x)).all() and large:
            options["dilations"] = [2] * rank
        w = g.new((filters, channels // groups, *kernel), "float32", constant=True if g.rng.random() < 0.8 else None)
        bias = [g.new((filters,), "float32")] if g.rng.random() < 0.5 else []
        g.add("Conv", [x, w, *bias], **options)


def pool(g: Graph) -> None:
    x = g.pick(("float32",), rank=g.rng.choice([3, 4]))
    if 0 in g.of(x).shape:
        return
    spatial = g.of(x).shape[2:]
    kernel = [g.rng.randint(1, min(3, size)) for size in spatial]
    # The reference takes pads that differ between axes in the wrong order, and averages around NaN.
    pads = [g.rng.randint(0, min(kernel) // 2)] * 2 * len(kernel)
    strides = [g.rng.choice([1, 2]) for _ in spatial]
    kind = g.rng.randrange(4)
    if kind == 0:
        g.add("MaxPool", [x], kernel_shape=kernel, pads=pads, strides=strides)
    elif kind == 1 and not np.isnan(g.of(x)).any():
        g.add(
            "AveragePool", [x], kernel_shape=kernel, pads=pads, strides=strides, count_include_pad=g.rng.randint(0, 1)
        )
    elif kind == 2:
        g.add("GlobalAveragePool", [x])
    else:
        channels = g.of(x).shape[1]
        parts = [g.new((channels,), "float32", constant=True) for _ in range(3)]
        variance = g.put(np.abs(g.array((channels,), "float32")), constant=True)
        g.add("BatchNormalization", [x, *parts, variance])


def data_sized(g: Graph) -> None:
    """Results whose size the data decides."""
    x = g.pick(("bool", "float32", "int64"))
    if g.rng.random() < 0.6 and g.of(x).ndim:
        found = g.add("NonZero", [x])
        if found is not None and g.rng.random() < 0.7:
            g.add("Cast", found, to=onnx.TensorProto.FLOAT)
    elif g.of(x).dtype == np.int64:
        g.add("Unique", [x], 1, sorted=1)


def misc(g: Graph) -> None:
    x = g.pick(("float32", "int64"))
    array = g.of(x)
    kind = g.rng.randrange(4)
    if kind == 0 and array.ndim >= 2:
        g.add("Trilu", [x, g.put(np.array(g.rng.randint(-2, 2), np.int64))], upper=g.rng.randint(0, 1))
    elif kind == 1:
        g.add("OneHot", [g.put(g.numpy.integers(-5, 5, g.shape(1))), g.ints(5), g.put(np.float32([0, 2]))], axis=-1)
    elif kind == 2 and array.dtype == np.float32:
        g.add("Sum", [x, g.broadcastable(x), g.broadcastable(x)])
    elif kind == 3 and array.ndim == 3 and array.dtype == np.float32:
        g.add("Einsum", [x], equation=g.rng.choice(["abc->cab", "abc->ac", "abc->b"]))


def branch(g: Graph) -> None:
    x = g.pick(("float32",))
    condition = g.put(np.array(g.rng.random() < 0.5))
    tag = f"s{len(g.nodes)}"
    first = helper.make_node(g.rng.choice(["Neg", "Sigmoid", "Abs"]), [x], [f"{tag}a"])
    second = helper.make_node("Mul", [x, x], [f"{tag}b"])
    graphs = [
        helper.make_graph([node], "branch", [], [helper.make_tensor_value_info(node.output[0], 1, None)])
        for node in (first, second)
    ]
    g.add("If", [condition], then_branch=graphs[0], else_branch=graphs[1])


def loop(g: Graph) -> None:
    x = g.pick(("float32",))
    tag = f"s{len(g.nodes)}"
    kind = g.rng.choice(["Add", "Sub", "Max"])
    shape = [None] * g.of(x).ndim
    body = helper.make_graph(
        [
            helper.make_node("Identity", [f"{tag}c"], [f"{tag}o"]),
            helper.make_node(kind, [f"{tag}v", x], [f"{tag}n"]),
            helper.make_node("Abs", [f"{tag}n"], [f"{tag}s"]),
        ],
        "body",
        [
            helper.make_tensor_value_info(f"{tag}i", onnx.TensorProto.INT64, []),
            helper.make_tensor_value_info(f"{tag}c", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info(f"{tag}v", onnx.TensorProto.FLOAT, shape),
        ],
        [
            helper.make_tensor_value_info(f"{tag}o", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info(f"{tag}n", onnx.TensorProto.FLOAT, shape),
            helper.make_tensor_value_info(f"{tag}s", onnx.TensorProto.FLOAT, shape),
        ],
    )
    g.add("Loop", [g.put(np.array(g.rng.randint(1, 4), np.int64)), "", x], 2, body=body)


MAKERS: list[tuple[Callable[[Graph], None], int]] = [
    (unary, 6), (binary, 7), (integer, 2), (logical, 2), (cast, 2), (clip, 1), (transpose, 3), (reshape, 3),
    (by_shape, 2),
    (slice_, 3), (concat, 2), (split, 1), (pad, 2), (repeat, 2), (gather, 3), (scatter, 2), (reduction, 4),
    (along_axis, 4), (layer_norm, 1), (matmul, 4), (convolution, 3), (pool, 2), (data_sized, 1), (misc, 2), (branch, 1),
    (loop, 1),
]  # fmt: skip


def random_graph(number: int) -> Graph:
    """Graph `number`: up to a dozen nodes."""
    graph = Graph(number, random.Random(number).choice(OPSETS))
    graph.new(graph.shape(), "float32", constant=False)
    wanted = graph.rng.randint(2, 12)
    makers, weights = zip(*MAKERS)
    for _ in range(40):
        if len(graph.nodes) >= wanted:
            break
        graph.rng.choices(makers, weights)[0](graph)
    return graph

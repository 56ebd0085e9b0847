"""A subgraph of TensorFlow Lite becoming an ONNX graph.

Three things differ between the two, and are settled here, so that operators need not care:

* Layout. TensorFlow Lite keeps channels last, ONNX's convolutions want them right after the batch. A `Wire` (a tensor
  of the source) can be had in both; operators say which they want, and a Transpose is made when one is asked for that
  is not there. Element-wise operators work in the layout that is there, so a chain of layers has no Transpose inside.
* Quantisation. A quantised tensor has two forms: what is stored, and the real number that it stands for. An operator
  computes with real numbers; its result is quantised by the scale of its output (QuantizeLinear), the next operator
  reads it by DequantizeLinear. Operators that only move values move what is stored.
* State. A variable becomes an input and an output of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir

from sardonyx.converters.building import Builder, constant_of, set_type
from sardonyx.converters.tflite_schema import constant, operator_name, options_of, type_name
from sardonyx.errors import ConversionError, SourceError
from sardonyx.verifier.tolerance import SOURCE_QUANTISES

Shape = tuple[int | str | None, ...]
Handler = Callable[["Subgraph", "Node"], None]

HANDLERS: dict[str, Handler] = {}
_FLOATS = ("float32", "float16", "float64", "bfloat16")


def operator(*names: str) -> Callable[[Handler], Handler]:
    """Register what converts the operators called `names`."""

    def register(handler: Handler) -> Handler:
        for name in names:
            HANDLERS[name] = handler
        return handler

    return register


@dataclass(frozen=True)
class Quantisation:
    """real = scale * (stored - zero), one scale for all or one for each index of `axis`."""

    scale: np.ndarray
    zero: np.ndarray
    axis: int = 0

    @property
    def per_axis(self) -> bool:
        """Whether there are several scales."""
        return self.scale.size > 1

    def same(self, other: Quantisation | None) -> bool:
        """Whether a stored value means the same under `other`."""
        return (
            other is not None
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero, other.zero)
            and (not self.per_axis or self.axis == other.axis)
        )


@dataclass(eq=False)
class Wire:
    """A tensor of the source.

    Attributes:
        number: its index in the subgraph.
        name: of the tensor.
        dtype: of the tensor.
        shape: its sizes; a name or None where they are open.
        quantisation: what stored values mean; None: they are the values.
        const: its value, as stored, if it is a constant.
        variable: whether it keeps its value from run to run.
        forms: the ONNX values that hold it, by (is real, has channels first).
    """

    number: int
    name: str
    dtype: str
    shape: Shape
    quantisation: Quantisation | None = None
    const: np.ndarray | None = None
    variable: bool = False
    forms: dict[tuple[bool, bool], ir.Value] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def quantised(self) -> bool:
        """Whether what is stored are integers that stand for real numbers."""
        return self.quantisation is not None and self.dtype not in _FLOATS

    @property
    def real(self) -> bool:
        """Whether it stands for real numbers."""
        return self.quantised or self.dtype in _FLOATS

    def size(self, axis: int) -> int | None:
        """A size, if it is known."""
        dim = self.shape[axis]
        return dim if isinstance(dim, int) else None


@dataclass
class Node:
    """An operator of the source: its name, place, inputs (None: left out) and outputs."""

    operator: str
    index: int
    ins: list[Wire | None]
    outs: list[Wire]
    raw: SimpleNamespace
    where: str

    def options(self, model: SimpleNamespace, table: str) -> SimpleNamespace:
        """The options of this operator."""
        return options_of(model, self.raw, table)

    def input(self, number: int) -> Wire:
        """An input that must be there."""
        wire = self.ins[number] if number < len(self.ins) else None
        if wire is None:
            raise SourceError(f"input {number} is missing", node=self.where, operator=self.operator)
        return wire

    def optional(self, number: int) -> Wire | None:
        """An input that may be left out."""
        return self.ins[number] if number < len(self.ins) else None

    @property
    def out(self) -> Wire:
        """The first output."""
        if not self.outs:
            raise SourceError("it has no output", node=self.where, operator=self.operator)
        return self.outs[0]

    def refuse(self, reason: str, hint: str = "") -> ConversionError:
        """An error that names this operator."""
        return ConversionError(reason, node=self.where, operator=self.operator, hint=hint or None)


class Subgraph:
    """One subgraph under conversion.

    Args:
        model: of `tflite_schema.read_model`.
        number: of the subgraph.
        builder: what the nodes are added to.
        state: what the subgraphs of a model share: notes and variables.
    """

    def __init__(self, model: SimpleNamespace, number: int, builder: Builder, state: State):
        if not 0 <= number < len(model.subgraphs):
            raise SourceError(f"the file is damaged: there is no subgraph {number}")
        self.model, self.number, self.b, self.state = model, number, builder, state
        self.raw = model.subgraphs[number]
        self.handles: dict[tuple[int, int], str] = {}  # (subgraph, tensor) -> name of the variable it stands for
        self.initialises = False  # whether it sets variables before the first run
        self.named: dict[int, tuple[Wire, ir.Value, bool]] = {}  # values that bear the name of a tensor
        self.wires = [self._wire(index, tensor) for index, tensor in enumerate(self.raw.tensors or [])]

    def convert(self) -> None:
        """Add the nodes of all operators."""
        for index, raw in enumerate(self.raw.operators or []):
            node = self.node(index, raw)
            handler = HANDLERS.get(node.operator)
            if handler is None:
                raise node.refuse("this operator has no ONNX form here", _way_out(node.operator))
            self.b.place = node.outs[0].name if node.outs else node.where
            hybrid = len(self.state.hybrid)
            handler(self, node)
            if len(self.state.hybrid) > hybrid:
                self.b.nodes[-1].metadata_props[SOURCE_QUANTISES] = "its inputs, while running"
            self.b.place = ""

    def node(self, index: int, raw: SimpleNamespace) -> Node:
        """An operator with its wires."""
        name = operator_name(self.model, raw)
        where = f"{index}" if self.number == 0 else f"{self.number}.{index}"
        ins, outs = (self.wires_of(getattr(raw, side)) for side in ("inputs", "outputs"))
        first = next((wire.name for wire in outs if wire is not None), "")
        return Node(name, index, ins, [wire for wire in outs if wire is not None], raw, f"{where} {first}".strip())

    def wires_of(self, indices: Any) -> list[Wire | None]:
        """The wires with these indices; -1 is one that is left out."""
        found: list[Wire | None] = []
        for index in () if indices is None else indices.tolist():
            if index >= len(self.wires) or index < -1:
                raise SourceError(f"the file is damaged: there is no tensor {index} in subgraph {self.number}")
            found.append(None if index == -1 else self.wires[index])
        return found

    def given(self, indices: Any) -> list[Wire]:
        """The wires with these indices, all there."""
        return [wire for wire in self.wires_of(indices) if wire is not None]

    def _wire(self, number: int, tensor: SimpleNamespace) -> Wire:
        sizes = tensor.shape if tensor.shape is not None else ()
        signature = tensor.shape_signature
        if signature is None or len(signature) != len(sizes):
            signature = sizes
        shape = tuple(None if open_ < 0 else int(size) for size, open_ in zip(sizes, signature))
        name = tensor.name or f"tensor_{number}"
        wire = Wire(number, name, type_name(tensor), shape, variable=bool(tensor.is_variable))
        wire.const = constant(self.model, tensor)
        found = tensor.quantization
        if found is not None and found.scale is not None and len(found.scale) and wire.dtype not in _FLOATS:
            zero = found.zero_point if found.zero_point is not None else np.zeros(len(found.scale), np.int64)
            if len(zero) == 1:
                zero = np.repeat(zero, len(found.scale))
            axis = found.quantized_dimension
            if len(zero) != len(found.scale) or (len(found.scale) > 1 and not 0 <= axis < len(shape)):
                raise SourceError(f"the file is damaged: quantisation of tensor {name!r}")
            if np.all(found.scale > 0):
                wire.quantisation = Quantisation(found.scale.astype(np.float32), zero.astype(np.int64), axis)
        if wire.dtype == "int4":
            wire.dtype = "int8"  # it is unpacked on reading
        return wire

    # --- reading wires

    def stored(self, wire: Wire, first: bool = False) -> ir.Value:
        """The value as it is stored."""
        return self._form(wire, not wire.quantised and wire.real, first)

    def get(self, wire: Wire, first: bool = False) -> ir.Value:
        """The real number where it stands for one, else the value."""
        return self._form(wire, wire.real, first)

    def ints(self, wire: Wire) -> np.ndarray | None:
        """The integers of a constant."""
        found = wire.const if wire.const is not None else constant_of(wire.forms.get((False, False)))
        return found if found is not None and found.dtype.kind in "iu" else None

    def known(self, node: Node, number: int, what: str) -> np.ndarray:
        """An input that must be constant integers."""
        found = self.ints(node.input(number))
        if found is None:
            raise node.refuse(f"{what} is computed while running", "Make it a constant in the source model.")
        return found

    def as_int64(self, wire: Wire) -> ir.Value:
        """A shape, index or the like in ONNX's type for these."""
        found = self.ints(wire)
        if found is not None:
            return self.b.constant(found.astype(np.int64))
        value = self.stored(wire)
        return value if wire.dtype == "int64" else self.b.op("Cast", value, to=ir.DataType.INT64)

    def has_first(self, *wires: Wire | None) -> bool:
        """Whether one of these is there with channels first only."""
        return any(
            wire is not None and {first for _, first in wire.forms} == {True} and wire.const is None for wire in wires
        )

    def _form(self, wire: Wire, real: bool, first: bool) -> ir.Value:
        forms = wire.forms
        if (real, first) in forms:
            return forms[real, first]
        if wire.const is not None:
            forms[real, first] = self.weights(wire, to_first(wire.rank) if first else None, real)
        elif (real, not first) in forms:
            perm = to_first(wire.rank) if first else to_last(wire.rank)
            forms[real, first] = self.b.op("Transpose", forms[real, not first], perm=perm)
        elif wire.quantised and any(kind != real for kind, _ in forms):
            layout = first if (not real, first) in forms else not first
            make = self._dequantised if real else self._quantised
            forms[real, layout] = make(wire, forms[not real, layout])
            return self._form(wire, real, first)
        else:
            raise SourceError(f"the file is damaged: tensor {wire.name!r} is used before it is computed")
        return forms[real, first]

    def weights(
        self, wire: Wire, perm: Sequence[int] | None = None, real: bool = True, shape: Sequence[int] | None = None
    ) -> ir.Value:
        """A constant (or what stands for one), transposed, then reshaped, as a real number or as it is stored."""
        if wire.const is None:
            value = self.get(wire) if real else self.stored(wire)
            value = value if perm is None else self.b.op("Transpose", value, perm=perm)
            return value if shape is None else self.b.op("Reshape", value, np.array(shape, np.int64))
        array = wire.const if perm is None else wire.const.transpose(perm)
        found = wire.quantisation
        array = array if shape is None else array.reshape(shape)
        value = self.b.constant(array, wire.name if perm is None else "")
        if not real or (not wire.real and found is None):
            return value
        if array.dtype.kind in "iu" and found is not None:
            axis = 0
            if found.per_axis:
                moved = found.axis if perm is None else list(perm).index(found.axis)
                axis = moved if shape is None else list(array.shape).index(found.scale.size)
            return self._dequantise(value, found, array.dtype, axis)
        if array.dtype.name in ("float16", "bfloat16") and wire.dtype == "float32":
            return self.b.op("Cast", value, to=ir.DataType.FLOAT)
        return value

    def _dequantise(self, value: ir.Value, found: Quantisation, dtype: np.dtype, axis: int = 0) -> ir.Value:
        if dtype.name == "int64":  # biases of 16-bit models; ONNX's operator has no such type
            real = self.b.op("Cast", value, to=ir.DataType.FLOAT)
            return self.b.op("Mul", real, found.scale if found.per_axis else found.scale[0])
        zero = None if dtype.name == "int32" else found.zero.astype(dtype)
        if found.per_axis:
            return self.b.op("DequantizeLinear", value, found.scale, zero, axis=axis)
        return self.b.op("DequantizeLinear", value, found.scale[0], None if zero is None else zero[0])

    def _dequantised(self, wire: Wire, value: ir.Value) -> ir.Value:
        assert wire.quantisation is not None
        return self._dequantise(value, wire.quantisation, np.dtype(wire.dtype))

    def _quantised(self, wire: Wire, value: ir.Value) -> ir.Value:
        found = wire.quantisation
        assert found is not None
        if wire.dtype not in ("int8", "uint8", "int16", "uint16"):
            scaled = self.b.op("Round", self.b.op("Div", value, found.scale[0]))
            shifted = self.b.op("Add", scaled, np.float32(found.zero[0])) if found.zero[0] else scaled
            return self.b.op("Cast", shifted, to=ir.DataType.from_numpy(np.dtype(wire.dtype)))
        return self.b.op("QuantizeLinear", value, found.scale[0], found.zero.astype(wire.dtype)[0])

    # --- writing wires

    def set(self, wire: Wire, value: ir.Value, first: bool = False) -> None:
        """The wire holds `value`: a real number where the wire stands for one."""
        if wire.quantised:
            self.set_stored(wire, self._quantised(wire, value), first)
        else:
            self._put(wire, wire.real, value, first)

    def set_stored(self, wire: Wire, value: ir.Value, first: bool = False) -> None:
        """The wire holds `value` as it is stored."""
        self._put(wire, not wire.quantised and wire.real, value, first)

    def _put(self, wire: Wire, real: bool, value: ir.Value, first: bool) -> None:
        wire.forms[real, first] = value
        if value.producer() is not None and id(value) not in self.named:
            value.name = self.b.name(wire.name + ("/channels_first" if first else ""))
            self.named[id(value)] = wire, value, first
        if value.shape is None or value.dtype is None:
            dtype = wire.dtype if not (real and wire.quantised) else "float32"
            set_type(value, dtype, moved(wire.shape, to_first(wire.rank)) if first else wire.shape)

    def same_storage(self, out: Wire, *wires: Wire | None) -> bool:
        """Whether stored values of `wires` can be moved into `out` as they are."""
        if not out.quantised:
            return all(wire is None or not wire.quantised for wire in wires)
        assert out.quantisation is not None
        return all(
            wire is None or (wire.dtype == out.dtype and out.quantisation.same(wire.quantisation)) for wire in wires
        )

    def move(self, node: Node, make: Callable[..., ir.Value], *wires: Wire, first: bool = False) -> None:
        """The output is `make` of the values of `wires`, which are moved, not changed."""
        if self.same_storage(node.out, *wires):
            self.set_stored(node.out, make(*(self.stored(wire, first) for wire in wires)), first)
        else:
            self.set(node.out, make(*(self.get(wire, first) for wire in wires)), first)

    def activated(self, value: ir.Value, code: int, node: Node) -> ir.Value:
        """`value` after the activation that is fused into an operator."""
        if code == 0:
            return value
        if code in (1, 4):
            return self.b.op("Relu" if code == 1 else "Tanh", value)
        if code in (2, 3):
            low, high = ((-1.0, 1.0), (0.0, 6.0))[code - 2]
            return self.b.op("Clip", value, np.float32(low), np.float32(high))
        raise node.refuse(f"fused activation {code} is unknown")


@dataclass
class Variable:
    """A value that is kept from run to run.

    Attributes:
        name: of the variable.
        input: the graph's input that holds it at the beginning; None: it is written before it is read.
        now: the value at this point.
        like: a wire of its type and shape.
        reads: tensors that are read from it before it is written.
        written: the tensor that is its last value; None: it is never written.
        tensor: its own tensor, where it is one that keeps its value.
    """

    name: str
    input: ir.Value | None
    now: ir.Value | None
    like: Wire
    reads: list[int] = field(default_factory=list)
    written: int | None = None
    tensor: int | None = None


@dataclass
class State:
    """What the subgraphs of a model share.

    Attributes:
        hybrid: operators whose inputs TensorFlow Lite quantises while running.
        variables: by name.
        initial: first values of variables by name, where the model says them.
        written: names of variables that are written while running.
        calls: how many subgraphs were put into others.
    """

    hybrid: list[str] = field(default_factory=list)
    variables: dict[str, Variable] = field(default_factory=dict)
    initial: dict[str, np.ndarray] = field(default_factory=dict)
    written: set[str] = field(default_factory=set)
    calls: int = 0


def _way_out(name: str) -> str:
    if name.startswith("CUSTOM:Flex"):
        return "It is one of TensorFlow's own: convert the SavedModel instead, or without SELECT_TF_OPS."
    return "Replace it in the source model, or cut the model before it."


def to_first(rank: int) -> list[int]:
    """Channels from last to second."""
    return list(range(rank)) if rank < 3 else [0, rank - 1, *range(1, rank - 1)]


def to_last(rank: int) -> list[int]:
    """Channels from second to last."""
    return list(range(rank)) if rank < 3 else [0, *range(2, rank), 1]


def moved(shape: Sequence[Any], perm: Sequence[int]) -> tuple[Any, ...]:
    """A shape after a transposition."""
    return tuple(shape[axis] for axis in perm)

"""Walks an ONNX graph in order and lowers each node: by its operator function, or as a host call."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from sardonyx import errors
from sardonyx.compiler import index as ix
from sardonyx.compiler.arithmetic import assign, operations
from sardonyx.compiler.byte_tables import tabulate
from sardonyx.compiler.contract import check_node
from sardonyx.compiler.dtypes import dtype_of_array, is_native
from sardonyx.compiler.failures import reported
from sardonyx.compiler.host import call_host, has_meaning, infer_types
from sardonyx.compiler.index import Dim
from sardonyx.compiler.joins import Part, find_parts
from sardonyx.compiler.lower import MAX_COST, MAX_DEPTH, Lowering, Unsupported
from sardonyx.compiler.program import Append, Buffer, Host, Move, Placement, Port, Program
from sardonyx.compiler.regions import count_uses
from sardonyx.compiler.stream import stream_layers
from sardonyx.compiler.sums import keep_sums_inside
from sardonyx.compiler.tensor import Formed, Layout, Plain, Tensor
from sardonyx.model.schemas import TYPE_KEY
from sardonyx.ops import registry
from sardonyx.ops.node import Node

MOST_AXES = 16  # of a value; as sx_io in sardonyx.h
WIDENING = ("DequantizeLinear", "GatherBlockQuantized")  # take constants of a few bits, which have no native type
FOLD_BYTES = 1 << 22  # results of constant nodes larger than this (and than their inputs) are computed at run time
# Operators whose result may be much larger than their inputs together.
GROWING = frozenset((
    "ConstantOfShape", "Expand", "Tile", "EyeLike", "Range", "Resize", "Upsample", "Pad", "OneHot", "AffineGrid",
    "Col2Im", "CenterCropPad", "MaxUnpool", "ConvTranspose", "Conv", "MaxPool", "AveragePool", "LpPool", "DFT", "STFT",
    "HannWindow", "HammingWindow", "BlackmanWindow", "GridSample", "RoiAlign", "MelWeightMatrix", "RNN", "GRU", "LSTM",
))  # fmt: skip
WIDENED = ("Cast", "DequantizeLinear")  # of a constant: weights that are stored in fewer bits than they are used in
CONTROL = ("If", "Loop", "Scan")  # they look at their inputs' kinds themselves
NOT_FOLDED = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli")


class GraphLowering(Lowering):
    """Lowers the graphs of one model."""

    def __init__(self, model: ir.Model, assumptions: Mapping[str, bool] | None = None):
        super().__init__(model.graph.name or "model", assumptions)
        self.model = model
        self.values: dict[ir.Value, Tensor] = {}
        self.arithmetic: list[tuple[str, Dim]] = []  # operations of each node, in order
        self.uses = count_uses(model.graph, self.opset)
        self.host_numbers: dict[ir.Node, int] = {}  # number of each node that runs on the host
        self.dims_by_name: dict[str, Dim] = {}  # dims that host calls saw, by the name they were given
        self.parts: dict[ir.Value, Part] = {}  # values that lie in the memory of a concatenation
        self._wholes: dict[ir.Value, Buffer] = {}

    def opset(self, domain: str) -> int:
        """The version of `domain` that the model asks for."""
        imports = self.model.opset_imports
        names = ("", "ai.onnx") if domain in ("", "ai.onnx") else (domain,)
        return next((imports[name] for name in names if name in imports), 1)

    # Inputs and outputs.

    def inputs(self) -> None:
        """Declare the graph's inputs; their unknown dims become symbols."""
        symbols: dict[str, Dim] = {}
        graph = self.model.graph
        # An input with an initializer of its name has a default: it is a constant here.
        for number, value in enumerate(v for v in graph.inputs if v.name not in graph.initializers):
            self.values[value] = self._input(number, value, symbols)

    def _input(self, number: int, value: ir.Value, symbols: dict[str, Dim]) -> Tensor:
        name = value.name or f"input{number}"
        dtype = dtype_of(value)
        native = isinstance(value.type, ir.TensorType) and is_native(dtype) and value.shape is not None
        if not native:
            tensor = self.object_tensor(value)
            port = Port(name, dtype, type_string(value), (), tuple(_declared(value)), None, tensor.slot)
            self.program.inputs.append(port)
            return tensor
        assert value.shape is not None
        dims: list[Dim] = []
        for axis, dim in enumerate(value.shape):
            if isinstance(dim, int) and dim >= 0:  # some exporters write -1 for a dim that is not known
                dims.append(dim)
                continue
            label = None if isinstance(dim, int) or not any(map(str.isalnum, dim.value or "")) else dim.value
            dims.append(self._entry_symbol(label, number, axis, symbols))
        if any(isinstance(dim, int) and dim < 0 for dim in dims):
            raise errors.ShapeError(f"input '{name}' is declared with a negative dim: {dims}")
        self._check_extent(dtype, dims)
        buffer = Buffer(f"in{number}", dtype, ix.product(dims), "input")
        self.program.inputs.append(Port(name, dtype, type_string(value), tuple(dims), tuple(_declared(value)), buffer))
        return self.in_memory(buffer, dims)

    def _entry_symbol(self, name: str | None, number: int, axis: int, symbols: dict[str, Dim]) -> Dim:
        if name is not None and name in symbols:
            return symbols[name]
        symbol = ix.symbol(self.fresh("s"))
        self.program.symbols.append(symbol)
        self.program.entry.append((symbol, number, axis))
        if name is not None:
            symbols[name] = symbol
        return symbol

    def outputs(self) -> None:
        """Put the graph's outputs into their own buffers."""
        for number, value in enumerate(self.model.graph.outputs):
            tensor, formed = self.values[value], self.values[value].formed
            name = value.name or f"output{number}"
            if formed is not None:
                tensor = formed.tensor
            elif tensor.is_object:
                port = Port(name, tensor.dtype, type_string(value), (), tuple(_declared(value)), None, tensor.slot)
                self.program.outputs.append(port)
                continue
            buffer = self._promoted(tensor)
            if buffer is None:
                buffer = Buffer(f"out{number}", tensor.dtype, tensor.size, "output")
                self.materialize(tensor, Plain(tensor.shape), buffer)
            if formed is not None:
                names, kind = tuple(_declared(value)), type_string(value)
                port = Port(
                    name, tensor.dtype, kind, tensor.shape, names, buffer, form=formed.form, labels=formed.labels
                )
            else:
                kind = f"tensor({_onnx_name(tensor.dtype)})"
                names = tuple(_declared(value)) or tuple(d if isinstance(d, int) else None for d in tensor.shape)
                port = Port(name, tensor.dtype, kind, tensor.shape, names, buffer)
            self.program.outputs.append(port)

    def _promoted(self, tensor: Tensor) -> Buffer | None:
        """The memory of `tensor` as an output, where nothing else has a claim on it: it need not be copied."""
        buffer = tensor.buffer
        if buffer is None or buffer.kind != "temporary" or buffer.block is not self.program.main:
            return None
        if tensor.layout != Plain(tensor.shape) or buffer.size != tensor.size or buffer in self._handed_over():
            return None
        self.close(buffer)
        buffer.kind = "output"
        return buffer

    def _handed_over(self) -> set[Buffer]:
        """Buffers whose memory changes hands while the program runs."""
        found: set[Buffer] = set()
        for step in self.program.main.walk():
            if isinstance(step, Move):
                found |= {step.source, step.target}
            elif isinstance(step, Append):
                found.add(step.target)
            elif isinstance(step, Host):
                found |= {view.buffer for view in step.outputs if view is not None and view.buffer is not None}
        return found

    # Nodes.

    def graph(self, graph: ir.Graph) -> list[Tensor]:
        """Lower all nodes of `graph` into the current block; returns its outputs (lazy ones too)."""
        for value in graph.initializers.values():
            self.values.setdefault(value, self._initializer(value))
        for node in graph:
            self.lower_node(node)
        return [self.value(output) for output in graph.outputs]

    def value(self, value: ir.Value) -> Tensor:
        """The tensor of a graph value."""
        if value in self.values:
            return self.values[value]
        if value.const_value is not None:
            self.values[value] = self._initializer(value)
            return self.values[value]
        raise errors.ModelError(f"value '{value.name}' is used before anything produces it", node=self.node)

    def _initializer(self, value: ir.Value) -> Tensor:
        assert value.const_value is not None
        dtype = dtype_of_tensor(value.const_value)
        array = value.const_value.numpy()
        if not is_native(dtype):
            return self.object_constant(array, dtype)
        return self.constant(array, dtype)

    def lower_node(self, node: ir.Node) -> None:
        """Lower one node and bind its outputs."""
        view = Node(node, node.version or self.opset(node.domain))
        outer = self.node, self.operator
        self.node, self.operator = view.name, node.op_type
        # Inside a subgraph, what has no native code may still send the node around it to the host.
        passing = (Unsupported,) if outer[1] else ()
        try:
            with reported(view.name, node.op_type, passing):
                inputs = [None if value is None else self._operand(value) for value in node.inputs]
                results: Sequence[Tensor | None] | None = self._fold(view, inputs)
                if results is None:
                    results = self._lower(view, inputs)
                    if not outer[1]:
                        self.arithmetic.append((view.name, operations(view, inputs, results)))
                for value, tensor in zip(node.outputs, results, strict=False):
                    if value.name and tensor is not None:
                        self._bind(value, tensor)
        finally:
            self.node, self.operator = outer

    def _bind(self, value: ir.Value, tensor: Tensor) -> None:
        uses = self.uses.get(value, 1)
        if value in self.values:
            raise errors.ModelError(f"value '{value.name}' is produced twice", node=self.node)
        if not tensor.is_object:
            self._check_extent(tensor.dtype, tensor.shape)
        tensor.uses = max(tensor.uses, uses)
        self.values[value] = tensor
        room = self.room(value)
        if room is not None and _fits(tensor, *room) and (tensor.buffer, tensor.layout) != room:
            self.materialize(tensor, room[1], room[0], adopt=True)

    def room(self, value: ir.Value) -> tuple[Buffer, Layout] | None:
        """See `Lowering.room`."""
        part = self.parts.get(value)
        if part is None or self.block is not self.program.main:
            return None
        if part.whole not in self._wholes:
            self._wholes[part.whole] = self.temporary(part.dtype, part.room.size())
        return self._wholes[part.whole], part.layout

    def _check_extent(self, dtype: str, shape: Sequence[Dim]) -> None:
        if len(shape) > MOST_AXES:
            message = f"a value has {len(shape)} axes, more than {MOST_AXES}"
            raise errors.UnsupportedError(message, node=self.node or None)
        if is_native(dtype):
            self.check_size(dtype, shape)

    def _operand(self, value: ir.Value) -> Tensor:
        tensor = self.value(value)
        if tensor.uses > 1 and not tensor.is_object and tensor.array is None:
            self.cheap(tensor)
        elif tensor.cost > MAX_COST or tensor.depth > MAX_DEPTH:
            self.materialize(tensor)
        return tensor

    def _lower(self, view: Node, inputs: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        found = registry.find(view.domain, view.op_type, view.opset)
        reason = f"no native code for {view.op_type}"
        taken = view.op_type in CONTROL or view.op_type in WIDENING
        if found is not None and not taken and any(t is not None and t.is_object for t in inputs):
            found, reason = None, "an input has no native type or no known rank"
        if found is not None:
            check_node(self, view, inputs)
            block = self.block
            try:
                result = found.lower(self, view, *inputs)
                self.program.placement.append(Placement(view.name, view.op_type, "native", "compiled"))
                return result if isinstance(result, tuple | list) else (result,)
            except Unsupported as problem:
                self.block = block
                reason = str(problem)
        if found is not None and not has_meaning(view):
            hint = "register it with sardonyx.operator, or choose a provider that has it"
            operator = f"{view.domain}.{view.op_type}" if view.domain else view.op_type
            raise errors.UnsupportedError(f"not covered here: {reason}", node=view.name, operator=operator, hint=hint)
        self.program.placement.append(Placement(view.name, view.op_type, "reference", reason))
        return call_host(self, view, inputs)

    def _fold(self, view: Node, inputs: Sequence[Tensor | None]) -> list[Tensor | None] | None:
        """The outputs of a node whose inputs are all known, computed now by the reference."""
        if view.op_type in NOT_FOLDED or any(a.type in _GRAPHS for a in view.ir.attributes.values()):
            return None
        arrays = [None if t is None else t.array for t in inputs]
        if any(t is not None and (t.array is None or not is_native(t.dtype)) for t in inputs):
            return None
        if not inputs and view.op_type != "Constant":
            return None
        if not self._worth_folding(view, inputs):
            return None
        from sardonyx.runtime.reference import run_node

        try:
            results = run_node(view.ir, arrays, dict(self.model.opset_imports))
        except Exception:  # whatever is wrong with the node is reported when it is lowered
            return None
        if not all(r is None or (isinstance(r, np.ndarray | np.generic) and is_native(_name(r))) for r in results):
            return None
        self.program.placement.append(Placement(view.name, view.op_type, "native", "constant"))
        return [None if r is None else self.constant(np.asarray(r), _name(r)) for r in results]

    def _worth_folding(self, view: Node, inputs: Sequence[Tensor | None]) -> bool:
        if view.op_type in WIDENED and not _is_table(view.ir.outputs[0]):
            return True  # whatever their size: kernels read weights packed, and each run would widen them anew
        known = [t.array for t in inputs if t is not None and t.array is not None]
        if sum(array.nbytes for array in known) > FOLD_BYTES:
            return False
        if view.op_type not in GROWING and math.prod(max(array.size, 1) for array in known) <= FOLD_BYTES:
            return True
        try:
            types = infer_types(self, view, inputs).values()
        except errors.SardonyxError:  # said again when the node is lowered
            return False
        shapes = [kind.tensor_type.shape.dim for kind in types]
        known_or_large = [[d.dim_value if d.HasField("dim_value") else FOLD_BYTES for d in dims] for dims in shapes]
        return sum(map(math.prod, known_or_large)) <= FOLD_BYTES // 8

    # Python objects.

    def object_tensor(self, value: ir.Value | None, type_proto: Any = None) -> Tensor:
        """A tensor that only Python can hold, in a slot of its own."""
        tensor = Tensor(self, dtype_of(value) if value is not None else "object", ())
        tensor.slot = self.program.slots
        tensor.type_proto = type_proto if type_proto is not None else value
        self.program.slots += 1
        return tensor

    def formed(self, value: ir.Value, tensor: Tensor, form: str, labels: Sequence[int | str]) -> Tensor | None:
        """The object that Python makes from `tensor` after the run (see `Formed`).

        None where anything but the caller reads `value`: it has to exist while the model runs.
        """
        if self.block is not self.program.main or list(value.uses()) or value not in self.model.graph.outputs:
            return None
        made = self.object_tensor(value)
        made.formed = Formed(tensor, form, tuple(labels))
        return made

    def object_constant(self, array: np.ndarray, dtype: str) -> Tensor:
        """A constant of a dtype without native code."""
        tensor = Tensor(self, dtype, ())
        tensor.slot = self.program.slots
        self.program.slots += 1
        self.program.objects.append((tensor.slot, array))
        return tensor


_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _declared(value: ir.Value) -> Iterable[int | str | None]:
    if value.shape is None:
        return ()
    return [(dim if dim >= 0 else None) if isinstance(dim, int) else dim.value for dim in value.shape]


def _name(array: Any) -> str:
    return dtype_of_array(np.asarray(array))


def _onnx_name(dtype: str) -> str:
    return {"float32": "float", "float64": "double"}.get(dtype, dtype)


def dtype_of_tensor(tensor: Any) -> str:
    """The element type of an `onnx_ir` tensor as a name."""
    return _DTYPES.get(tensor.dtype.name, tensor.dtype.name.lower())


_DTYPES = {"FLOAT": "float32", "DOUBLE": "float64"}


def dtype_of(value: ir.Value) -> str:
    """The element type of a graph value as a name."""
    kind = value.type
    while isinstance(kind, ir.SequenceType | ir.OptionalType):
        kind = kind.elem_type
    if kind is None or kind.dtype is None:
        return "undefined"
    return _DTYPES.get(kind.dtype.name, kind.dtype.name.lower())


def type_string(value: ir.Value) -> str:
    """The type of a graph value as ONNX prints it: ``tensor(float)``, ``seq(tensor(int64))``."""

    def text(kind: Any) -> str:
        if isinstance(kind, ir.SequenceType):
            return f"seq({text(kind.elem_type)})"
        if isinstance(kind, ir.OptionalType):
            return f"optional({text(kind.elem_type)})"
        return f"tensor({kind.dtype.name.lower()})" if kind is not None else "tensor(undefined)"

    return value.metadata_props.get(TYPE_KEY) or text(value.type)


def _is_table(value: ir.Value) -> bool:
    """Whether `value` is there to pick rows from: these are widened, rather than all of it."""
    usages = list(value.uses())
    return len(usages) == 1 and usages[0].node.op_type == "Gather" and usages[0].idx == 0


def _fits(tensor: Tensor, buffer: Buffer, layout: Layout) -> bool:
    return layout.shape == tensor.shape and buffer.dtype == tensor.dtype


ATTEMPTS = 24  # at finding assumptions under which the graph is valid


def lower(model: ir.Model, assumptions: Mapping[str, bool] | None = None) -> Program:
    """The Program of a prepared model; for `assumptions` see `Lowering.assume`.

    A default assumption under which some later node is invalid can't be what the model means: the newest such is turned
    around, and so on back.
    """
    given = dict(assumptions or {})
    path: list[tuple[str, bool, bool]] = []  # (key, truth, turned around), in the order in which they came up
    first: errors.SardonyxError | None = None
    for _ in range(ATTEMPTS):
        lowering = GraphLowering(model, {**given, **{key: truth for key, truth, _ in path}})
        try:
            program = _lowered(lowering)
            parts, names = find_parts(model.graph, lowering.values, program), lowering.names
            if not parts:
                return program
            lowering = GraphLowering(model, {**given, **{key: truth for key, truth, _ in path}})
            lowering.parts, lowering.names = parts, names  # the parts speak of dims by these names
            return _lowered(lowering)
        except (errors.ShapeError, errors.ModelError) as problem:
            first = first or problem
        known = given.keys() | {key for key, _, _ in path}
        path += [(key, truth, False) for key, truth in lowering.assumed if key not in known]
        while path and path[-1][2]:
            path.pop()
        if not path:
            break
        key, truth, _ = path.pop()
        path.append((key, not truth, True))
    assert first is not None
    raise first


def _lowered(lowering: GraphLowering) -> Program:
    lowering.inputs()
    lowering.graph(lowering.model.graph)
    lowering.outputs()
    assign(lowering.program, ((name, flops) for name, flops in lowering.arithmetic if flops != 0))
    stream_layers(lowering.program)
    keep_sums_inside(lowering.program)
    tabulate(lowering.program, lowering.fresh)
    return lowering.program

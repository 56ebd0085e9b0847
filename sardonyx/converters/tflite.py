"""TensorFlow Lite: our own reader of the file; the interpreter is needed to verify, not to convert.

Variables of the model (streaming models keep what they heard) become inputs and outputs of the graph: what a run
gives as ``NAME_next`` is fed to the next one as ``NAME``.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from sardonyx.converters import tflite_ops  # noqa: F401  # registers the operators
from sardonyx.converters.building import Builder
from sardonyx.converters.onnx_file import at_opset
from sardonyx.converters.source import Dim, Input, Point, Request, Source
from sardonyx.converters.tflite_graph import State, Subgraph, Variable, Wire, to_first
from sardonyx.converters.tflite_ops.control import results
from sardonyx.converters.tflite_schema import operator_name, options_of, read_model
from sardonyx.errors import InputError, SourceError
from sardonyx.model.save import save

_OPSET, _OPSET_16_BIT = 18, 21  # the newer one has 16-bit quantisation


class TensorFlowLite(Source):
    """A model of TensorFlow Lite."""

    def __init__(self, request: Request, progress: Callable[[str], None], made: Any = None):
        super().__init__(request, progress, made)
        self.data = read_file(request)
        self.model = read_model(self.data)
        self.state = State()
        self.main: Subgraph
        self._inputs: list[Input] = []
        self._runner: Any = None

    def export(self, path: Path) -> list[str]:
        """Convert the first subgraph and those that it calls."""
        self.progress("converting")
        wanted = self.request.opset
        sixteen = any(t.type == 7 and t.quantization is not None for g in self.model.subgraphs for t in g.tensors or [])
        least = _OPSET_16_BIT if sixteen else _OPSET
        builder = Builder(max(least, wanted or 0))
        self.main = Subgraph(self.model, 0, builder, self.state)
        self.state.written = _written(self.main)
        self._bind_inputs(builder)
        self.main.convert()
        outputs = self._outputs(builder)
        model = ir.Model(builder.graph(outputs, "main"), ir_version=10, producer_name="sardonyx")
        self._describe_state(model)
        if wanted is not None and wanted < least:
            model = at_opset(model, wanted)
        save(model, path)
        return self._notes()

    def _bind_inputs(self, b: Builder) -> None:
        names = self._signature("inputs")
        for wire in self.main.given(self.main.raw.inputs):
            name = names.get(wire.number) or wire.name.removesuffix(":0")
            shape = [self._dim(name, axis, size) for axis, size in enumerate(wire.shape)]
            wire.shape = tuple(shape)
            value = b.input(name, wire.dtype, shape)
            wire.forms[not wire.quantised and wire.real, False] = value
            low, high = _range(wire)
            self._inputs.append(Input(str(value.name), wire.dtype, tuple(shape), low, high))

    def _dim(self, name: str, axis: int, size: int | str | None) -> Dim:
        given = self.request.dims.get(f"{name}.{axis}")
        if isinstance(size, int):
            if given not in (None, size):
                raise InputError(
                    f"dimension {axis} of {name!r} is {size} in the model", hint="Only open dimensions can be chosen."
                )
            return size
        return given if given is not None else "batch" if axis == 0 else f"{name}_{axis}"

    def _outputs(self, b: Builder) -> list[ir.Value]:
        names = self._signature("outputs")
        found = []
        for wire, value in zip(self.main.given(self.main.raw.outputs), results(self.main), strict=True):
            wanted = names.get(wire.number) or wire.name.removesuffix(":0")
            if value.name != wanted:
                value.name = b.name(wanted)
            found.append(value)
        for variable in self.changed():
            assert variable.now is not None
            value = b.op("Identity", variable.now)
            value.name = b.name(f"{variable.name}_next")
            found.append(value)
        return found

    def changed(self) -> list[Variable]:
        """The variables that a run gives a new value."""
        return [v for v in self.state.variables.values() if v.written is not None or v.tensor is not None]

    def _signature(self, side: str) -> dict[int, str]:
        """Names of inputs or outputs by tensor, as the model's signature has them."""
        for signature in self.model.signature_defs or []:
            if signature.subgraph_index == 0:
                return {entry.tensor_index: entry.name for entry in getattr(signature, side) or []}
        return {}

    def _describe_state(self, model: ir.Model) -> None:
        """Initial values of variables, as JSON in the model's metadata: a number where all elements are equal."""
        found = {}
        for variable in self.state.variables.values():
            if variable.input is not None:
                first = self.state.initial.get(variable.name)
                if first is None:
                    first = np.zeros(1, np.int8)
                uniform = first.size > 0 and bool(np.all(first == first.flat[0]))
                found[str(variable.input.name)] = first.flat[0].item() if uniform else first.tolist()
        if found:
            model.metadata_props["initial_state"] = json.dumps(found)
            self._inputs += [
                Input(str(v.input.name), v.like.dtype, tuple(v.input.shape or ()), *_range(v.like))  # type: ignore[arg-type]
                for v in self.state.variables.values()
                if v.input is not None
            ]

    def _notes(self) -> list[str]:
        notes = ["read by Sardonyx itself"]
        names = [v.name for v in self.state.variables.values() if v.input is not None]
        if names:
            notes.append(
                f"{len(names)} variables are inputs, and outputs NAME_next: {', '.join(names)}; "
                "what they begin with is in the metadata, initial_state"
            )
        if self.state.hybrid:
            notes.append(
                f"{len(self.state.hybrid)} operators with integer weights compute in floating point; TensorFlow Lite "
                "quantises their inputs while running, and is less exact"
            )
        return notes

    def inputs(self) -> Sequence[Input]:
        """As exported."""
        return self._inputs

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """By the interpreter."""
        return self._interpreter().run(feeds)

    def points(self) -> Sequence[Point]:
        """The tensors that the ONNX model has too."""
        found = []
        for wire, value, first in self.main.named.values():
            if value.uses() or value.is_graph_output():
                found.append(Point(f"{wire.number}{':first' if first else ''}", str(value.name), wire.name))
        return found

    def observe(self, feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
        """By the interpreter, which keeps all tensors for this."""
        wanted = [name.partition(":") for name in names]
        arrays = self._interpreter().tensors(feeds, [int(number) for number, _, _ in wanted])
        turned = [a.transpose(to_first(a.ndim)) if first else a for a, (_, _, first) in zip(arrays, wanted)]
        return dict(zip(names, turned, strict=True))

    def _interpreter(self) -> Any:
        if self._runner is None:
            from sardonyx.converters.tflite_run import Runner

            self._runner = Runner(self.data, self.main, self.state, [each.name for each in self._inputs])
        return self._runner


def read_file(request: Request) -> bytes:
    """The model's bytes; of a bundle (.task), those of the member that ``--option member=`` names."""
    path = Path(request.source)
    data = path.read_bytes()
    if data[4:8] == b"TFL3" or not zipfile.is_zipfile(path):  # a model may carry an archive of its labels at its end
        return data
    with zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if archive.read(name)[4:8] == b"TFL3"]
        member = request.options.get("member") or (members[0] if len(members) == 1 else "")
        if member not in members:
            raise SourceError(
                f"the bundle holds {len(members)} models: {', '.join(members)}",
                hint="--option member=NAME chooses one.",
            )
        return archive.read(member)


def _written(main: Subgraph) -> set[str]:
    """Names of the variables that the main subgraph writes."""
    handles, found = {}, set()
    for raw in main.raw.operators or []:
        name = operator_name(main.model, raw)
        if name == "VAR_HANDLE" and raw.outputs is not None:
            o = options_of(main.model, raw, "VarHandle")
            wire = main.given(raw.outputs)[0]
            handles[wire.number] = o.shared_name or o.container or wire.name
        elif name == "ASSIGN_VARIABLE" and raw.inputs is not None and len(raw.inputs):
            found.add(handles.get(int(raw.inputs[0]), ""))
    return found


def _range(wire: Wire) -> tuple[float | None, float | None]:
    """Which values make sense: of quantised ones all that the type has."""
    if not wire.quantised:
        return None, None
    limits = np.iinfo(wire.dtype)
    return float(limits.min), float(limits.max)


def open_source(request: Request, progress: Callable[[str], None], made: Any = None) -> Source:
    """Open the file named in `request`."""
    return TensorFlowLite(request, progress, made)

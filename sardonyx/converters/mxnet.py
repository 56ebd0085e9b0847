"""MXNet: our own readers of symbol and parameters; MXNet itself is needed to compare, not to convert.

The framework is retired. Where it is not installed, the result is compared under two runtimes only, and a note says so.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from sardonyx.converters import mxnet_ops
from sardonyx.converters.building import Builder
from sardonyx.converters.mxnet_files import Node, find_files, read_params, read_symbol
from sardonyx.converters.mxnet_graph import Graph
from sardonyx.converters.onnx_file import at_opset
from sardonyx.converters.signature import parse_inputs, with_dynamic
from sardonyx.converters.source import Dim, Input, Point, Request, Source
from sardonyx.errors import ConversionError, InputError, ProviderError, SourceError
from sardonyx.model.save import save

_OPSET = 18
_FLAGS = {0: "float32", 1: "float64", 2: "float16", 3: "uint8", 4: "int32", 5: "int8", 6: "int64"}


class MXNet(Source):
    """A symbol with its parameters."""

    def __init__(self, request: Request, progress: Callable[[str], None], made: Any = None):
        super().__init__(request, progress, made)
        self.symbol_path, self.params_path = find_files(request.source, request.options.get("params", ""))
        self.symbol = read_symbol(self.symbol_path)
        self.params = read_params(self.params_path) if self.params_path is not None else {}
        self._check_parameters()
        self._inputs = self._describe()
        self._points: list[Point] = []
        self._runner: Any = None

    def _check_parameters(self) -> None:
        """Refuse a symbol some of whose weights are in no file."""
        missing = []
        for node in self.symbol.nodes:
            for slot, (source, _) in enumerate(node.inputs):
                given = self.symbol.nodes[source]
                if given.op == "null" and given.name not in self.params and mxnet_ops.is_parameter(node, slot):
                    missing.append(given.name)
        if missing:
            where = (
                "there is no file of parameters" if self.params_path is None else f"{self.params_path.name!r} has not"
            )
            raise SourceError(
                f"{where}: {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''} of {self.symbol_path.name!r}",
                hint="net.export(PREFIX) writes both files; name another one by --option params=FILE.",
            )

    def _describe(self) -> list[Input]:
        """The inputs: nodes without operator that are no parameters and that something needs."""
        needed = [node for node in self._needed() if node.op == "null" and node.name not in self.params]
        listed = {each.name: each for each in parse_inputs(self.request.options.get("inputs", ""))}
        samples = [self._by_name(sample, needed) for sample in self.request.samples]
        found = [self._input(node, listed, samples) for node in needed]
        return with_dynamic(found, samples) if len(samples) > 1 else found

    def _needed(self) -> list[Node]:
        nodes, wanted = self.symbol.nodes, {number for number, _ in self.symbol.heads}
        for number in range(len(nodes) - 1, -1, -1):
            if number in wanted:
                slots = enumerate(nodes[number].inputs)
                wanted |= {source for slot, (source, _) in slots if not mxnet_ops.is_ignored(nodes[number], slot)}
        return [node for number, node in enumerate(nodes) if number in wanted]

    def _by_name(self, sample: Mapping[str, np.ndarray], needed: Sequence[Node]) -> dict[str, np.ndarray]:
        names = [node.name for node in needed]
        return {names[int(key)] if key.isdigit() and key not in names else key: v for key, v in sample.items()}

    def _input(self, node: Node, listed: Mapping[str, Input], samples: Sequence[Mapping[str, np.ndarray]]) -> Input:
        low, high = self._range(node)
        if node.name in listed:
            each = listed[node.name]
            return Input(node.name, each.dtype, each.shape, *((each.low, each.high) if each.high else (low, high)))
        dims: list[Dim] = []
        dtype = _FLAGS.get(node.integer("__dtype__", 0), "float32")
        stored = node.ints("__shape__") if node.attrs.get("__shape__", "None") != "None" else []
        if samples and node.name in samples[0]:
            dims, dtype = list(np.shape(samples[0][node.name])), samples[0][node.name].dtype.name
        elif stored:
            dims = [
                size if size > 0 else "batch" if axis == 0 else f"{node.name}_{axis}"
                for axis, size in enumerate(stored)
            ]
            if len(dims) == 4:  # images: whatever batch it was saved for, any will do
                dims[0] = "batch"
        given = {
            key.rpartition(".")[2]: dim for key, dim in self.request.dims.items() if key.rpartition(".")[0] == node.name
        }
        dims += [f"{node.name}_{axis}" for axis in range(len(dims), max((int(key) for key in given), default=-1) + 1)]
        for axis, dim in given.items():
            dims[int(axis)] = dim
        if not dims:
            raise InputError(
                f"the symbol does not say which shape its input {node.name!r} has",
                hint=f"--option 'inputs={node.name}:float32[batch,3,224,224]', or --input SAMPLE.npz.",
            )
        return Input(node.name, dtype, tuple(dims), low, high)

    def _range(self, wanted: Node) -> tuple[float | None, float | None]:
        """Indices into a table have a range."""
        for node in self.symbol.nodes:
            for slot, (source, _) in enumerate(node.inputs):
                if self.symbol.nodes[source] is wanted and node.op == "Embedding" and slot == 0:
                    return 0, node.integer("input_dim") - 1
        return None, None

    def export(self, path: Path) -> list[str]:
        """Convert node by node."""
        self.progress("converting")
        wanted = self.request.opset
        b = Builder(max(_OPSET, wanted or 0), fold_weights=True)
        graph = Graph(self.symbol, b, self.params)
        for each in self._inputs:
            graph.bind(each.name, b.input(each.name, each.dtype, each.shape))
        graph.convert()
        outputs = []
        for number, index in self.symbol.heads:
            value = graph.value(number, index)
            if value.producer() is None or value in outputs:
                value = b.op("Identity", value)
                value.name = b.name(f"{self.symbol.nodes[number].name}_output")
            outputs.append(value)
        model = ir.Model(b.graph(outputs, "main"), ir_version=10, producer_name="sardonyx")
        self._points = [
            Point(name, str(value.name), node.name)
            for node, name, value in graph.points
            if value.uses() or value.is_graph_output()
        ]
        if wanted is not None and wanted < _OPSET:
            model = at_opset(model, wanted)
        save(model, path)
        return ["read by Sardonyx itself", *graph.notes]

    def inputs(self) -> Sequence[Input]:
        """As exported."""
        return self._inputs

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """By MXNet."""
        return self._executor().run(feeds, None)

    def points(self) -> Sequence[Point]:
        """The outputs of the nodes."""
        return self._points

    def observe(self, feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
        """By MXNet."""
        return dict(zip(names, self._executor().run(feeds, list(names)), strict=True))

    def _executor(self) -> _Executor:
        if self._runner is None:
            self._runner = _Executor(self.symbol_path, self.params)
        return self._runner


class _Executor:
    """The symbol under MXNet."""

    def __init__(self, symbol: Path, params: Mapping[str, np.ndarray]):
        if importlib.util.find_spec("mxnet") is None:
            raise ProviderError("MXNet is not installed", hint="pip install mxnet (1.9.1, with numpy below 2)")
        # MXNet 1.x asks for names that numpy 1.24 dropped.
        for name, kind in (("bool", bool), ("object", object), ("int", int), ("float", float)):
            if name not in np.__dict__:
                setattr(np, name, kind)
        import mxnet

        self.mx = mxnet
        self.symbol = mxnet.sym.load(str(symbol))
        self.params = params

    def run(self, feeds: Mapping[str, np.ndarray], inner: Sequence[str] | None) -> list[np.ndarray]:
        """The outputs, or the inner values called `inner`."""
        mx, symbol = self.mx, self.symbol
        if inner is not None:
            internals = symbol.get_internals()
            symbol = mx.sym.Group([internals[name] for name in inner])
        wanted = {*symbol.list_arguments(), *symbol.list_auxiliary_states()}
        fed = {name: np.asarray(value) for name, value in feeds.items() if name in wanted}
        try:
            arguments, _, auxiliary = symbol.infer_shape(**{name: value.shape for name, value in fed.items()})
            arrays = {**self.params, **fed}

            def filled(names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> list[Any]:
                """Labels are in no file and do not matter."""
                values = [arrays.get(name, np.zeros(shape, np.float32)) for name, shape in zip(names, shapes)]
                return [mx.nd.array(value, dtype=value.dtype) for value in values]

            executor = symbol.bind(
                mx.cpu(), filled(symbol.list_arguments(), arguments), grad_req="null",
                aux_states=filled(symbol.list_auxiliary_states(), auxiliary),
            )  # fmt: skip
            return [output.asnumpy() for output in executor.forward(is_train=False)]
        except mx.base.MXNetError as problem:
            raise ConversionError(f"MXNet fails: {str(problem).strip().splitlines()[-1][:300]}") from problem


def open_source(request: Request, progress: Callable[[str], None], made: Any = None) -> Source:
    """Open the files named in `request`."""
    return MXNet(request, progress, made)

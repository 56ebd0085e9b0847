"""The source side of verification: the interpreter of LiteRT, or of TensorFlow, on the model as a pure function.

The interpreter keeps variables to itself and knows the operators of TensorFlow Lite only. So the model is rewritten
first, by the interpreter's own writer of the format: what is read from a variable becomes an input, what is written
to it an output, and a custom operator that is a known one in disguise becomes that.
"""

from __future__ import annotations

import importlib
import importlib.util
import struct
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from sardonyx.converters.tflite_graph import State, Subgraph
from sardonyx.errors import ConversionError, InputError, ProviderError

_STATEFUL = {"VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE"}


class Runner:
    """An interpreter on one model.

    Args:
        data: the model.
        main: its first subgraph, converted.
        state: its variables.
        names: of the ONNX model's inputs: those of the subgraph, then variables.

    Raises:
        ProviderError: no interpreter is installed.
        ConversionError: the interpreter refuses the model.
    """

    def __init__(self, data: bytes, main: Subgraph, state: State, names: Sequence[str]):
        variables = state.variables.values()
        self.inputs = {name: [wire.number] for name, wire in zip(names, main.given(main.raw.inputs))}
        for variable in variables:
            if variable.input is not None:
                own = [variable.tensor] if variable.tensor is not None else variable.reads
                self.inputs[str(variable.input.name)] = own
        self.outputs = [wire.number for wire in main.given(main.raw.outputs)]
        for variable in variables:
            last = variable.tensor if variable.tensor is not None else variable.written
            self.outputs += [] if last is None else [last]
        self.data = _pure(data, main, state)
        self._plain = self._open(False)
        self._keeping: Any = None

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs, then new values of variables."""
        return self._run(self._plain, feeds, self.outputs)

    def tensors(self, feeds: Mapping[str, np.ndarray], numbers: Sequence[int]) -> list[np.ndarray]:
        """The values of tensors."""
        if self._keeping is None:
            self._keeping = self._open(True)
        return self._run(self._keeping, feeds, numbers)

    def _open(self, keep: bool) -> Any:
        module = _module("interpreter")
        # Without delegates: they hide tensors, and fuse what the file has apart.
        resolver = module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        try:
            return module.Interpreter(
                model_content=self.data, experimental_preserve_all_tensors=keep,
                experimental_op_resolver_type=resolver, num_threads=1,
            )  # fmt: skip
        except (RuntimeError, ValueError) as problem:
            raise ConversionError(
                f"the interpreter refuses the model: {str(problem).strip()[:300]}",
                hint="It was converted; --no-verify keeps the result under its unverified name.",
            ) from problem

    def _run(self, interpreter: Any, feeds: Mapping[str, np.ndarray], numbers: Sequence[int]) -> list[np.ndarray]:
        taken = {entry["index"] for entry in interpreter.get_input_details()}
        try:
            for name, tensors in self.inputs.items():
                for number in taken.intersection(tensors):
                    interpreter.resize_tensor_input(number, np.shape(feeds[name]))
            interpreter.allocate_tensors()
            for name, tensors in self.inputs.items():
                for number in tensors:
                    interpreter.set_tensor(number, np.ascontiguousarray(feeds[name]))
            interpreter.invoke()
            return [np.array(interpreter.get_tensor(number)) for number in numbers]
        except (RuntimeError, ValueError) as problem:
            raise InputError(f"the interpreter fails: {str(problem).strip()[:300]}") from problem


def _module(name: str) -> ModuleType:
    """A module of the interpreter, from whichever package has it."""
    if importlib.util.find_spec("ai_edge_litert") is not None:
        return importlib.import_module(f"ai_edge_litert.{name}")
    if importlib.util.find_spec("tensorflow") is not None:
        return importlib.import_module("tensorflow.lite.python." + name)
    raise ProviderError("no interpreter of TensorFlow Lite is installed", hint="pip install 'sardonyx[tflite]'")


def _pure(data: bytes, main: Subgraph, state: State) -> bytes:
    """The model without variables and custom operators."""
    nodes = [main.node(index, raw) for index, raw in enumerate(main.raw.operators or [])]
    custom = [node.index for node in nodes if node.operator == "CUSTOM:Convolution2DTransposeBias"]
    stateful = [node.index for node in nodes if node.operator in _STATEFUL]
    if not custom and not stateful:
        return data
    import flatbuffers

    schema = _module("schema_py_generated")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    graph = model.subgraphs[0]
    for index in custom:
        _as_transpose_conv(schema, model, graph, graph.operators[index])
    graph.operators = [each for index, each in enumerate(graph.operators) if index not in stateful]
    resources = [v for v in state.variables.values() if v.tensor is None]
    graph.inputs = [*graph.inputs, *(number for variable in resources for number in variable.reads)]
    graph.outputs = [*graph.outputs, *(variable.written for variable in resources if variable.written is not None)]
    model.signatureDefs = []
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _as_transpose_conv(schema: ModuleType, model: Any, graph: Any, operator: Any) -> None:
    """MediaPipe's transposed convolution as the operator that later versions have for it."""
    code = schema.OperatorCodeT()
    code.deprecatedBuiltinCode = code.builtinCode = schema.BuiltinOperator.TRANSPOSE_CONV
    code.version = 3  # the first with a bias
    model.operatorCodes.append(code)
    padding, width, height = struct.unpack_from("<3i", bytes(operator.customOptions))
    options = schema.TransposeConvOptionsT()
    options.padding, options.strideW, options.strideH = padding - 1, width, height
    buffer, shape = schema.BufferT(), schema.TensorT()
    buffer.data = np.frombuffer(np.asarray(graph.tensors[operator.outputs[0]].shape, "<i4").tobytes(), np.uint8)
    model.buffers.append(buffer)
    shape.shape, shape.type, shape.buffer = [4], schema.TensorType.INT32, len(model.buffers) - 1
    shape.name = b"output_shape"
    graph.tensors.append(shape)
    x, weights, *bias = operator.inputs
    operator.opcodeIndex = len(model.operatorCodes) - 1
    operator.inputs = [len(graph.tensors) - 1, weights, x, *bias]
    operator.customOptions = None
    operator.builtinOptionsType = schema.BuiltinOptions.TransposeConvOptions
    operator.builtinOptions = options

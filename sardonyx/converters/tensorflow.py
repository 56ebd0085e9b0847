"""TensorFlow: SavedModels, frozen graphs and functions, by tf2onnx.

Options: ``signature`` of a SavedModel; of a frozen graph ``inputs`` and ``outputs`` (names, by commas), ``shapes`` of
inputs, and ``constants`` for placeholders that are to be none (``training=false``).

Whatever the source is, it becomes one function of named inputs; that function is converted, and run for comparison.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sardonyx.converters.onnx_file import model_inputs
from sardonyx.converters.signature import parse_inputs
from sardonyx.converters.source import Input, Point, Request, Source
from sardonyx.converters.tf_points import Inner
from sardonyx.errors import ConversionError, InputError, SourceError


class TensorFlow(Source):
    """A function of TensorFlow: `function` takes the inputs in order, and gives a list of named outputs."""

    def __init__(self, request: Request, progress: Callable[[str], None], made: Any = None):
        super().__init__(request, progress, made)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        self.notes: list[str] = []
        self.names: list[str] = []  # of the outputs
        self.specs: list[Any] = []  # a `tf.TensorSpec` with a name for each input
        self.function: Callable[..., list[Any]]
        self._inputs: Sequence[Input] = ()
        self._path = Path()  # of the exported model
        self._exported: Any = None  # the function that was
        self._inner: Inner | None = None
        self.open()

    def open(self) -> None:
        """Set `function`, `specs` and `names`."""
        opened = {"saved-model": self._saved_model, "graphdef": self._frozen_graph, "tf-function": self._made_function}
        if self.request.kind not in opened:
            raise SourceError(
                "a TensorFlow checkpoint holds variables alone, without the graph that they belong to",
                hint="Save the model with tf.saved_model.save or model.save(...), and convert that.",
            )
        opened[self.request.kind]()

    def _saved_model(self) -> None:
        import tensorflow as tf

        try:
            loaded = tf.saved_model.load(self.request.source)
        except (OSError, ValueError, tf.errors.OpError) as problem:
            raise SourceError(f"TensorFlow cannot read the SavedModel: {problem}") from problem
        signatures = loaded.signatures
        if not signatures:
            raise SourceError("the SavedModel has no signature", hint="Save it with signatures=...")
        wanted = self.request.options.get("signature", "serving_default")
        name = wanted if wanted in signatures else next(iter(signatures))
        if "signature" in self.request.options and name != wanted:
            raise InputError(f"no signature {wanted!r}", hint=f"the model has: {', '.join(signatures)}")
        if len(signatures) > 1:
            others = [other for other in signatures if other != name]
            self.notes.append(f"signature {name}; others: {', '.join(others)} (--option signature=...)")
        concrete = signatures[name]
        self._keep = loaded  # its variables die with it
        self._take_concrete(concrete)

    def _take_concrete(self, concrete: Any) -> None:
        """A signature: named arguments in, named results out."""
        self.specs = [self._fixed(spec) for spec in concrete.structured_input_signature[1].values()]
        keys = list(concrete.structured_input_signature[1])
        self.names = sorted(concrete.structured_outputs)

        def call(*arguments: Any) -> list[Any]:
            results = concrete(**dict(zip(keys, arguments, strict=True)))
            return [results[name] for name in self.names]

        self.function = call

    def _fixed(self, spec: Any) -> Any:
        """A spec with the sizes that the user gave."""
        import tensorflow as tf

        if spec.shape.rank is None:
            raise InputError(
                f"the rank of input {spec.name!r} is unknown", hint="Give a signature or a sample with a shape."
            )
        dims = [self.request.dims.get(f"{spec.name}.{axis}", dim) for axis, dim in enumerate(spec.shape)]
        sizes = [dim if isinstance(dim, int) else None for dim in dims]
        return tf.TensorSpec(sizes, spec.dtype, name=spec.name)

    def _frozen_graph(self) -> None:
        import tensorflow as tf

        graph_def = tf.compat.v1.GraphDef()
        try:
            graph_def.ParseFromString(Path(self.request.source).read_bytes())
        except Exception as problem:
            raise SourceError(f"no frozen graph: {problem}") from problem
        set_constants(graph_def, self.request.options.get("constants", ""))
        declared = {each.name: each for each in parse_inputs(self.request.options.get("shapes", ""))}
        for node in graph_def.node:
            if node.name in declared and node.op.startswith("Placeholder"):
                sizes = [d if isinstance(d, int) else None for d in declared[node.name].shape]
                node.op = "Placeholder"  # a default of another shape would not fit
                del node.input[:]
                node.attr["shape"].shape.CopyFrom(tf.TensorShape(sizes).as_proto())
        inputs, outputs = frozen_ends(graph_def, self.request.options)
        keep_needed(graph_def, [*inputs, *outputs])  # shapes may fit nothing else: losses, labels of a fixed size
        wrapped = tf.compat.v1.wrap_function(lambda: tf.compat.v1.import_graph_def(graph_def, name=""), [])
        pruned = wrapped.prune(
            [wrapped.graph.get_tensor_by_name(n) for n in inputs],
            [wrapped.graph.get_tensor_by_name(n) for n in outputs],
        )
        for name, tensor in zip(inputs, pruned.inputs, strict=True):
            self.specs.append(self._fixed(tf.TensorSpec(tensor.shape, tensor.dtype, name=name.partition(":")[0])))
        self.names = [name.partition(":")[0] for name in outputs]
        self.function = lambda *arguments: list(pruned(*arguments))

    def _made_function(self) -> None:
        made = self.made
        signature = getattr(made, "input_signature", None)
        if signature is None:
            raise InputError("the function has no input signature", hint="@tf.function(input_signature=[...])")
        self._take_concrete_positional(made, [self._named(spec, number) for number, spec in enumerate(signature)])

    def _named(self, spec: Any, number: int) -> Any:
        import tensorflow as tf

        return tf.TensorSpec(spec.shape, spec.dtype, name=spec.name or f"input_{number}")

    def _take_concrete_positional(self, function: Callable[..., Any], specs: list[Any]) -> None:
        import tensorflow as tf

        self.specs = [self._fixed(spec) for spec in specs]
        structure = tf.function(function).get_concrete_function(*self.specs).structured_outputs
        self.names = (
            sorted(structure)
            if isinstance(structure, Mapping)
            else [f"output_{number}" for number in range(len(tf.nest.flatten(structure)))]
        )
        self.function = lambda *arguments: tf.nest.flatten(function(*arguments))  # dictionaries in order of their keys

    # Conversion.

    def export(self, path: Path) -> list[str]:
        """By tf2onnx."""
        import tensorflow as tf
        import tf2onnx

        self.progress("converting by tf2onnx")
        self._path = path
        named = self._exported = tf.function(
            lambda *arguments: [tf.identity(v, n) for v, n in zip(self.function(*arguments), self.names)]
        )
        try:
            model, _ = tf2onnx.convert.from_function(
                named, input_signature=self.specs, opset=self.request.opset or 17, output_path=None
            )
        except Exception as problem:
            raise _refused(problem) from problem
        self._set_captured(model, named.get_concrete_function(*self.specs))
        self._check_native(model)
        self._rename(model)
        path.write_bytes(model.SerializeToString())
        self._inputs = self._ranges(path)
        return [*self.notes, f"converted by tf2onnx {tf2onnx.__version__}"]

    @staticmethod
    def _set_captured(model: Any, concrete: Any) -> None:
        """Tensors that a function captured, other than variables: weights, of which tf2onnx makes inputs."""
        import onnx

        values = {
            inner.name: outer.numpy()
            for outer, inner in concrete.graph.captures
            if hasattr(outer, "numpy") and outer.dtype.is_numpy_compatible
        }
        for value in [value for value in model.graph.input if value.name in values]:
            model.graph.initializer.append(onnx.numpy_helper.from_array(values[value.name], value.name))
            model.graph.input.remove(value)

    def _check_native(self, model: Any) -> None:
        """tf2onnx leaves what it does not know in place, with a warning."""
        unknown = [node for node in model.graph.node if node.domain not in ("", "ai.onnx", "ai.onnx.ml")]
        if unknown:
            kinds = ", ".join(sorted({node.op_type for node in unknown}))
            raise ConversionError(
                f"these operations of TensorFlow have no ONNX form: {kinds}",
                node=unknown[0].name,
                operator=unknown[0].op_type,
                hint="Leave them out of the exported signature, or do their work before or after the model.",
            )

    def _rename(self, model: Any) -> None:
        """Inputs and outputs under the names of the signature, without TensorFlow's ':0'."""
        wanted = dict(zip([value.name for value in model.graph.input], [spec.name for spec in self.specs]))
        wanted |= dict(zip([value.name for value in model.graph.output], self.names))
        wanted = {old: new for old, new in wanted.items() if old != new}
        for value in [*model.graph.input, *model.graph.output]:
            value.name = wanted.get(value.name, value.name)
        for node in model.graph.node:
            node.input[:] = [wanted.get(name, name) for name in node.input]
            node.output[:] = [wanted.get(name, name) for name in node.output]

    def _ranges(self, path: Path) -> list[Input]:
        from sardonyx.model.load import load

        return model_inputs(load(path))

    def inputs(self) -> Sequence[Input]:
        """As exported."""
        return self._inputs

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """By TensorFlow."""
        return [np.asarray(value) for value in self.function(*self._arguments(feeds))]

    def _arguments(self, feeds: Mapping[str, np.ndarray]) -> list[Any]:
        import tensorflow as tf

        return [tf.constant(feeds[spec.name], spec.dtype) for spec in self.specs]

    def points(self) -> Sequence[Point]:
        """The outputs of the operations that the ONNX model has too."""
        if self._inner is None:
            from sardonyx.model.inline import infer_types
            from sardonyx.model.load import load

            model = load(self._path)
            infer_types(model)
            self._inner = Inner(self._exported.get_concrete_function(*self.specs), model)
        return self._inner.points

    def observe(self, feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
        """By TensorFlow, with the variables as constants."""
        self.points()
        assert self._inner is not None
        return self._inner.observe(self._arguments(feeds), names)


def frozen_ends(graph_def: Any, options: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Names of the input and output tensors of a frozen graph: given, or its placeholders and loose ends."""
    used = {operation_of(name) for node in graph_def.node for name in node.input}
    inputs = [node.name for node in graph_def.node if node.op == "Placeholder"]
    ends = [
        n.name for n in graph_def.node if n.name not in used and n.op not in ("Placeholder", "Const", "NoOp", "Assert")
    ]
    chosen = [
        options[key].split(",") if key in options else found for key, found in (("inputs", inputs), ("outputs", ends))
    ]
    if not all(chosen):
        raise SourceError("the frozen graph has no placeholder or no end", hint="--option inputs=a,b outputs=c")
    return tuple([name if ":" in name else f"{name}:0" for name in names] for names in chosen)  # type: ignore[return-value]


def keep_needed(graph_def: Any, tensors: Sequence[str]) -> None:
    """Drop the operations that none of `tensors` depends on."""
    sources = {node.name: [operation_of(name) for name in node.input] for node in graph_def.node}
    waiting, needed = [operation_of(name) for name in tensors], set()
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += sources.get(name, ())
    kept = [node for node in graph_def.node if node.name in needed]
    del graph_def.node[:]
    graph_def.node.extend(kept)


def operation_of(tensor: str) -> str:
    """The operation that makes a tensor, or that an input of another waits for: ``^name``, ``name:1``."""
    return tensor.partition(":")[0].lstrip("^")


def set_constants(graph_def: Any, text: str) -> None:
    """Replace the placeholders that `text` names, as in ``training=false;rate=0.5``, by constants.

    Raises:
        InputError: there is no placeholder of that name, or the value is none.
    """
    import tensorflow as tf

    placeholders = {node.name: node for node in graph_def.node if node.op.startswith("Placeholder")}
    for pair in filter(str.strip, text.split(";")):
        name, _, value = (part.strip() for part in pair.partition("="))
        if name not in placeholders:
            raise InputError(f"no placeholder {name!r}", hint=f"the graph has: {', '.join(placeholders)}")
        node = placeholders[name]
        kind = node.attr["dtype"].type
        try:
            tensor = tf.make_tensor_proto(json.loads(value), kind)
        except (ValueError, TypeError) as problem:
            raise InputError(
                f"constants: {pair.strip()!r}", hint="write NAME=false, NAME=0.5 or NAME=[1, 2]"
            ) from problem
        node.Clear()
        node.name, node.op = name, "Const"
        node.attr["dtype"].type = kind
        node.attr["value"].tensor.CopyFrom(tensor)


def _refused(problem: Exception) -> ConversionError:
    text = str(problem).strip().splitlines()
    return ConversionError(
        f"tf2onnx refuses the model: {text[0] if text else type(problem).__name__}",
        hint="The operation that it names has no ONNX form, or a shape is unknown: give sizes by --dim INPUT.AXIS=N.",
    )


def open_source(request: Request, progress: Callable[[str], None], made: Any = None) -> Source:
    """Open the source with TensorFlow."""
    return TensorFlow(request, progress, made)

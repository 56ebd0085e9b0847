"""The conformance cases that ship inside the `onnx` package, one object per case.

Kinds: ``node`` (generated in memory by `onnx.backend.test.case.node`), and the folders of
`onnx/backend/test/data`: ``simple``, ``pytorch-converted``, ``pytorch-operator`` and ``light``
(image classifiers whose weights are ConstantOfShape nodes, with one stored output each).

Generating the node cases takes seconds, so they are written once, pickled one by one, into pytest's cache
folder, under the version of `onnx` and numpy. `names` reads an index only; `load` reads one case.
"""

from __future__ import annotations

import functools
import json
import os
import pickle
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

RTOL, ATOL = 1e-3, 1e-7  # what the official runner uses unless the case says otherwise
KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator", "light")
DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
CACHE = Path(__file__).parents[1] / ".pytest_cache" / "d" / "onnx-cases"
_RANDOM = {
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}


@dataclass(frozen=True)
class Case:
    """One model with its data sets.

    Attributes:
        data: pairs (inputs, expected outputs), both in the order of the graph's own inputs and outputs;
            a value is an array, a list for a sequence, None for an empty optional.
        random: the values depend on a generator the standard leaves open; only types and shapes are
            compared.
    """

    name: str
    kind: str
    model: onnx.ModelProto
    data: list[tuple[list[Any], list[Any]]]
    rtol: float
    atol: float
    random: bool

    def feeds(self, inputs: Sequence[Any]) -> dict[str, Any]:
        """`inputs` by name (inputs that are initializers as well are not fed)."""
        return dict(zip(_fed_names(self.model), inputs, strict=False))

    @property
    def operators(self) -> list[str]:
        """The operator types of the case, in graph order, repetitions included."""
        return [node.op_type for node in _nodes(self.model.graph)]


def names(kinds: Sequence[str] = KINDS) -> list[str]:
    """Names of all cases of `kinds`, sorted within a kind."""
    return [name for kind in kinds for name in sorted(_index(kind))]


@functools.lru_cache(maxsize=64)
def load(name: str) -> Case:
    """The case called `name` (KeyError if there is none)."""
    for kind in KINDS:
        if name in _index(kind):
            return _load_node(name) if kind == "node" else _load_folder(name, kind)
    raise KeyError(name)


def run_and_compare(case: Case, run: Any) -> None:
    """Call ``run(feeds) -> outputs`` for each data set; AssertionError where an output differs."""
    for inputs, expected in case.data:
        compare(expected, run(case.feeds(inputs)), case)


def compare(expected: Sequence[Any], actual: Sequence[Any], case: Case) -> None:
    """Official rules: same count, types and shapes; values within rtol and atol; NaN equals NaN.

    Raises:
        AssertionError: says which output differs and how.
    """
    if len(expected) != len(actual):
        raise AssertionError(f"{case.name}: {len(actual)} outputs, expected {len(expected)}")
    for position, (want, have) in enumerate(zip(expected, actual, strict=True)):
        _compare_value(want, have, case, f"{case.name}: output {position}")


def _compare_value(want: Any, have: Any, case: Case, where: str) -> None:
    if want is None:
        if have is not None:
            raise AssertionError(f"{where}: {type(have).__name__}, expected an empty optional")
        return
    if isinstance(want, (list, tuple)):
        if not isinstance(have, (list, tuple)) or len(have) != len(want):
            raise AssertionError(f"{where}: expected a sequence of {len(want)}, got {have!r}")
        for i, (a, b) in enumerate(zip(want, have, strict=True)):
            _compare_value(a, b, case, f"{where}[{i}]")
        return
    want = np.asarray(want)
    if not isinstance(have, (np.ndarray, np.generic)):
        raise AssertionError(f"{where}: {type(have).__name__}, expected an array of {want.dtype}")
    if have.shape != want.shape:
        raise AssertionError(f"{where}: shape {have.shape}, expected {want.shape}")
    if want.dtype.kind in "OUST":
        np.testing.assert_array_equal(have.astype(object), want.astype(object), err_msg=where)
        return
    if have.dtype != want.dtype:
        raise AssertionError(f"{where}: type {have.dtype}, expected {want.dtype}")
    if not case.random:
        _compare_numbers(want, have, case, where)


def _compare_numbers(want: np.ndarray, have: np.ndarray, case: Case, where: str) -> None:
    rtol = max(case.rtol, 2**-6) if want.dtype.name == "bfloat16" else case.rtol  # the official exception
    if want.dtype.kind == "V" or want.dtype.name not in np.sctypeDict:  # ml_dtypes do not promote
        want, have = want.astype(np.float32), have.astype(np.float32)
    np.testing.assert_allclose(have, want, rtol=rtol, atol=case.atol, err_msg=where)


# ---- in memory: node ----------------------------------------------------------------------------------


def _cache_file() -> Path:
    return CACHE / f"node-onnx{onnx.__version__}-numpy{np.__version__}.pickle"


@functools.cache
def _index(kind: str) -> dict[str, Any]:
    """Name -> where the case is: (offset, length) for node cases, a path for the others."""
    if kind == "node":
        path = _cache_file()
        if not path.exists():
            _write_node_cases(path)
        with path.open("rb") as file:
            return pickle.load(file)
    if kind == "light":
        models = (DATA / "light").glob("light_*.onnx")
        return {f"test_{path.stem.removeprefix('light_')}": path for path in models}
    return {path.name: path for path in (DATA / kind).iterdir() if (path / "model.onnx").exists()}


def _write_node_cases(path: Path) -> None:
    """One file: the index pickled, then every case pickled; offsets count from the end of the index."""
    import onnx.backend.test.case.node as node_cases

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        state = np.random.get_state()  # noqa: NPY002 (the package's own code draws from the global state)
        np.random.seed(0)  # noqa: NPY002
        cases = node_cases.collect_testcases()
        np.random.set_state(state)  # noqa: NPY002
    index, blobs, offset = {}, [], 0
    for case in cases:
        data = [([_value(v) for v in a], [_value(v) for v in b]) for a, b in case.data_sets]
        record = (case.model.SerializeToString(), data, case.rtol, case.atol)
        blobs.append(pickle.dumps(record, protocol=5))
        index[case.name] = (offset, len(blobs[-1]))
        offset += len(blobs[-1])
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")  # several workers may start at once
    partial.write_bytes(b"".join([pickle.dumps(index, protocol=5), *blobs]))
    partial.replace(path)


def _load_node(name: str) -> Case:
    offset, length = _index("node")[name]
    with _cache_file().open("rb") as file:
        pickle.load(file)  # leaves the file at the end of the index
        file.seek(offset, os.SEEK_CUR)
        blob, data, rtol, atol = pickle.loads(file.read(length))
    model = onnx.load_from_string(blob)
    return Case(name, "node", model, data, rtol, atol, _is_random(model, data))


def _value(value: Any) -> Any:
    """A stored value as the runner would feed it: TensorProto and scalars become arrays."""
    if value is None or isinstance(value, dict):
        return value
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, (list, tuple)):
        return [_value(item) for item in value]
    return np.asarray(value)


# ---- on disk --------------------------------------------------------------------------------------------


def _load_folder(name: str, kind: str) -> Case:
    path = _index(kind)[name]
    if kind == "light":
        return _load_light(name, path)
    model = onnx.load(path / "model.onnx")
    options = json.loads((path / "data.json").read_text()) if (path / "data.json").exists() else {}
    data = []
    for folder in sorted(path.glob("test_data_set*")):
        inputs = [_read(folder / f"input_{i}.pb", t) for i, t in _stored(folder, "input", model)]
        outputs = [_read(folder / f"output_{i}.pb", t) for i, t in _stored(folder, "output", model)]
        data.append((inputs, outputs))
    rtol, atol = options.get("rtol", RTOL), options.get("atol", ATOL)
    return Case(name, kind, model, data, rtol, atol, _is_random(model, data))


def _load_light(name: str, path: Path) -> Case:
    """Inputs by the official rule: arange(n) / n in the input's shape."""
    model = onnx.load(path)
    fed = set(_fed_names(model))
    inputs = []
    for value in model.graph.input:
        if value.name in fed:
            shape = tuple(d.dim_value or 1 for d in value.type.tensor_type.shape.dim)
            size = int(np.prod(shape))
            inputs.append((np.arange(size).reshape(shape) / size).astype(np.float32))
    count = len(model.graph.output)
    files = [path.with_name(f"{path.stem}_output_{i}.pb") for i in range(count)]
    types = [output.type for output in model.graph.output]
    outputs = [_read(file, kind) for file, kind in zip(files, types, strict=True)]
    rtol = 2e-3 if name == "test_densenet121" else RTOL  # as the official list says
    return Case(name, "light", model, [(inputs, outputs)], rtol, ATOL, random=False)


def _stored(folder: Path, stem: str, model: onnx.ModelProto) -> list[tuple[int, onnx.TypeProto]]:
    values = model.graph.input if stem == "input" else model.graph.output
    count = len(list(folder.glob(f"{stem}_*.pb")))
    return [(i, values[i].type) for i in range(count)]


def _read(path: Path, type_proto: onnx.TypeProto) -> Any:
    blob = path.read_bytes()
    if type_proto.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(blob))
    if type_proto.HasField("optional_type"):
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(blob))
    return numpy_helper.to_array(onnx.TensorProto.FromString(blob))


# ---- what a model contains ----------------------------------------------------------------------------


def _fed_names(model: onnx.ModelProto) -> list[str]:
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value.name for value in model.graph.input if value.name not in weights]


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for body in [attribute.g, *attribute.graphs]:
                yield from _nodes(body)


def _is_random(model: onnx.ModelProto, data: list[Any]) -> bool:
    """True if a generator is drawn from; Dropout draws only when training with a ratio above 0."""
    feeds = dict(zip(_fed_names(model), data[0][0], strict=False))
    for node in _nodes(model.graph):
        if node.op_type in _RANDOM:
            return True
        if node.op_type == "Dropout" and len(node.input) > 2:
            ratio = feeds.get(node.input[1], 0.5) if node.input[1] else 0.5
            return bool(np.any(feeds.get(node.input[2], True))) and float(ratio) > 0
    return False

"""Read a model from a file, bytes or an object, and refuse what is malformed with an error that says why."""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter
import onnx_ir as ir
from google.protobuf.message import DecodeError

from sardonyx.errors import ModelError, UnsupportedError
from sardonyx.model import wire
from sardonyx.model.check import check, check_versions
from sardonyx.model.schemas import MIN_OPSET, TYPE_KEY, signature, version_of
from sardonyx.model.tensors import check_tensor

_SPARSE_LIMIT = 2**31  # bytes of a sparse initializer written out densely

# What people pass by mistake: (bytes at offset, what it is, what to do).
_OTHER_FORMATS = [
    (4, b"ORTM", "an ORT-format model", "Use the .onnx file that it was made from."),
    (4, b"TFL3", "a TensorFlow Lite model", "Convert it first (sardonyx convert)."),
    (0, b"PK\x03\x04", "a zip archive (PyTorch or Keras)", "Convert it first (sardonyx convert)."),
    (0, b"\x89HDF", "an HDF5 file (Keras)", "Convert it first (sardonyx convert)."),
    (0, b"\x80\x02", "a pickle (PyTorch or scikit-learn)", "Convert it first (sardonyx convert)."),
    (0, b"\x1f\x8b", "gzip-compressed", "Decompress it first."),
    (0, b"version https://git-lfs", "a git-lfs pointer, not the model itself", "Fetch it: git lfs pull."),
    (0, b"<", "a web page or XML (an OpenVINO .xml?)", "Check how it was downloaded."),
]


def load(
    source: str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model,
    *,
    folder: str | os.PathLike[str] | None = None,
) -> ir.Model:
    """Read and check a model; its weights stay in the file and are mapped, not copied.

    Args:
        source: path of an .onnx file, its bytes, or a model in memory. A `ModelProto` is not modified.
        folder: where external data of bytes or a `ModelProto` lies; a file's own folder otherwise.

    Returns:
        The model, its nodes in topological order. An `onnx_ir.Model` is copied (its weights are shared), so
        that later steps may change the result. A model older than opset 7 is converted to opset 7.

    Raises:
        ModelError: it is no ONNX model, or breaks the specification (what and where is said).
        UnsupportedError: its IR version or an opset is newer or older than is known here.
    """
    if isinstance(source, ir.Model):
        return _copy(source)
    spans: dict[int, wire.Span] = {}
    data: mmap.mmap | memoryview = memoryview(b"")
    if isinstance(source, onnx.ModelProto):
        proto = _copy_proto(source)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        data = _unpacked(memoryview(source).cast("B"))
        proto, spans = _parse(data, "the model")
    elif isinstance(source, (str, os.PathLike)):
        data = _unpacked(_map(Path(source)))
        folder = Path(source).resolve().parent if folder is None else folder
        proto, spans = _parse(data, repr(os.fspath(source)))
    else:
        raise TypeError(f"a path, bytes, ModelProto or onnx_ir.Model is needed, not {type(source).__name__}")
    root = None if folder is None else Path(folder).resolve()
    unsorted = check(proto, root, {position: span.stop - span.start for position, span in spans.items()})
    if check_versions(proto).get("", MIN_OPSET) < MIN_OPSET:
        for position, span in spans.items():
            proto.graph.initializer[position].raw_data = bytes(data[span.start : span.stop])
        spans = {}
        proto = _upgrade(proto)
    _write_out_sparse(proto)
    model = _build(proto, root)
    _attach(model, proto, data, spans)
    if unsorted:
        _sort(model)
    return model


def unknown_operators(model: ir.Model) -> dict[tuple[str, str, int], list[ir.Node]]:
    """Operators that neither the standard nor the model defines: (domain, operator, opset) -> nodes."""
    unknown: dict[tuple[str, str, int], list[ir.Node]] = {}
    bodies: list[tuple[ir.Graph | ir.Function, dict[str, int]]] = [(model.graph, model.opset_imports)]
    bodies += [(function, function.opset_imports) for function in model.functions.values()]
    for body, opsets in bodies:
        for node in body.all_nodes():
            version = version_of(node, opsets)
            if node.op_identifier() not in model.functions and signature(node.domain, node.op_type, version) is None:
                unknown.setdefault((node.domain, node.op_type, version), []).append(node)
    return unknown


def _all_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    pending: list[onnx.NodeProto] = [*proto.graph.node, *(node for f in proto.functions for node in f.node)]
    yield from proto.graph.initializer
    while pending:
        for attribute in pending.pop().attribute:
            yield attribute.t
            yield from attribute.tensors
            for graph in [attribute.g, *attribute.graphs]:
                yield from graph.initializer
                pending.extend(graph.node)


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise ModelError(f"{str(path)!r} is empty", hint="The download or export was cut off.")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"{str(path)!r} cannot be read: {reason}", hint="Give the path of an .onnx file.") from error


def _unpacked(data: mmap.mmap | memoryview) -> mmap.mmap | memoryview:
    """The ONNX file in a container of `sardonyx.optimizer.compress`; anything else as it is."""
    if data[:4] != b"\x89SDX":
        return data
    from sardonyx.optimizer.compress.container import unpack

    return memoryview(unpack(memoryview(data)))


def _parse(data: mmap.mmap | memoryview, shown: str) -> tuple[onnx.ModelProto, dict[int, wire.Span]]:
    if len(data) == 0:
        raise ModelError(f"{shown} is empty", hint="The download or export was cut off.")
    _refuse_other_formats(bytes(data[:64]), shown)
    proto = onnx.ModelProto()
    try:
        rest, spans = wire.split(data)
        proto.ParseFromString(rest)
    except (wire.Malformed, DecodeError) as error:
        hint = "It is truncated, damaged, or no ONNX model; export or download it again."
        raise ModelError(f"{shown} cannot be parsed as ONNX: {error}", hint=hint) from error
    if not proto.HasField("graph"):
        hint = "It is truncated, or another kind of file."
        raise ModelError(f"{shown} contains no graph, so it is no ONNX model", hint=hint)
    return proto, spans


def _refuse_other_formats(head: bytes, shown: str) -> None:
    for offset, magic, what, hint in _OTHER_FORMATS:
        if head[offset : offset + len(magic)] == magic:
            raise ModelError(f"{shown} is {what}, not ONNX", hint=hint)
    # An ONNX file begins with field 1, a byte (8) that is no printable character.
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        raise ModelError(f"{shown} is a text file, not ONNX", hint="ONNX models are binary (protobuf).")


def _build(proto: onnx.ModelProto, folder: Path | None) -> ir.Model:
    for entry in [*proto.opset_import, *(e for f in proto.functions for e in f.opset_import)]:
        entry.domain = "" if entry.domain == "ai.onnx" else entry.domain
    maps = _take_map_types(proto.graph)
    try:
        with _quiet():
            model = ir.from_proto(proto)
    except RecursionError as error:
        raise ModelError("types or subgraphs are nested too deeply") from error
    except Exception as error:  # whatever is left that the checks did not name
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise ModelError(f"the model is malformed: {cause}", hint="Run onnx.checker on it for details.") from error
    if folder is not None:
        for graph in model.graphs():
            ir.external_data.set_base_dir(graph, folder)
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.name in maps:
            value.metadata_props[TYPE_KEY] = maps[value.name]
    return model


def _take_map_types(graph: onnx.GraphProto) -> dict[str, str]:
    """Types of values that are or hold maps, which `onnx_ir` can't express: removed, and returned as text by name."""
    found: dict[str, str] = {}
    for value in (*graph.input, *graph.output, *graph.value_info):
        if _holds_map(value.type):
            found[value.name] = _type_text(value.type)
            value.ClearField("type")
    return found


def _holds_map(kind: onnx.TypeProto) -> bool:
    if kind.HasField("sequence_type"):
        return _holds_map(kind.sequence_type.elem_type)
    if kind.HasField("optional_type"):
        return _holds_map(kind.optional_type.elem_type)
    return kind.HasField("map_type")


def _type_text(kind: onnx.TypeProto) -> str:
    """A type as ONNX prints it."""
    if kind.HasField("sequence_type"):
        return f"seq({_type_text(kind.sequence_type.elem_type)})"
    if kind.HasField("optional_type"):
        return f"optional({_type_text(kind.optional_type.elem_type)})"
    name = onnx.TensorProto.DataType.Name
    if kind.HasField("map_type"):
        key = name(kind.map_type.key_type)
        return f"map({key.lower()},{_type_text(kind.map_type.value_type)})"
    return f"tensor({name(kind.tensor_type.elem_type).lower()})"


def _copy_proto(source: onnx.ModelProto) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.CopyFrom(source)
    except DecodeError as error:  # protobuf copies by writing and reading, with a limit of depth
        raise ModelError(f"the model cannot be copied, it is nested too deeply: {error}") from error
    return proto


def _copy(model: ir.Model) -> ir.Model:
    copy = model.clone()
    try:
        _sort(copy)
    except ValueError as error:
        raise ModelError("the graph has a cycle", hint="Loops are expressed with Loop or Scan.") from error
    return copy


def _upgrade(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Operators before opset 7 broadcast and train differently; `onnx` knows how to rewrite them."""
    try:
        return onnx.version_converter.convert_version(proto, MIN_OPSET)
    except Exception as error:  # it raises RuntimeError and its own types
        hint = "Export the model again with a current exporter."
        message = f"the opset is older than {MIN_OPSET}, and converting failed: {error}"
        raise UnsupportedError(message, hint=hint) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """onnx_ir logs what `check` has already turned into errors or allowed."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _attach(model: ir.Model, proto: onnx.ModelProto, data: mmap.mmap | memoryview, spans: dict) -> None:
    """Give the initializers whose bytes were left out their values, as views of the file."""
    for position, span in spans.items():
        tensor = proto.graph.initializer[position]
        kind = ir.DataType(tensor.data_type)
        if kind.bitwidth < 8:  # packed: unpacking needs a copy anyway
            tensor.raw_data = bytes(data[span.start : span.stop])
            continue
        dtype = kind.numpy().newbyteorder("<")
        count = (span.stop - span.start) * 8 // kind.bitwidth
        array = np.frombuffer(data, dtype, count, span.start).reshape(tuple(tensor.dims))
        value = model.graph.initializers[tensor.name]
        value.const_value = ir.Tensor(array, dtype=kind, name=tensor.name)


def _write_out_sparse(proto: onnx.ModelProto) -> None:
    """Replace sparse initializers by dense ones, which onnx_ir would otherwise drop silently."""
    graphs = [proto.graph]
    while graphs:
        graph = graphs.pop()
        for sparse in graph.sparse_initializer:
            graph.initializer.append(_dense(sparse))
        graph.ClearField("sparse_initializer")
        for node in graph.node:
            for attribute in node.attribute:
                graphs += [attribute.g] if attribute.HasField("g") else []
                graphs += attribute.graphs


def _dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    name = sparse.values.name
    for tensor in (sparse.values, sparse.indices):
        check_tensor(tensor, None)
    values, indices = (onnx.numpy_helper.to_array(t) for t in (sparse.values, sparse.indices))
    shape = tuple(sparse.dims)
    size = int(np.prod(shape, dtype=object)) if shape else 1
    if min(shape, default=0) < 0 or size * values.itemsize > _SPARSE_LIMIT:
        raise ModelError(f"sparse initializer {name!r} of shape {list(shape)} is too large to write out")
    flat = indices
    if indices.ndim == 2 and indices.shape[1] == len(shape) and len(indices) == len(values):
        if np.any(indices < 0) or np.any(indices >= np.array(shape)):
            raise ModelError(f"sparse initializer {name!r} has an index outside its shape {list(shape)}")
        flat = np.ravel_multi_index(tuple(indices.T), shape) if len(values) else indices.reshape(-1)
    if flat.shape != values.shape or np.any(flat < 0) or np.any(flat >= size):
        raise ModelError(f"sparse initializer {name!r} has indices that do not fit its values or shape")
    dense = np.zeros(size, values.dtype)
    dense[flat] = values
    return onnx.numpy_helper.from_array(dense.reshape(shape), name)


def _sort(model: ir.Model) -> None:
    model.graph.sort()  # subgraphs included; `check` has excluded cycles
    for function in model.functions.values():
        function.sort()


def external_files(path: str | os.PathLike[str]) -> list[Path]:
    """Files beside the model file at `path` that hold its external data; none where the model can't be read."""
    try:
        with contextlib.closing(_map(Path(path))) as data:
            proto, _ = _parse(_unpacked(data), str(path))
    except (OSError, ModelError):
        return []
    tensors = [tensor for tensor in _all_tensors(proto) if tensor.data_location == onnx.TensorProto.EXTERNAL]
    names = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
    return [Path(path).parent / name for name in sorted(names)]

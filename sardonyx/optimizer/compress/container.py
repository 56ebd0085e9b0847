"""A compressed file of one model (.sdx): the same bytes again when it is read.

    magic (8 bytes) | version (2) | length of the index (4) | SHA-256 of all that follows (32) | index (JSON) | parts

The first part is the ONNX file without its large weights; each weight is a part of its own, which goes back where it
was. Weights are stored in the form that comes out smallest:

- ``palette``: the distinct values, and 1, 2, 4 or 8 bits for each element that say which it is;
- ``planes``: first bytes, second bytes, ... of all elements (exponents compress, mantissas do not);
- ``plain``: as they are (int8, and int4, of which ONNX keeps two in a byte).

Every part is a zstandard frame. All numbers are little-endian. What a file claims is checked before memory is taken
for it: sizes against each other, against what the file could hold, and against a limit.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir

from sardonyx.errors import ModelError, OptimizationError, UnsupportedError

__all__ = ["MAGIC", "Packed", "is_container", "pack", "unpack"]

MAGIC = b"\x89SDX\r\n\x1a\n"
VERSION = 1
_HEAD = struct.Struct("<8sHI32s")
_MOST_INDEX = 64 * 2**20  # bytes of an index: a few hundred thousand weights
_FREE = 64 * 2**20  # bytes that any file may grow to; beyond it, at most `_RATIO` times its size
_RATIO = 1000
LIMIT = 8 * 2**30  # bytes that a file may unpack to, unless the caller says otherwise


@dataclass(frozen=True)
class Packed:
    """What `pack` did.

    Attributes:
        original: bytes of the ONNX file.
        packed: bytes of the container.
        forms: how many weights are stored in which form.
        seconds_to_load: how long it takes to get the ONNX bytes back.
    """

    original: int
    packed: int
    forms: dict[str, int]
    seconds_to_load: float


def is_container(head: bytes) -> bool:
    """Whether a file that begins so is a container."""
    return head[: len(MAGIC)] == MAGIC


def pack(model: ir.Model | str | os.PathLike[str] | bytes, path: str | os.PathLike[str], *, level: int = 19) -> Packed:
    """Write the container of a model to `path`; the file is complete or untouched.

    Args:
        model: an ONNX file without external data, its bytes, or a model in memory.
        path: of the new file, usually ``.sdx``.
        level: of zstandard, 1 to 22. It changes how long packing takes, hardly how long loading does.

    Raises:
        OptimizationError: zstandard is not installed.
        ModelError: the model is malformed, or does not fit into one ONNX file.
    """
    from sardonyx.model import wire

    compressor = _zstandard().ZstdCompressor(level=level, write_checksum=False)
    data = _bytes(model)
    try:
        _, spans = wire.split(memoryview(data))
    except wire.Malformed as error:
        raise ModelError(f"this is no ONNX model: {error}") from error
    widths = _element_sizes(data, len(spans) and max(spans) + 1)
    rest, start, parts, entries = [], 0, [], []
    forms: dict[str, int] = {}
    for position, span in spans.items():
        rest.append(data[start : span.start])
        start = span.stop
        entry, part = _smallest(data[span.start : span.stop], widths[position], compressor)
        entries.append({"at": span.start, "size": span.stop - span.start, **entry, "stored": len(part)})
        parts.append(part)
        forms[entry["form"]] = forms.get(entry["form"], 0) + 1
    rest.append(data[start:])
    skeleton = b"".join(rest)
    parts.insert(0, compressor.compress(skeleton))
    first = {"size": len(skeleton), "stored": len(parts[0])}
    index = json.dumps({"size": len(data), "model": first, "weights": entries}, separators=(",", ":")).encode()
    digest = hashlib.sha256(index)
    for part in parts:
        digest.update(part)
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(_HEAD.pack(MAGIC, VERSION, len(index), digest.digest()) + index)
            file.writelines(parts)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    begin = time.perf_counter()
    if unpack(target) != data:
        raise OptimizationError(f"{str(target)!r} does not give the model back", hint="This is a fault of Sardonyx.")
    return Packed(len(data), target.stat().st_size, forms, time.perf_counter() - begin)


def unpack(source: str | os.PathLike[str] | bytes | memoryview, *, limit: int = LIMIT) -> bytes:
    """The ONNX file in a container, byte by byte.

    Args:
        source: the file, or its bytes.
        limit: bytes that the model may have at most.

    Raises:
        ModelError: it is cut off, damaged, or claims more than it can hold or more than `limit`.
        UnsupportedError: a later version wrote it.
        OptimizationError: zstandard is not installed.
    """
    shown = "the container" if isinstance(source, bytes | memoryview) else repr(os.fspath(source))
    data = memoryview(source if isinstance(source, bytes | memoryview) else _read(Path(source)))
    if len(data) < _HEAD.size:
        raise ModelError(f"{shown} is cut off", hint="Copy or download it again.")
    magic, version, length, digest = _HEAD.unpack(data[: _HEAD.size])
    if magic != MAGIC:
        raise ModelError(f"{shown} is no container of Sardonyx")
    if version != VERSION:
        raise UnsupportedError(f"{shown} is of version {version}, known is {VERSION}", hint="Update Sardonyx.")
    body = data[_HEAD.size :]
    if length > min(len(body), _MOST_INDEX):
        raise ModelError(f"{shown} is cut off", hint="Copy or download it again.")
    if hashlib.sha256(body).digest() != digest:
        raise ModelError(f"{shown} is damaged: its checksum differs", hint="Copy or download it again.")
    index = _checked(bytes(body[:length]), len(body) - length, limit, shown)
    try:
        return _assembled(index, body[length:])
    except (ValueError, IndexError, _zstandard().ZstdError) as error:
        raise ModelError(f"{shown} is malformed: {error}") from error


def _assembled(index: dict[str, Any], parts: memoryview) -> bytes:
    out = bytearray(index["size"])
    view, decompressor = memoryview(out), _zstandard().ZstdDecompressor()
    offset = index["model"]["stored"]
    skeleton = memoryview(_expand(decompressor, parts[:offset], index["model"]["size"]))
    done = used = 0
    for entry in index["weights"]:
        gap = entry["at"] - done
        view[done : done + gap] = skeleton[used : used + gap]
        used, done = used + gap, entry["at"] + entry["size"]
        part = parts[offset : offset + entry["stored"]]
        offset += entry["stored"]
        stored = _expand(decompressor, part, _stored_size(entry))
        view[entry["at"] : done] = _restored(entry, stored)
    view[done:] = skeleton[used:]
    return bytes(out)


# Forms of weights.


def _smallest(raw: bytes, width: int, compressor: Any) -> tuple[dict[str, Any], bytes]:
    """The form of a weight, and its part."""
    found = [({"form": form, **more}, compressor.compress(data)) for form, more, data in _forms(raw, width)]
    return min(found, key=lambda pair: len(pair[1]))


def _forms(raw: bytes, width: int) -> Iterator[tuple[str, dict[str, int], bytes]]:
    yield "plain", {}, raw
    if len(raw) % width:
        return
    elements = np.frombuffer(raw, f"<u{width}")
    if width > 1:
        yield "planes", {"width": width}, elements.view(np.uint8).reshape(-1, width).T.tobytes()
    some = np.unique(elements[:4096])
    values = np.unique(elements) if len(some) <= 256 else some
    if len(values) <= 256:
        bits = next(bits for bits in (1, 2, 4, 8) if len(values) <= 2**bits)
        packed = _pack_bits(np.searchsorted(values, elements).astype(np.uint8), bits)
        yield "palette", {"width": width, "bits": bits, "colours": len(values)}, values.tobytes() + packed


def _stored_size(entry: dict[str, Any]) -> int:
    if entry["form"] != "palette":
        return int(entry["size"])
    count = entry["size"] // entry["width"]
    return int(entry["colours"] * entry["width"] + -(-count * entry["bits"] // 8))


def _restored(entry: dict[str, Any], stored: bytes) -> bytes:
    if entry["form"] == "plain":
        return stored
    width = entry["width"]
    if entry["form"] == "planes":
        return np.frombuffer(stored, np.uint8).reshape(width, -1).T.tobytes()
    values = np.frombuffer(stored, f"<u{width}", entry["colours"])
    places = _unpack_bits(stored[entry["colours"] * width :], entry["bits"], entry["size"] // width)
    return values[places].tobytes()  # an index beyond the palette is an IndexError


def _pack_bits(values: np.ndarray, bits: int) -> bytes:
    """Values of less than 2**bits, the first one in the lowest bits of the first byte."""
    each = 8 // bits
    padded = np.pad(values, (0, -len(values) % each)).reshape(-1, each)
    return np.bitwise_or.reduce(padded << (bits * np.arange(each, dtype=np.uint8)), axis=1).astype(np.uint8).tobytes()


def _unpack_bits(data: bytes, bits: int, count: int) -> np.ndarray:
    shifts = bits * np.arange(8 // bits, dtype=np.uint8)
    return ((np.frombuffer(data, np.uint8)[:, None] >> shifts) & (2**bits - 1)).reshape(-1)[:count]


# Distrust.


def _checked(text: bytes, stored: int, limit: int, shown: str) -> dict[str, Any]:
    """The index, if everything in it fits together."""
    try:
        index = json.loads(text)
        numbers = [index["size"], index["model"]["size"], index["model"]["stored"]]
        numbers += [entry[key] for entry in index["weights"] for key in ("at", "size", "stored")]
        whole = all(type(number) is int and number >= 0 for number in numbers)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{shown} is malformed: its index cannot be read") from error
    if not whole or not all(map(_is_form, index["weights"])):
        raise ModelError(f"{shown} is malformed: its index makes no sense")
    size = index["size"]
    if size > limit:
        hint = "If you trust it, call unpack with a higher limit."
        raise ModelError(f"{shown} claims to hold {size} bytes, more than the limit of {limit}", hint=hint)
    if size > max(_FREE, _RATIO * stored):
        raise ModelError(f"{shown} claims {size} bytes in {stored}: no model is that empty", hint="Do not trust it.")
    end = 0
    for entry in index["weights"]:
        if entry["at"] < end:
            raise ModelError(f"{shown} is malformed: weights overlap")
        end = entry["at"] + entry["size"]
    weights = sum(entry["size"] for entry in index["weights"])
    parts = index["model"]["stored"] + sum(entry["stored"] for entry in index["weights"])
    if end > size or weights + index["model"]["size"] != size or parts != stored:
        raise ModelError(f"{shown} is malformed: its sizes do not add up")
    return index


def _is_form(entry: dict[str, Any]) -> bool:
    form, width = entry.get("form"), entry.get("width", 1)
    if width not in (1, 2, 4, 8) or entry["size"] % width:
        return False
    if form == "palette":
        return entry.get("bits") in (1, 2, 4, 8) and entry.get("colours") in range(1, 2 ** entry["bits"] + 1)
    return form in ("plain", "planes")


def _expand(decompressor: Any, part: memoryview, size: int) -> bytes:
    """A frame of exactly `size` bytes; never more than that is produced."""
    with decompressor.stream_reader(part, read_across_frames=False) as reader:
        data: bytes = reader.read(size)
        while len(data) < size and (more := reader.read(size - len(data))):
            data += more
        if len(data) != size or reader.read(1):
            raise ValueError("a part has not the size that the index says")
    return data


# Reading and writing.


def _bytes(model: ir.Model | str | os.PathLike[str] | bytes) -> bytes:
    if isinstance(model, bytes):
        return model
    if isinstance(model, ir.Model):
        import tempfile

        from sardonyx.model.save import save

        with tempfile.TemporaryDirectory() as folder:
            save(model, Path(folder) / "model.onnx", external=False)
            return (Path(folder) / "model.onnx").read_bytes()
    from sardonyx.model.load import external_files

    if external_files(model):
        raise ModelError(
            f"the weights of {str(model)!r} lie in other files", hint="Load it, and pack the loaded model."
        )
    return _read(Path(model))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{str(path)!r} cannot be read: {error.strerror}") from error


def _element_sizes(data: bytes, count: int) -> list[int]:
    """Bytes of an element of each of the first `count` initializers; 1 for those of less than a byte."""
    import onnx

    from sardonyx.model import wire

    proto = onnx.ModelProto.FromString(wire.split(memoryview(data))[0])
    sizes = []
    for tensor in proto.graph.initializer[:count]:
        try:
            bits = ir.DataType(tensor.data_type).bitwidth
        except (ValueError, TypeError):
            bits = 8
        sizes.append(bits // 8 if bits in (8, 16, 32, 64) else 1)
    return sizes


def _zstandard() -> ModuleType:
    try:
        import zstandard
    except ImportError as error:
        hint = "pip install 'sardonyx[compress]'"
        raise OptimizationError("containers need the package zstandard", hint=hint) from error
    return zstandard

"""Read a model file without copying its weights.

Protobuf would copy every weight into memory, twice while parsing. Instead the file is mapped, the bytes of
large ``raw_data`` fields of initializers are left out of what protobuf parses, and the tensors are made views
of the map. (Field numbers: onnx.proto. Everything else is left to protobuf, errors included.)
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass

MODEL_GRAPH, GRAPH_INITIALIZER, TENSOR_RAW_DATA = 7, 5, 9
_LENGTH_DELIMITED = 2
_FIXED = {1: 8, 5: 4}  # wire type -> bytes
Bytes = mmap.mmap | memoryview
SMALL = 4096  # bytes; a smaller tensor is not worth a view


class Malformed(ValueError):
    """The bytes are not protobuf."""


@dataclass(frozen=True)
class Span:
    """Where the bytes of one initializer lie."""

    start: int
    stop: int


def split(data: Bytes) -> tuple[bytes, dict[int, Span]]:
    """The model without its large weights, and where those are.

    Returns:
        The serialised rest, and initializer position -> span in `data`.
    """
    spans: dict[int, Span] = {}
    pieces: list[bytes] = []
    count = 0
    for field, start, body, stop in _fields(data, 0, len(data)):
        if field != MODEL_GRAPH:
            pieces.append(bytes(data[start:stop]))
            continue
        graph, count = _graph(data, body, stop, spans, count)
        pieces += [_tag(MODEL_GRAPH), _varint(len(graph)), graph]
    return b"".join(pieces), spans


def _graph(data: Bytes, start: int, stop: int, spans: dict[int, Span], count: int) -> tuple[bytes, int]:
    pieces: list[bytes] = []
    kept = start  # everything from here on is copied as it is
    for field, begin, body, end in _fields(data, start, stop):
        if field != GRAPH_INITIALIZER:
            continue
        if end - body >= SMALL:
            tensor, span = _tensor(data, body, end)
            if span is not None:
                pieces += [bytes(data[kept:begin]), _tag(GRAPH_INITIALIZER), _varint(len(tensor)), tensor]
                kept = end
                spans[count] = span
        count += 1
    pieces.append(bytes(data[kept:stop]))
    return b"".join(pieces), count


def _tensor(data: Bytes, start: int, stop: int) -> tuple[bytes, Span | None]:
    pieces, span = [], None
    for field, begin, body, end in _fields(data, start, stop):
        if field == TENSOR_RAW_DATA and end - body >= SMALL:
            span = Span(body, end)
        else:
            pieces.append(bytes(data[begin:end]))
    return b"".join(pieces), span


def _fields(data: Bytes, position: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """(field number, where it starts, where its content starts, where it ends) of one message."""
    while position < stop:
        start = position
        key, position = _read_varint(data, position, stop)
        wire = key & 7
        if wire == _LENGTH_DELIMITED:
            length, position = _read_varint(data, position, stop)
            end = position + length
        elif wire == 0:
            _, end = _read_varint(data, position, stop)
        elif wire in _FIXED:
            end = position + _FIXED[wire]
        else:
            raise Malformed(f"wire type {wire} at byte {start}")
        if end > stop:
            raise Malformed(f"field at byte {start} ends beyond its message")
        yield key >> 3, start, position, end
        position = end


def _read_varint(data: Bytes, position: int, stop: int) -> tuple[int, int]:
    value = shift = 0
    while position < stop and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise Malformed(f"unfinished number at byte {position}")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _tag(field: int) -> bytes:
    return _varint(field << 3 | _LENGTH_DELIMITED)

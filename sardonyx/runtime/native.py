"""The binding between Python and a compiled model: buffers in, one C call, arrays out.

Nothing here imports onnx; a warm load needs numpy and ctypes alone.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sardonyx import errors
from sardonyx.runtime.direct import AS_ARRAY, AS_MAPS, AS_STRINGS, direct_run
from sardonyx.runtime.options import SessionOptions
from sardonyx.runtime.threads import Host, Pool

FORMS = {"": AS_ARRAY, "maps": AS_MAPS, "strings": AS_STRINGS}  # by the names of `compiler.tensor.Formed`
_NUMPY = {"bool": np.dtype(bool)}
ERRORS = {
    1: (errors.RuntimeFailure, "an index is out of range"),
    2: (errors.RuntimeFailure, "an integer is divided by zero"),
    3: (errors.ShapeError, "shapes do not fit"),
    4: (errors.RuntimeFailure, "not enough memory"),
    5: (errors.RuntimeFailure, "the operator failed"),
    6: (errors.RuntimeFailure, "a value is not allowed"),
}
BROKEN_ASSUMPTION = 7


class BrokenAssumption(Exception):
    """The inputs contradict what the code was compiled under; see `Lowering.assume`."""

    def __init__(self, key: str, assumed: bool):
        super().__init__(key)
        self.key = key
        self.assumed = assumed

    def corrected(self, assumptions: tuple[tuple[str, bool], ...]) -> tuple[tuple[str, bool], ...]:
        """`assumptions` with this one turned around."""
        return tuple(sorted({**dict(assumptions), self.key: not self.assumed}.items()))


class _Io(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("rank", ctypes.c_int64),
        ("slot", ctypes.c_int64),
        ("dtype", ctypes.c_char_p),
        ("dims", ctypes.c_int64 * 16),
    )


class _Call(ctypes.Structure):
    _fields_ = (
        ("buffers", ctypes.c_void_p),
        ("dims", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("arena", ctypes.c_void_p),
        ("arena_bytes", ctypes.c_int64),
        ("planned", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
        ("error", ctypes.c_int64),
        ("step", ctypes.c_int64),
        ("ticks", ctypes.c_void_p),
        ("io", ctypes.POINTER(_Io)),
        ("inputs", ctypes.c_int64),
    )


def numpy_dtype(name: str) -> np.dtype:
    """The numpy dtype of an element type."""
    if name not in _NUMPY:
        if hasattr(np, name):
            _NUMPY[name] = np.dtype(name)
        else:
            from sardonyx.compiler.dtypes import numpy_dtype as small

            _NUMPY[name] = small(name)
    return _NUMPY[name]


class Port:
    """An input or output of a compiled model."""

    def __init__(self, facts: dict[str, Any]):
        self.name: str = facts["name"]
        self.type: str = facts["type"]
        self.shape: tuple[int | str | None, ...] = tuple(facts["shape"])
        self.dims: list[int | str] = facts["dims"]
        self.known: bool = facts["known"]
        self.slot: int = facts["slot"]
        self.dtype_name: str = facts["dtype"]
        self.stored: np.dtype | str = facts["dtype"] if self.slot >= 0 else numpy_dtype(facts["dtype"])
        self.form = FORMS[facts.get("form", "")]  # of an output: what becomes of the array that the code makes
        self.labels: list[int | str] = facts.get("labels", [])
        self.dtype: np.dtype | str = {AS_MAPS: "object", AS_STRINGS: "string"}.get(self.form, self.stored)

    def __repr__(self) -> str:
        return f"{self.name}: {self.type}{list(self.shape)}"


class Library:
    """A compiled model: its code, weights and description; shared by all contexts that run it."""

    def __init__(self, folder: Path):
        self.folder = folder
        facts = json.loads((folder / "program.json").read_bytes())
        self.facts = facts
        self.inputs = [Port(port) for port in facts["inputs"]]
        self.outputs = [Port(port) for port in facts["outputs"]]
        self.entry: list[tuple[int, int]] = [(number, axis) for number, axis in facts["entry"]]
        library = ctypes.CDLL(str(folder / "model.so"))
        self.main = library.sx_main
        self.main.restype = ctypes.c_int64
        self.main.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
        self.output_dims = library.sx_output_dims
        self.output_dims.restype = None
        self.output_dims.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
        self._flops = getattr(library, "sx_flops", None)
        self._map, self.weights = _map_weights(folder / "weights.bin", facts["weights"])
        self.rank_total = sum(len(port.dims) for port in self.outputs)
        self.simple = all(port.slot < 0 and port.known for port in self.outputs)
        self.plain = self.simple and all(port.form == AS_ARRAY for port in self.outputs)

    def flops(self, symbols: int) -> list[int]:
        """Operations of each step (0: not known), for the symbols at the address `symbols`."""
        found = (ctypes.c_int64 * (len(self.facts["steps"]) + 1))()
        if self._flops is not None:
            self._flops(ctypes.c_void_p(symbols), found)
        for number, count in self.facts["flops"]:
            if count >= 0:
                found[number] = count
        return found[:-1]

    def fail(self, code: int, step: int, cause: BaseException | None) -> None:
        """Raise the error that a run ended with."""
        if code == BROKEN_ASSUMPTION:
            text = self.facts["messages"][str(step)]
            raise BrokenAssumption(text[1:], text[0] == "1")
        kind, message = ERRORS.get(code, (errors.RuntimeFailure, f"error {code}"))
        node, operator = self.facts["steps"][step] if step < len(self.facts["steps"]) else ("", "")
        message = self.facts["messages"].get(str(step), message) if code in (3, 6) else message
        hint = None
        if isinstance(cause, errors.SardonyxError):
            if not isinstance(cause, errors.InputError):
                raise cause
            message, hint = cause.message, cause.hint  # what a node was given, not what the run was given
        elif cause is not None:
            if not isinstance(cause, Exception):
                raise cause
            message = f"{message}: {type(cause).__name__}: {cause}"
        raise kind(message, node=node, operator=operator, hint=hint) from cause


class Uncompiled(Library):
    """Stands in for a library where another engine runs the whole model."""

    def __init__(self, inputs: list[Port], outputs: list[Port], model: Any, provider: str):
        from sardonyx.compiler.compile import metadata

        self.inputs, self.outputs = inputs, outputs
        placement = [[node.name or "", node.op_type, provider, "asked for"] for node in model.graph]
        sizes = {"weights": 0, "arena": None, "bound": None, "slots": 0, "planned": 0}
        self.facts = {"placement": placement, "metadata": metadata(model), "steps": [], "captured": [], **sizes}


def _map_weights(path: Path, size: int) -> tuple[Any, int]:
    if size == 0:
        return None, 0
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if os.fstat(descriptor).st_size < size:
            hint = "clear it: sardonyx cache clear"
            raise errors.CacheError(f"{path} is shorter than the model's weights", hint=hint)
        mapped = mmap.mmap(descriptor, size, prot=mmap.PROT_READ | mmap.PROT_WRITE, flags=mmap.MAP_PRIVATE)
    finally:
        os.close(descriptor)
    # Writable in name only: ctypes takes the address of writable memory alone. Pages stay shared, as nobody writes.
    return mapped, ctypes.addressof(ctypes.c_char.from_buffer(mapped))


_ALLOCATE = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


def _empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    try:
        return np.empty(shape, dtype)
    except (MemoryError, ValueError) as error:  # numpy's ValueError: more bytes than can be addressed
        raise errors.RuntimeFailure(f"not enough memory for a value of shape {list(shape)} ({dtype})") from error


def _fitting(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if array.shape != shape:
        raise errors.InputError(f"an array given by out= has shape {array.shape}, expected {shape}")
    return array


def _in_form(port: Port, array: np.ndarray) -> Any:
    """The value of an output whose array the code has made."""
    if port.form == AS_ARRAY:
        return array
    if port.form == AS_MAPS:
        return [dict(zip(port.labels, row, strict=True)) for row in np.atleast_2d(array).tolist()]
    return np.asarray(port.labels, object)[array]


HostCall = Callable[[int, list[Any]], Sequence[Any]]


class Context:
    """What one run at a time needs: an arena, dims, a host handle. Contexts of a session are pooled."""

    def __init__(self, library: Library, pool: Pool, threads: int | None, host_call: HostCall | None, profile: bool):
        self.library = library
        self.host = Host(pool, threads or pool.threads)
        self._host_call = host_call
        self.objects: list[Any] = [None] * library.facts["slots"]
        self.failure: BaseException | None = None
        inputs, outputs = len(library.inputs), len(library.outputs)
        self.symbols = len(library.entry)
        self.pointers = (ctypes.c_void_p * (inputs + outputs + 1))()
        self.dims = (ctypes.c_int64 * (self.symbols + library.rank_total + 1))()
        self._planned = (ctypes.c_int64 * (self.symbols + 1))()
        self._offsets = (ctypes.c_int64 * (library.facts["planned"] + 1))()
        self.ticks = (ctypes.c_int64 * (len(library.facts["steps"]) + 1))() if profile else None
        self.runs = 0
        self._extents: list[int] | None = None  # of the symbols that `_known` belongs to
        self._known: list[tuple[tuple[int, ...] | None, Any]] = []  # shape and dtype of each output, where known
        self.call = _Call(
            buffers=ctypes.addressof(self.pointers),
            dims=ctypes.addressof(self.dims),
            weights=library.weights,
            planned=ctypes.addressof(self._planned),
            offsets=ctypes.addressof(self._offsets),
            ticks=ctypes.addressof(self.ticks) if self.ticks is not None else None,
        )
        self._call_address = ctypes.addressof(self.call)
        self._output_dims_address = ctypes.addressof(self.dims) + 8 * self.symbols
        if host_call is not None:
            self.host.set_call(self._enter_host)
        if self.symbols:
            self.dims[: self.symbols] = [-1] * self.symbols  # no run has set them
        else:
            library.output_dims(ctypes.addressof(self.dims), self._output_dims_address)
        self.direct, self._direct = direct_run(self)

    @property
    def arena(self) -> int:
        """Bytes of the arena."""
        return self.call.arena_bytes

    def reset_profile(self) -> None:
        """Begin to count runs and their time from 0."""
        self.runs = 0
        if self.ticks is not None:
            ctypes.memset(self.ticks, 0, ctypes.sizeof(self.ticks))

    def flops(self) -> list[int]:
        """Operations of each step in a run with the shapes of the last."""
        return self.library.flops(ctypes.addressof(self.dims))

    def run(self, values: Sequence[Any], out: Mapping[int, np.ndarray] | None = None) -> list[Any]:
        """Run on checked, contiguous arrays (Python objects for object ports); returns all outputs."""
        library, pointers = self.library, self.pointers
        number = 0
        for value in values:
            if library.inputs[number].slot < 0:
                pointers[number] = value.__array_interface__["data"][0]
            else:
                self.objects[library.inputs[number].slot] = value
            number += 1
        extents = [values[input_].shape[axis] for input_, axis in library.entry]
        if extents != self._extents or extents != self.dims[: self.symbols]:  # a direct run sets the latter
            self._set_extents(extents)
        results: list[np.ndarray | None] = []
        for position, (shape, dtype) in enumerate(self._known):
            array: np.ndarray | None = None
            if shape is not None:
                array = _empty(shape, dtype) if not out or position not in out else _fitting(out[position], shape)
            pointers[number] = None if array is None else array.__array_interface__["data"][0]
            results.append(array)
            number += 1
        code = library.main(self.host.address, self._call_address)
        self.runs += 1
        if code or self.failure is not None:
            cause, self.failure = self.failure, None
            library.fail(code, self.call.step, cause)
        return results if library.plain else self._collect(results)

    def _set_extents(self, extents: list[int]) -> None:
        """Take over new input shapes: the symbols, and the shapes of the outputs that follow from them."""
        library = self.library
        for position, extent in enumerate(extents):
            self.dims[position] = extent
        library.output_dims(ctypes.addressof(self.dims), self._output_dims_address)
        self._known, at = [], self.symbols
        for port in library.outputs:
            rank = len(port.dims)
            shape = tuple(self.dims[at : at + rank])
            # A negative dim is an error that the run itself reports.
            known = port.slot < 0 and port.known and min(shape, default=0) >= 0
            self._known.append((shape if known else None, port.stored))
            at += rank
        self._extents = extents

    def _collect(self, results: list[np.ndarray | None]) -> list[Any]:
        library = self.library
        at = self.symbols
        found: list[Any] = []
        for number, (port, array) in enumerate(zip(library.outputs, results, strict=True)):
            rank = len(port.dims)
            if port.slot >= 0:
                found.append(self.objects[port.slot])
            elif array is None:
                found.append(self._take(len(library.inputs) + number, port, tuple(self.dims[at : at + rank])))
            else:
                found.append(_in_form(port, array))
            at += rank
        return found

    def _take(self, number: int, port: Port, shape: tuple[int, ...]) -> np.ndarray:
        """Copy an output that the run allocated, and give its memory back."""
        address = self.pointers[number] or 0
        try:
            array = _empty(shape, port.stored)
            ctypes.memmove(array.__array_interface__["data"][0], address, array.nbytes)
        finally:
            self.host.release(address)
        return _in_form(port, array)

    def _enter_host(self, call: int, step: int) -> int:
        try:
            self._run_host(step)
        except BaseException as problem:  # kept, and raised when C has returned
            self.failure = problem
            return 1
        return 0

    def _run_host(self, step: int) -> None:
        assert self._host_call is not None
        io, inputs = self.call.io, self.call.inputs
        values = [self._read(io[i]) for i in range(inputs)]
        outputs = self._host_call(step, values)
        for position, value in enumerate(outputs):
            self._write(io[inputs + position], value)

    def _read(self, io: _Io) -> Any:
        if io.rank == -2:
            return None
        if io.rank == -1:
            return self.objects[io.slot]
        dtype = numpy_dtype(io.dtype.decode())
        shape = tuple(io.dims[: io.rank])
        array = _empty(shape, dtype)
        if array.nbytes:
            ctypes.memmove(array.__array_interface__["data"][0], io.data, array.nbytes)
        return array

    def _write(self, io: _Io, value: Any) -> None:
        if io.rank == -2:
            return
        if io.rank == -1:
            self.objects[io.slot] = value
            return
        array = np.ascontiguousarray(value, dtype=numpy_dtype(io.dtype.decode()))
        if array.ndim != io.rank:
            array = array.reshape(array.shape if array.ndim == io.rank else np.shape(value))
        if array.ndim != io.rank:
            raise errors.ShapeError(f"the operator gave rank {array.ndim}, expected {io.rank}")
        if io.data is None:
            io.data = self.host_allocate(max(array.nbytes, 1))
            for axis, dim in enumerate(array.shape):
                io.dims[axis] = dim
        elif array.shape != tuple(io.dims[: io.rank]):
            raise errors.ShapeError(f"the operator gave shape {array.shape}, expected {tuple(io.dims[: io.rank])}")
        if array.nbytes:
            ctypes.memmove(io.data, array.__array_interface__["data"][0], array.nbytes)

    def host_allocate(self, size: int) -> int:
        """Memory that compiled code will release."""
        # The second member of sx_host.
        function = ctypes.c_void_p.from_address(self.host.address + ctypes.sizeof(ctypes.c_void_p)).value
        assert function is not None
        address = _ALLOCATE(function)(self.host.address, size)
        if not address:
            raise errors.RuntimeFailure("not enough memory")
        return address


class Contexts:
    """The contexts of a session: as many as runs overlap."""

    def __init__(self, make: Callable[[], Context]):
        self._make = make
        self.free: list[Context] = []
        self._lock = threading.Lock()
        self.all: list[Context] = []

    def take(self) -> Context:
        """A context that nobody else uses."""
        try:
            return self.free.pop()
        except IndexError:
            context = self._make()
            with self._lock:
                self.all.append(context)
            return context

    def give(self, context: Context) -> None:
        """Put a context back."""
        self.free.append(context)


class Variant:
    """A library with what runs it."""

    def __init__(
        self, library: Library, assumptions: tuple[tuple[str, bool], ...], pool: Pool, options: SessionOptions
    ):
        self.library = library
        self.assumptions = assumptions
        self._pool = pool
        self._options = options
        self._host_model: Any = None
        self.contexts = Contexts(self._context)

    def run(self, values: Sequence[Any], out: Mapping[int, np.ndarray] | None) -> list[Any]:
        """One run; any number at a time."""
        context = self.contexts.take()
        try:
            return context.run(values, out)
        finally:
            self.contexts.give(context)

    def _context(self) -> Context:
        facts = self.library.facts
        hosted = bool(facts["captured"])
        if hosted and self._host_model is None:
            from sardonyx.runtime.host_model import HostModel

            self._host_model = HostModel(self.library.folder / "host.onnx", facts["captured"])
        call = self._host_model.run if hosted else None
        context = Context(self.library, self._pool, self._options.threads, call, self._options.profile)
        if hosted:
            for slot, value in self._host_model.objects(facts["objects"]):
                context.objects[slot] = value
        return context

"""`Session.run` without the interpreter: checks of inputs, output arrays and the call, all in C (kernels/c/direct.c).

A run in Python costs 6 microseconds more than the model itself, which is most of the time of a small one. What C does
not recognise it declines, and Python does the run, with all of its messages.
"""

from __future__ import annotations

import ctypes
import sys
import sysconfig
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from sardonyx.runtime.native import Context, Port

__all__ = ["AS_ARRAY", "AS_MAPS", "AS_STRINGS", "Run", "declined", "direct_run"]

Run = Callable[[Mapping[str, Any]], list[Any] | None]
AS_ARRAY, AS_MAPS, AS_STRINGS = range(3)
MOST_AXES = 32
ARRAY_VERSIONS = (0x1000009, 0x2000000)  # of numpy's binary interface, whose arrays begin as direct.c says
# Positions in numpy's table of functions, which are part of that interface.
VERSION, ARRAY_TYPE, NEW_FROM_DESCRIPTOR = 0, 2, 94
PYTHON_FUNCTIONS = (
    "PyLong_AsVoidPtr", "Py_IncRef", "Py_DecRef", "PyErr_Clear", "PyEval_SaveThread", "PyEval_RestoreThread",
    "PyDict_Size", "PyDict_GetItemWithError", "PyDict_New", "PyDict_SetItem", "PyList_New", "PyList_SetItem",
    "PyFloat_FromDouble",
)  # fmt: skip


class _Port(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("dtype", ctypes.c_void_p),
        ("dims", ctypes.c_void_p),
        ("rank", ctypes.c_int64),
        ("form", ctypes.c_int64),
        ("labels", ctypes.c_void_p),
        ("label_count", ctypes.c_int64),
        ("result_dtype", ctypes.c_void_p),
    )


class _Direct(ctypes.Structure):
    _fields_ = (
        ("host", ctypes.c_void_p),
        ("call", ctypes.c_void_p),
        ("main", ctypes.c_void_p),
        ("output_dims", ctypes.c_void_p),
        ("inputs", ctypes.c_void_p),
        ("outputs", ctypes.c_void_p),
        ("input_count", ctypes.c_int64),
        ("output_count", ctypes.c_int64),
        ("symbols", ctypes.c_int64),
        ("given", ctypes.c_void_p),
        ("held", ctypes.c_void_p),
    )


def declined(feeds: Mapping[str, Any]) -> None:
    """The direct run of a model that has none."""


def direct_run(context: Context) -> tuple[Run, Any]:
    """A function that runs `context` on a dict of inputs, or declines with None; and what must live as long as it.

    The function may be called by one thread at a time. It holds no reference to `context`.
    """
    library = context.library
    ports = (*library.inputs, *library.outputs)
    fits = library.simple and all(port.slot < 0 and len(port.dims) <= MOST_AXES for port in ports)
    symbols = _symbols_in_order(library.inputs, len(library.entry))
    if not fits or not symbols or context.ticks is not None or library.facts["captured"]:
        return declined, None
    made = _interpreter(context.host.pool)
    if made is None:
        return declined, None
    kept: list[Any] = []
    inputs, outputs = (
        (_Port * max(len(p), 1))(*(_port(q, kept) for q in p)) for p in (library.inputs, library.outputs)
    )
    given = (ctypes.c_int64 * max(len(library.entry), 1))()
    held = (ctypes.c_void_p * max(len(ports), 1))()
    record = _Direct(
        context.host.address, ctypes.addressof(context.call), _address(library.main), _address(library.output_dims),
        ctypes.addressof(inputs), ctypes.addressof(outputs), len(library.inputs), len(library.outputs),
        len(library.entry), ctypes.addressof(given), ctypes.addressof(held),
    )  # fmt: skip
    return made(ctypes.addressof(record)), (record, inputs, outputs, given, held, kept)


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _symbols_in_order(inputs: list[Port], count: int) -> bool:
    """Whether the inputs' symbols are numbered in the order in which they first appear."""
    names = dict.fromkeys(dim for port in inputs for dim in port.dims if isinstance(dim, str))
    return list(names) == [f"s{number}" for number in range(count)]


def _port(port: Port, kept: list[Any]) -> _Port:
    dims = [dim if isinstance(dim, int) else -1 - int(dim[1:]) for dim in port.dims if dim != "?"]
    array = (ctypes.c_int64 * max(len(dims), 1))(*dims)
    labels = (ctypes.c_void_p * max(len(port.labels), 1))(*map(id, port.labels))
    name, objects = sys.intern(port.name), np.dtype(object)
    kept += [array, labels, port.labels, port.stored, name, objects]
    return _Port(
        id(name), id(port.stored), ctypes.addressof(array), len(port.dims), port.form,
        ctypes.addressof(labels), len(port.labels), id(objects),
    )  # fmt: skip


@cache
def _interpreter(pool: Any) -> Callable[[int], Run] | None:
    """Makes a function of Python from the address of a `direct`; None where this interpreter is not as C expects it."""
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return None
    if object.__basicsize__ != 2 * ctypes.sizeof(ctypes.c_void_p):  # a debugging build
        return None
    numpy = _numpy_functions()
    if numpy is None:
        return None
    api = ctypes.pythonapi
    table = [id(None), id(dict), numpy[ARRAY_TYPE]]
    table += [_address(getattr(api, name)) for name in PYTHON_FUNCTIONS]
    table.append(numpy[NEW_FROM_DESCRIPTOR])
    functions = (ctypes.c_void_p * len(table))(*table)
    method = pool.direct_method(ctypes.addressof(functions))
    new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)(
        ("PyCFunction_NewEx", api)
    )

    def make(address: int, _kept: Any = functions) -> Run:
        return new(method, address, None)

    return make


def _numpy_functions() -> Any:
    """numpy's table of functions, if its version and an array in memory are as direct.c expects them."""
    core = getattr(np, "_core", None) or np.core
    capsule = getattr(core._multiarray_umath, "_ARRAY_API", None)
    if capsule is None:
        return None
    api = ctypes.pythonapi
    pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", api))
    table = (ctypes.c_void_p * (NEW_FROM_DESCRIPTOR + 1)).from_address(pointer(capsule, None))
    version = ctypes.CFUNCTYPE(ctypes.c_uint)(table[VERSION] or 0)()
    return (
        table if version in ARRAY_VERSIONS and table[ARRAY_TYPE] == id(np.ndarray) and _arrays_as_expected() else None
    )


def _arrays_as_expected() -> bool:
    class Head(ctypes.Structure):
        _fields_ = (
            ("references", ctypes.c_ssize_t),
            ("type", ctypes.c_void_p),
            ("data", ctypes.c_void_p),
            ("rank", ctypes.c_int),
            ("dims", ctypes.POINTER(ctypes.c_ssize_t)),
            ("strides", ctypes.POINTER(ctypes.c_ssize_t)),
            ("base", ctypes.c_void_p),
            ("dtype", ctypes.c_void_p),
            ("flags", ctypes.c_int),
        )

    array = np.zeros((3, 5, 7), np.float32)[:2]
    turned = array.T
    head, other = (Head.from_address(id(a)) for a in (array, turned))
    return (
        head.type == id(np.ndarray)
        and head.data == array.__array_interface__["data"][0]
        and head.rank == 3
        and tuple(head.dims[:3]) == array.shape
        and tuple(other.strides[:3]) == turned.strides
        and head.dtype == id(array.dtype)
        and head.flags & 0x101 == 0x101
        and other.flags & 0x101 == 0x100
    )

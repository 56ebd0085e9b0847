"""The exceptions of ONNX Runtime, and which error of Sardonyx becomes which of them.

All derive from Exception directly, as in the original; the error of Sardonyx is their ``__cause__``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from sardonyx import errors


class _Status(Exception):
    """Prints as ``[ONNXRuntimeError] : code : NAME : message``."""

    code = 0
    label = ""

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return f"[ONNXRuntimeError] : {self.code} : {self.label} : {self.message}"


class Fail(_Status):
    code = 1
    label = "FAIL"


class InvalidArgument(_Status):
    code = 2
    label = "INVALID_ARGUMENT"


class NoSuchFile(_Status):
    code = 3
    label = "NO_SUCHFILE"


class NoModel(_Status):
    code = 4
    label = "NO_MODEL"


class EngineError(_Status):
    code = 5
    label = "ENGINE_ERROR"


class RuntimeException(_Status):
    code = 6
    label = "RUNTIME_EXCEPTION"


class InvalidProtobuf(_Status):
    code = 7
    label = "INVALID_PROTOBUF"


class ModelLoaded(_Status):
    code = 8
    label = "MODEL_LOADED"


class NotImplemented(_Status):
    code = 9
    label = "NOT_IMPLEMENTED"


class InvalidGraph(_Status):
    code = 10
    label = "INVALID_GRAPH"


class EPFail(_Status):
    code = 11
    label = "EP_FAIL"


class ModelLoadCanceled(_Status):
    code = 12
    label = "MODEL_LOAD_CANCELED"


class ModelRequiresCompilation(_Status):
    code = 13
    label = "MODEL_REQUIRES_COMPILATION"


class NotFound(_Status):
    code = 14
    label = "NOT_FOUND"


# The first row whose class fits wins, so special cases stand above their bases.
_STATUS_OF: tuple[tuple[type[Exception], type[_Status]], ...] = (
    (errors.ModelError, InvalidGraph),
    (errors.UnsupportedError, NotImplemented),
    (errors.InputError, InvalidArgument),
    (errors.RuntimeFailure, RuntimeException),
    (errors.ProviderError, EPFail),
    (errors.CompileError, EngineError),
    (errors.SardonyxError, Fail),
)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn errors of Sardonyx that leave the block into exceptions of ONNX Runtime."""
    try:
        yield
    except errors.SardonyxError as error:
        raise status_for(error) from error


def status_for(error: errors.SardonyxError) -> _Status:
    """The exception to raise in place of `error`."""
    status = next(status for kind, status in _STATUS_OF if isinstance(error, kind))
    return status(str(error))


def unsupported(name: str, hint: str = "") -> Callable[..., Any]:
    """A function or class stand-in that says, when it is used, that Sardonyx has no such thing."""

    def refuse(*_args: Any, **_kwargs: Any) -> NoReturn:
        message = f"{name} is not supported by Sardonyx."
        raise NotImplemented(f"{message} Hint: {hint}." if hint else message)

    refuse.__qualname__ = name
    return refuse

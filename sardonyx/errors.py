"""Every error that Sardonyx raises on purpose.

    SardonyxError
    ├── ModelError (ValueError)        the file is malformed, or breaks the ONNX specification
    │   └── ShapeError                 shapes or types of a node do not fit together
    ├── UnsupportedError               well-formed, but this operator, type or version is unknown
    ├── InputError (ValueError)        wrong name, type, rank or dimension of an input to a run
    ├── RuntimeFailure (RuntimeError)  found by running: index out of range, out of memory
    ├── CompileError                   the C compiler failed or is missing
    ├── CacheError                     the cache is unsafe, full, or cannot be written
    ├── ProviderError                  a provider or device that was asked for is missing
    ├── SourceError                    the model to convert cannot be read
    │   └── ConversionError            it was read, but a part of it has no ONNX form
    ├── OptimizationError              a model cannot be made smaller or faster as asked
    ├── VerificationError              converted or optimised model differs from its source
    └── ServerError                    a request that the server cannot fulfil

`except SardonyxError` catches all of them. Mistakes in the use of the Python API (a wrong argument
type) stay `TypeError` and `ValueError`.
"""

from __future__ import annotations

__all__ = [
    "CacheError",
    "CompileError",
    "ConversionError",
    "InputError",
    "ModelError",
    "OptimizationError",
    "ProviderError",
    "RuntimeFailure",
    "SardonyxError",
    "ServerError",
    "ShapeError",
    "SourceError",
    "UnsupportedError",
    "VerificationError",
]


class SardonyxError(Exception):
    """What went wrong, where, and what to do about it.

    Args:
        message: What went wrong, one sentence.
        node: Name of the node of the model concerned.
        operator: Its operator with version, such as `Conv-11`.
        hint: What the user can do.
    """

    def __init__(
        self,
        message: str,
        *,
        node: str | None = None,
        operator: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.node = node
        self.operator = operator
        self.hint = hint

    def __str__(self) -> str:
        where = ""
        if self.node is not None and self.operator is not None:
            where = f"node {self.node!r} ({self.operator}): "
        elif self.node is not None:
            where = f"node {self.node!r}: "
        elif self.operator is not None:
            where = f"{self.operator}: "
        hint = f"\nHint: {self.hint}" if self.hint else ""
        return f"{where}{self.message}{hint}"

    def __reduce__(self) -> tuple:
        # Exceptions cross process borders; the default would lose the keyword-only fields.
        return _rebuild, (type(self), self.message, self.__dict__.copy())


def _rebuild(kind: type[SardonyxError], message: str, fields: dict) -> SardonyxError:
    error = kind.__new__(kind, message)
    Exception.__init__(error, message)
    error.__dict__.update(fields)
    return error


class ModelError(SardonyxError, ValueError):
    """The model file is malformed, or breaks the ONNX specification."""


class ShapeError(ModelError):
    """Shapes or types of a node do not fit together."""


class UnsupportedError(SardonyxError):
    """A valid operator, type or version that is not known here."""


class InputError(SardonyxError, ValueError):
    """An input of a run has a wrong name, type, rank or dimension."""


class RuntimeFailure(SardonyxError, RuntimeError):
    """The run itself failed: index out of range, integer division by zero, no memory."""


class CompileError(SardonyxError):
    """The C compiler failed or is missing.

    Args:
        message: What failed.
        output: What the compiler printed.
        hint: What the user can do.
    """

    def __init__(
        self,
        message: str,
        *,
        output: str = "",
        node: str | None = None,
        operator: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, node=node, operator=operator, hint=hint)
        self.output = output

    def __str__(self) -> str:
        return f"{super().__str__()}\n{self.output}" if self.output else super().__str__()


class CacheError(SardonyxError):
    """The cache is unsafe to use, full, or cannot be written."""


class ProviderError(SardonyxError):
    """A provider or device that was asked for is missing or failed."""


class SourceError(SardonyxError):
    """The model to convert cannot be read, or is of an unknown kind."""


class ConversionError(SourceError):
    """A part of the model to convert has no ONNX form."""


class OptimizationError(SardonyxError):
    """A model cannot be made smaller or faster in the way that was asked for."""


class VerificationError(SardonyxError):
    """A converted or optimised model does not compute what its source computes."""


class ServerError(SardonyxError):
    """A request that the server cannot fulfil."""

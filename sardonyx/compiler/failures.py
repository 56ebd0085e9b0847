"""Whatever goes wrong while compiling becomes an error that names the node and says what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sardonyx import errors

HINT = "Check the model with onnx.checker (full_check=True); if it is valid, this is a bug in Sardonyx."


class Unsupported(Exception):
    """Raised by an operator function without native code for these types or attributes: the node runs on the host."""


@contextlib.contextmanager
def reported(node: str | None = None, operator: str | None = None, passing: tuple = ()) -> Iterator[None]:
    """Let nothing but errors of ours leave this block.

    Args:
        node: name of the node being worked on; errors that name none yet are given it.
        operator: its operator.
        passing: other exceptions that may leave, because a caller deals with them.

    Raises:
        UnsupportedError: neither native code nor the host can do it, or it is nested too deeply for the interpreter.
        RuntimeFailure: there is not enough memory to compile.
        ModelError: anything else that the block raised; it is the cause.
    """
    try:
        yield
    except errors.SardonyxError as error:
        if error.node is None and node is not None:
            error.node, error.operator = node, error.operator or operator
        raise
    except passing:
        raise
    except Unsupported as reason:
        raise errors.UnsupportedError(str(reason), node=node, operator=operator) from reason
    except RecursionError as error:
        raise errors.UnsupportedError("the model is nested too deeply", node=node, operator=operator) from error
    except MemoryError as error:
        raise errors.RuntimeFailure("not enough memory to compile the model", node=node, operator=operator) from error
    except Exception as error:  # an operator function trips over a shape or attribute that makes no sense
        text = str(error).strip().partition("\n")[0]
        message = f"it cannot be compiled: {type(error).__name__}{': ' if text else ''}{text}"
        raise errors.ModelError(message, node=node, operator=operator, hint=HINT) from error

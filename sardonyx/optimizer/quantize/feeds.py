"""Calibration data: given by the user and checked, or made up from what the model says of its inputs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from sardonyx.converters.onnx_file import model_inputs
from sardonyx.converters.source import Input
from sardonyx.errors import InputError, OptimizationError, SardonyxError
from sardonyx.optimizer.data import Data, Feeds
from sardonyx.optimizer.quantize.graph import array_of, consumers, is_op
from sardonyx.optimizer.step import Context
from sardonyx.runtime.options import SessionOptions
from sardonyx.runtime.session import Session
from sardonyx.verifier.samples import fill

__all__ = ["QUIET", "calibration_data", "check_data", "typical_data"]

QUIET = SessionOptions(progress=False)
SAMPLES = 8  # made up, where the user gives none
_SIZES = (16, 64, 224)  # tried, in turn, for a dynamic dimension that is not the batch


def calibration_data(model: ir.Model, context: Context, notes: list[str]) -> Data:
    """The user's data, checked, or generated ones; what the latter cost goes into `notes`.

    Raises:
        InputError: there are no samples, or they do not fit the model, or hold NaN or infinities.
        OptimizationError: nothing can be made up that the model runs on.
    """
    if context.data is None:
        notes.append(
            "no data was given: ranges come from random inputs, and real inputs beyond them will be cut off; "
            "give some real ones (--data)"
        )
        return typical_data(model, context.seed)
    check_data(model, context.data)
    if len(context.data) == 1:
        notes.append("there is one sample only: values that others would reach are cut off")
    return context.data


def check_data(model: ir.Model, data: Data) -> None:
    """Whether each sample fits the inputs of `model`; names, element types, shapes, no NaN or infinity.

    Raises:
        InputError: the first thing that does not fit.
    """
    if len(data) == 0:
        raise InputError("there are no samples to calibrate with", hint="Give at least one; some hundred are better.")
    inputs = model_inputs(model)
    for number, feeds in enumerate(data):
        missing = [each.name for each in inputs if each.name not in feeds]
        if missing:
            hint = f"It holds: {', '.join(map(repr, feeds)) or 'nothing'}."
            raise InputError(f"sample {number} has nothing for input {missing[0]!r}", hint=hint)
        for each in inputs:
            _check_array(each, np.asarray(feeds[each.name]), number)


def _check_array(each: Input, array: np.ndarray, number: int) -> None:
    where = f"sample {number}: input {each.name!r}"
    if each.dtype != "string" and array.dtype != np.dtype(each.dtype):
        raise InputError(f"{where} is {array.dtype}, not {each.dtype}", hint=f"Convert it: .astype('{each.dtype}').")
    fits = array.ndim == len(each.shape) and all(
        isinstance(dim, str) or dim == size for dim, size in zip(each.shape, array.shape)
    )
    if not fits:
        wanted = ", ".join(map(str, each.shape))
        hint = "Samples have the batch dimension that the model has."
        raise InputError(f"{where} has shape {list(array.shape)}, not [{wanted}]", hint=hint)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"{where} holds NaN or infinity", hint="Leave the sample out, or replace those values.")


def typical_data(model: ir.Model, seed: int) -> Data:
    """Random samples: normal numbers, and indices within the tables that they look into.

    Raises:
        OptimizationError: the model runs on none of the sizes tried for its dynamic dimensions.
    """
    inputs = [_bounded(model, each) for each in model_inputs(model)]
    session = Session(model, QUIET)
    problem: SardonyxError | None = None
    for size in _SIZES:
        sizes = _dims(inputs, size)
        samples: list[Feeds] = [fill(inputs, sizes, seed + number) for number in range(SAMPLES)]
        try:
            session.run(samples[0])
        except SardonyxError as error:
            problem = problem or error
            continue
        return Data(samples, origin="random numbers", generated=True)
    raise OptimizationError(f"no inputs could be made up: {problem}", hint="Give some samples (--data).") from problem


def _dims(inputs: list[Input], size: int) -> Mapping[str, int]:
    """Dynamic dimensions: 2 for the batch (the first one of the first input), `size` for others."""
    names = {dim for each in inputs for dim in each.shape if isinstance(dim, str)}
    first = inputs[0].shape[0] if inputs and inputs[0].shape else None
    return {name: 2 if name == first else size for name in names}


def _bounded(model: ir.Model, each: Input) -> Input:
    """Integers that are indices: up to the end of the table."""
    if np.dtype(each.dtype if each.dtype != "string" else "O").kind not in "iu":
        return each
    (value,) = (value for value in model.graph.inputs if value.name == each.name)
    rows = [array.shape[axis] for array, axis in _tables(value)]
    return Input(each.name, each.dtype, each.shape, 0, min(rows) - 1) if rows else each


def _tables(value: ir.Value) -> list[tuple[np.ndarray, int]]:
    found = []
    for node in consumers(value):
        if is_op(node, "Gather") and node.inputs[1] is value:
            table = array_of(node.inputs[0])
            found += [] if table is None else [(table, node.attributes.get_int("axis", 0))]
        elif is_op(node, "Cast", "Reshape", "Unsqueeze", "Squeeze", "Identity", "Flatten"):
            found += _tables(node.outputs[0])
    return found

"""What is tried on one mutant, in a process of its own that may crash: load, generate C, sometimes compile and run."""

from __future__ import annotations

import contextlib
import random
import traceback

import numpy as np
import onnx
from fuzz.mutate import mutant

from sardonyx import Session, SessionOptions
from sardonyx.compiler.compile import generate
from sardonyx.errors import SardonyxError
from sardonyx.model import load

MOST_ELEMENTS = 1 << 16  # of an input that a run is given


def trial(number: int, share: float) -> tuple[str, str]:
    """Try mutant `number`.

    Args:
        number: of the mutant; decides everything.
        share: of those that C can be generated for, how many are compiled and run.

    Returns:
        What came of it (refused, generated, ran, failed or bug), and details: the error, or of a bug its traceback.
    """
    what, content = mutant(number)
    rng = random.Random(number)
    try:
        generate(load(content))
        if rng.random() >= share:
            return "generated", what
        session = Session(content, SessionOptions(cache=False, progress=False, threads=2))
    except SardonyxError as error:
        return _judge("refused", error, what)
    except Exception:
        return "bug", f"{what}\n{traceback.format_exc()}"
    try:
        for seed in (number, number + 1):
            feeds = _feeds(session, np.random.default_rng(seed))
            if feeds is not None:
                session.run(feeds)
    except SardonyxError as error:
        return "failed", f"{what}: {type(error).__name__}: {error}"
    except Exception:
        return "bug", f"{what}\n{traceback.format_exc()}"
    return "ran", what


def _judge(outcome: str, error: SardonyxError, what: str) -> tuple[str, str]:
    """Errors that the compiler did not mean to raise are noted: it has refused what it should have understood."""
    details = f"{what}: {type(error).__name__}: {error}"
    if "cannot be compiled:" in error.message:
        cause = error.__cause__
        frames = traceback.format_exception(cause)[-6:] if cause is not None else []
        return "tripped", details + "\n" + "".join(frames)
    return outcome, details


def _feeds(session: Session, rng: np.random.Generator) -> dict[str, np.ndarray] | None:
    feeds = {}
    sizes = {name: int(rng.integers(0, 6)) for port in session.inputs for name in port.shape if isinstance(name, str)}
    for port in session.inputs:
        if port.slot >= 0:
            return None
        shape = [sizes.get(d, 2) if not isinstance(d, int) else d for d in port.shape]
        if np.prod(shape, dtype=float) > MOST_ELEMENTS or min(shape, default=0) < 0:
            return None
        values = rng.choice([0, 1, -1, 2, 3, -7, 100, 1.5], shape)
        with contextlib.suppress(RuntimeWarning), np.errstate(all="ignore"):
            feeds[port.name] = np.ascontiguousarray(values.astype(port.dtype))
    return feeds


def describe(number: int) -> onnx.ModelProto | bytes:
    """Mutant `number` as a message, to look at."""
    content = mutant(number)[1]
    with contextlib.suppress(Exception):
        return onnx.load_model_from_string(content)
    return content

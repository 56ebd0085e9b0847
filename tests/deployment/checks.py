"""Whether other processors give the same bytes as this one: shared by the tests and scripts/check_targets.py."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import onnx_cases

from sardonyx import Session, SessionOptions, errors
from sardonyx.compiler import compile as compiling
from sardonyx.compiler import memory
from sardonyx.compiler.program import Program
from sardonyx.deployment import run_target
from sardonyx.deployment.bundle import Bundle, make_bundle
from sardonyx.deployment.run_target import Machine, Request, Result
from sardonyx.deployment.targets import find, host_target
from sardonyx.model import load
from sardonyx.runtime.native import ERRORS


@dataclass(frozen=True)
class Sample:
    """A model and what it is fed, once or several times."""

    name: str
    model: onnx.ModelProto | Path
    feeds: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Ready:
    """A sample, compiled, with what this machine's session gives: arrays, or the error's text."""

    sample: Sample
    owner: Any  # what keeps the bundle's folder
    bundle: Bundle
    wanted: tuple[list[Any] | str, ...]


@dataclass(frozen=True)
class Row:
    """What one machine made of one sample.

    Attributes:
        outcome: same, differs, crash, memory (damage or a leak), skipped (the sample is not for such a program).
    """

    sample: str
    machine: str
    outcome: str
    detail: str = ""


def official(name: str) -> Sample:
    """An official case."""
    case = onnx_cases.load(name)
    return Sample(name, case.model, tuple(case.feeds(inputs) for inputs, _ in case.data))


def ready(sample: Sample, target: str | None = None, *, apart: bool = False) -> Ready | Row:
    """Compile a sample for `target` (this machine) and run it in a session; a Row says why it is skipped.

    With `apart` every temporary gets a block of its own, so that no access beyond one falls into another.
    """
    options = SessionOptions(target=target, progress=False, cache=not apart)
    try:
        with temporaries_apart() if apart else nullcontext():
            session = Session(_source(sample), options)
    except errors.SardonyxError as error:
        return Row(sample.name, "", "skipped", f"{type(error).__name__}: {error.args[0] if error.args else error}")
    bundle = Bundle(session._library.folder, find(target) if target else host_target())
    if reason := bundle.hosted():
        return Row(sample.name, "", "skipped", reason)
    return Ready(sample, session, bundle, tuple(outcome(session, feeds) for feeds in sample.feeds))


def emitted(samples: Sequence[Sample]) -> list[Ready]:
    """Samples as C, without a library each: what is wanted comes from one program of all, on this machine.

    That this program gives what sessions give is checked where `ready` is used. Samples that need Python are left out.
    """
    made: list[tuple[Sample, Any, Bundle]] = []
    with mock.patch.object(compiling.build, "compile_library"):
        for sample in samples:
            owner = tempfile.TemporaryDirectory(prefix="sardonyx-emitted-")
            bundle = make_bundle(load(sample.model), host_target(), Path(owner.name))
            if not bundle.hosted():
                made.append((sample, owner, bundle))
    bundles = [bundle for *_, bundle in made]
    requests = [Request(number, feeds) for number, (sample, *_) in enumerate(made) for feeds in sample.feeds]
    with tempfile.TemporaryDirectory(prefix="sardonyx-check-") as folder:
        run_target.link(bundles, host_target(), Path(folder) / "program")
        results = iter(run_target.run(Path(folder) / "program", run_target.machine("host"), bundles, requests))
    return [
        Ready(item, owner, bundle, tuple(_given(next(results)) for _ in item.feeds)) for item, owner, bundle in made
    ]


def _given(result: Result) -> list[Any] | str:
    assert not result.crash, result.crash
    return ERRORS[result.error][0].__name__ if result.error else list(result.outputs)


def _source(sample: Sample) -> Any:
    return str(sample.model) if isinstance(sample.model, Path) else sample.model


def outcome(session: Session, feeds: Mapping[str, Any]) -> list[Any] | str:
    """The outputs of a run, or the kind of error it ends with."""
    try:
        return session.run(feeds)
    except errors.SardonyxError as error:
        return type(error).__name__


@contextmanager
def temporaries_apart() -> Iterator[None]:
    """Models compiled meanwhile allocate every temporary by itself; there is no arena."""

    def plan(program: Program) -> memory.Plan:
        with mock.patch.object(memory, "_is_planned", return_value=False):
            return memory.plan(program)

    with mock.patch.object(compiling, "plan", plan):
        yield


def difference(wanted: Sequence[Any], got: Sequence[Any]) -> str:
    """Where two lists of outputs differ in type, shape or bytes (a NaN is a NaN); empty if nowhere."""
    if len(wanted) != len(got):
        return f"{len(got)} outputs, expected {len(wanted)}"
    for number, (a, b) in enumerate(zip(wanted, got, strict=True)):
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            return f"output {number}: {b.dtype}{list(b.shape)}, expected {a.dtype}{list(a.shape)}"
        differ = _bits(a) != _bits(b)
        if a.dtype.kind in "fV":
            with np.errstate(all="ignore"):
                differ &= ~(np.isnan(a.astype(np.float64)) & np.isnan(b.astype(np.float64))).reshape(-1)
        if differ.any():
            at = int(np.flatnonzero(differ)[0])
            values = f"{b.reshape(-1)[at]!r}, expected {a.reshape(-1)[at]!r}"
            return f"output {number}: {int(differ.sum())} of {differ.size} differ, first at {at}: {values}"
    return ""


def _bits(array: np.ndarray) -> np.ndarray:
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(f"u{flat.dtype.itemsize}")


def check(batch: Sequence[Ready], machine: Machine, *, backwards: bool = True, timeout: float = 600) -> list[Row]:
    """Run samples on one machine, all in one program; what a crash leaves open is run by another process."""
    requests = [Request(number, feeds) for number, item in enumerate(batch) for feeds in item.sample.feeds]
    bundles = [item.bundle for item in batch]
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="sardonyx-check-") as folder:
        program = Path(folder) / "program"
        try:
            run_target.link(bundles, machine.target, program)
            while len(results) < len(requests):
                rest = requests[len(results) :]
                found = run_target.run(program, machine, bundles, rest, backwards=backwards, timeout=timeout)
                ended = [number for number, result in enumerate(found) if result.crash]
                results += found[: ended[0] + 1] if ended else found
        except errors.SardonyxError as error:
            results += [Result(crash=f"{error}")] * (len(requests) - len(results))
    rows: list[Row] = []
    at = 0
    for item in batch:
        mine = results[at : at + len(item.wanted)]
        at += len(item.wanted)
        if any(EMULATOR_BUG in result.crash for result in mine) and SCALAR[-1] not in machine.target.flags:
            (row,) = check([item], _scalar(machine), backwards=backwards, timeout=timeout)
            detail = row.detail or "loops compiled as scalar code: qemu 7 cannot run a vector conversion to integers"
            rows.append(replace(row, detail=detail))
        else:
            rows.append(_row(item, machine, mine))
    return rows


# qemu 7 stops at RISC-V vector conversions with a rounding mode of their own (8.0 does not).
EMULATOR_BUG = "ctx->insn_start != NULL"
SCALAR = ("-mllvm", "-force-vector-width=1")


def _scalar(machine: Machine) -> Machine:
    """The same machine, for loops that the compiler does not vectorise; explicit vectors stay."""
    return replace(machine, target=replace(machine.target, flags=(*machine.target.flags, *SCALAR)))


def _row(item: Ready, machine: Machine, results: Sequence[Result]) -> Row:
    for wanted, result in zip(item.wanted, results, strict=True):
        if result.crash:
            return Row(item.sample.name, machine.name, "crash", result.crash)
        if result.damaged or result.leaked:
            detail = f"{result.damaged} damaged, {result.leaked} leaked"
            return Row(item.sample.name, machine.name, "memory", detail)
        got = ERRORS[result.error][0].__name__ if result.error else list(result.outputs)
        if isinstance(wanted, str) or isinstance(got, str):
            detail = "" if isinstance(wanted, str) and got == wanted else f"{_short(got)}, expected {_short(wanted)}"
        else:
            detail = difference(wanted, got)
        if detail:
            return Row(item.sample.name, machine.name, "differs", detail)
    return Row(item.sample.name, machine.name, "same")


def _short(outcome: Any) -> str:
    return outcome if isinstance(outcome, str) else "outputs"

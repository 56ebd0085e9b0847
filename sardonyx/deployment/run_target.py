"""Runs compiled models as static programs: for another processor under an emulator, for this one in guarded memory.

    outputs = run_on(model, "aarch64", {"x": x})

`kernels/c/runner.c` is the host of such a program: one thread, system calls only, every block of memory between pages
that nobody may touch. One program may hold many models, since compiling and starting it is what costs time.
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sardonyx import errors
from sardonyx.compiler import build
from sardonyx.deployment.bundle import Bundle, make_bundle
from sardonyx.deployment.targets import TARGETS, Target, cpu_flags, host_target

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["MACHINES", "Machine", "Request", "Result", "link", "machine", "run", "run_on"]

REQUEST, RESULT = b"SXRUN-01", b"SXOUT-01"
BACKWARDS = 1  # tasks of a step run one by one from the last to the first
PORTABLE = ("-DSX_PORTABLE",)
# Undefined behaviour ends the program by an illegal instruction. Not of floats beyond an integer type: convert.h
# converts first and selects after, so that loops vectorise, and LLVM defines that a result not selected does no harm.
UNDEFINED = ("-fsanitize=undefined", "-fsanitize-trap=undefined", "-fno-sanitize=float-cast-overflow")
MODELS_IN_UNIT = 12  # of a program of many, so that all cores compile
STATUS = {2: "wrong arguments", 3: "a file or memory failed", 4: "the request is malformed", 5: "no matrix tiles"}


@dataclass(frozen=True)
class Machine:
    """A processor that programs can run on: this one, or one that an emulator plays.

    Attributes:
        name: The target's name, and how the machine differs from its default.
        target: What is compiled for.
        emulator: The command in front of the program's; empty: this processor.
    """

    name: str
    target: Target
    emulator: tuple[str, ...] = ()

    def missing(self) -> str | None:
        """What prevents programs from running, None if nothing does."""
        if self.emulator:
            return None if shutil.which(self.emulator[0]) else f"{self.emulator[0]} is not installed"
        here = host_target()
        if (self.target.arch, self.target.system) != (here.arch, here.system):
            return f"this is {here.arch}, and no emulator is known"
        lacking = sorted(self.target.needs - cpu_flags())
        return f"this processor lacks {' '.join(lacking)}" if lacking else None


def _machines() -> dict[str, Machine]:
    rows = [Machine(name, row) for name, row in TARGETS.items() if (row.arch, row.system) == ("x86_64", "linux")]
    arm, riscv = ("qemu-aarch64",), ("qemu-riscv64",)
    vectors = (*riscv, "-cpu")
    rows += [
        Machine("aarch64", TARGETS["aarch64"], arm),
        Machine("aarch64_dotprod", TARGETS["aarch64_dotprod"], (*arm, "-cpu", "max")),
        Machine("aarch64_i8mm", TARGETS["aarch64_i8mm"], (*arm, "-cpu", "max")),
        Machine("riscv64", TARGETS["riscv64"], riscv),
        Machine("riscv64_v128", TARGETS["riscv64_v"], (*vectors, "rv64,v=true,vlen=128")),
        Machine("riscv64_v256", TARGETS["riscv64_v"], (*vectors, "rv64,v=true,vlen=256")),
        Machine("riscv64_v512", TARGETS["riscv64_v"], (*vectors, "rv64,v=true,vlen=512")),
    ]
    for row in [row for row in rows if not row.target.portable]:
        target = replace(row.target, flags=(*row.target.flags, *PORTABLE), portable=True)
        rows.append(Machine(f"{row.name}+portable", target, row.emulator))
    for row in [row for row in rows if not row.emulator]:
        target = replace(row.target, flags=(*row.target.flags, *UNDEFINED))
        rows.append(Machine(f"{row.name}+undefined", target))
    return {row.name: row for row in rows}


MACHINES: dict[str, Machine] = _machines()


def machine(name: str) -> Machine:
    """The row of MACHINES of that name; `host` is this processor.

    Raises:
        ValueError: There is none; the message lists the names.
    """
    name = host_target().name if name == "host" else name
    if name not in MACHINES:
        raise ValueError(f"unknown machine {name!r}; known are host, {', '.join(sorted(MACHINES))}")
    return MACHINES[name]


@dataclass(frozen=True)
class Request:
    """One run: the number of the model in its program, and an array for each input."""

    model: int
    feeds: Mapping[str, Any]


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        error: 0, or SX_ERROR_*.
        step: The step that failed.
        damaged: Blocks of memory beside which something was written.
        leaked: Blocks that were not given back.
        outputs: Arrays, in the model's order; none after an error.
        crash: What ended the program during this run; empty if nothing did.
    """

    error: int = 0
    step: int = 0
    damaged: int = 0
    leaked: int = 0
    outputs: tuple[np.ndarray, ...] = ()
    crash: str = ""


def link(bundles: Sequence[Bundle], target: Target, output: Path, *, jobs: int | None = None) -> None:
    """Build the program that runs `bundles`, whatever target they were made for: the generated C is the same.

    Raises:
        CompileError: The compiler or linker failed.
    """
    count = len(bundles)
    names = [f"sx{number}_main" if count > 1 else "sx_main" for number in range(count)]
    table = '#include "sardonyx.h"\n' + "".join(f"int64_t {name}(sx_host *, sx_call *);\n" for name in names)
    table += f"int64_t (*const sx_programs[])(sx_host *, sx_call *) = {{{', '.join(names)}}};\n"
    table += f"const int64_t sx_program_count = {count};\n"
    units = [build.Unit("programs", table), build.Unit("runner", Path("runner.c"))]
    if count == 1:
        units += bundles[0].units()
    else:
        texts = [_renamed(bundle, number) for number, bundle in enumerate(bundles)]
        for start in range(0, count, MODELS_IN_UNIT):
            units.append(build.Unit(f"models{start}", "".join(texts[start : start + MODELS_IN_UNIT])))
        kernels = sorted({kernel for bundle in bundles for kernel in bundle.kernels})
        units += [build.Unit(kernel, Path(f"{kernel}.c")) for kernel in kernels]
    build.link_executable(units, target, output, jobs=jobs)


def _renamed(bundle: Bundle, number: int) -> str:
    """The model's source with names that no other model in the file has."""
    text = "".join(path.read_text() for path in bundle.sources)
    names = sorted({"sx_main", "sx_output_dims", "sx_flops", *re.findall(r"\bloop\d+\b", text)})
    begin = "".join(f"#define {name} sx{number}_{name.removeprefix('sx_')}\n" for name in names)
    return f"{begin}{text}{''.join(f'#undef {name}{chr(10)}' for name in names)}"


def run(
    program: Path,
    machine: Machine,
    bundles: Sequence[Bundle],
    requests: Sequence[Request],
    *,
    backwards: bool = False,
    timeout: float = 600,
) -> list[Result]:
    """Run a linked program.

    Args:
        program: What `link` wrote.
        machine: Where to run it.
        bundles: The models in it, in the same order.
        requests: The runs, in order. A crash ends the program: the results that follow say so.
        backwards: Run the tasks of each step one by one, from the last to the first.
        timeout: Seconds for the whole program.

    Raises:
        RuntimeFailure: The program did not even begin, or took too long.
    """
    with tempfile.TemporaryDirectory(prefix="sardonyx-run-") as name:
        folder = Path(name)
        starts = _write_weights(bundles, folder / "weights")
        _write_request(bundles, requests, starts, BACKWARDS if backwards else 0, folder / "request")
        files = [str(folder / file) for file in ("request", "weights", "result")]
        command = [*machine.emulator, str(program), *files]
        try:
            done = subprocess.run(command, capture_output=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired as error:
            raise errors.RuntimeFailure(f"no end after {timeout} s on {machine.name}") from error
        crash = _crash(done, machine)
        path = folder / "result"
        blob = path.read_bytes() if path.exists() else b""
    if not blob.startswith(RESULT):
        raise errors.RuntimeFailure(f"the program did not begin: {crash or 'no result'}")
    return _read_results(blob, bundles, requests, crash)


def _crash(done: subprocess.CompletedProcess[bytes], machine: Machine) -> str:
    if done.returncode == 0:
        return ""
    said = done.stderr.decode(errors="replace").strip()[-300:]
    status = f"signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
    return " ".join(f"{STATUS.get(done.returncode, status)} on {machine.name} {said}".split())


def _write_weights(bundles: Sequence[Bundle], path: Path) -> list[int]:
    starts = []
    with path.open("wb") as file:
        for bundle in bundles:
            starts.append(file.tell())
            with bundle.weights.open("rb") as weights:
                shutil.copyfileobj(weights, file)
            file.seek(-(-file.tell() // 64) * 64)
        file.truncate()
    return starts


def _write_request(
    bundles: Sequence[Bundle], requests: Sequence[Request], starts: Sequence[int], flags: int, path: Path
) -> None:
    heads: list[list[int]] = []
    arrays: list[np.ndarray] = []
    where: list[tuple[int, int]] = []  # (head, position in it) that takes the array's offset
    for request in requests:
        facts = bundles[request.model].facts
        values = [_array(request.feeds, port) for port in facts["inputs"]]
        ranks = [len(port["dims"]) for port in facts["outputs"]]
        head = [request.model, len(values), len(ranks), len(facts["entry"]), sum(ranks)]
        head += [facts["planned"], starts[request.model], facts["weights"]]
        for value in values:
            where.append((len(heads), len(head)))
            head += [0, value.nbytes]
            arrays.append(value)
        head += [values[number].shape[axis] for number, axis in facts["entry"]]
        for port, rank in zip(facts["outputs"], ranks, strict=True):
            head += [_dtype(port).itemsize, rank]
        heads.append(head)
    at = 8 * (3 + sum(map(len, heads)))
    for (number, position), array in zip(where, arrays, strict=True):
        heads[number][position] = at
        at += -(-array.nbytes // 8) * 8
    with path.open("wb") as file:
        file.write(REQUEST + struct.pack("<2q", flags, len(requests)))
        for head in heads:
            file.write(struct.pack(f"<{len(head)}q", *head))
        for array in arrays:
            file.write(array.tobytes())
            file.write(bytes(-array.nbytes % 8))


def _array(feeds: Mapping[str, Any], port: Mapping[str, Any]) -> np.ndarray:
    if port["name"] not in feeds:
        raise errors.InputError(f"input '{port['name']}' is missing")
    array = np.asarray(feeds[port["name"]])
    if array.dtype != _dtype(port) or array.ndim != len(port["dims"]):
        raise errors.InputError(f"input '{port['name']}' must be {port['dtype']} of rank {len(port['dims'])}")
    return array


def _dtype(port: Mapping[str, Any]) -> np.dtype:
    from sardonyx.runtime.native import numpy_dtype

    return numpy_dtype(port["dtype"])


def _read_results(blob: bytes, bundles: Sequence[Bundle], requests: Sequence[Request], crash: str) -> list[Result]:
    """The results that are whole; the others say what ended the program."""
    results: list[Result] = []
    at = len(RESULT)
    for request in requests:
        ports = bundles[request.model].facts["outputs"]
        try:
            result, at = _read_result(blob, at, ports)
        except (struct.error, ValueError):
            break
        results.append(result)
    if len(results) < len(requests):
        lost = crash or "the result is cut short"
        results.append(Result(crash=lost))
        results += [Result(crash=f"not run: {lost}")] * (len(requests) - len(results))
    return results


def _read_result(blob: bytes, at: int, ports: Sequence[Mapping[str, Any]]) -> tuple[Result, int]:
    error, step, damaged, leaked = struct.unpack_from("<4q", blob, at)
    at += 32
    if error:
        return Result(error, step, damaged, leaked), at
    ranks = [len(port["dims"]) for port in ports]
    dims = struct.unpack_from(f"<{sum(ranks)}q", blob, at)
    at += 8 * sum(ranks)
    outputs = []
    for port, rank in zip(ports, ranks, strict=True):
        shape, dims = dims[:rank], dims[rank:]
        count = int(np.prod(shape, dtype=np.int64))
        array = np.frombuffer(blob, _dtype(port), count, at) if count else np.empty(0, _dtype(port))
        outputs.append(array.reshape(shape).copy())
        at += -(-array.nbytes // 8) * 8
        if at > len(blob):
            raise ValueError("cut short")
    return Result(0, step, damaged, leaked, tuple(outputs)), at


def run_on(
    model: ir.Model, target: str | Machine, feeds: Mapping[str, Any], *, timeout: float = 600
) -> list[np.ndarray]:
    """Compile `model` for a machine and run it once, under an emulator where it is not this one.

    Args:
        model: The model; each of its operators must be native.
        target: The name of a target (or a row of MACHINES).
        feeds: An array for each input.
        timeout: Seconds for the run.

    Returns:
        One array for each output.

    Raises:
        UnsupportedError: Something of the model runs in Python, or the machine is missing.
        SardonyxError: It can't be compiled, or the run failed; as a session would say.
    """
    row = target if isinstance(target, Machine) else machine(target)
    if reason := row.missing():
        raise errors.UnsupportedError(f"no program can run for {row.name}: {reason}")
    with tempfile.TemporaryDirectory(prefix="sardonyx-bundle-") as name:
        bundle = make_bundle(model, row.target, Path(name))
        if reason := bundle.hosted():
            raise errors.UnsupportedError(f"the model needs Python: {reason}")
        program = Path(name) / "program"
        link([bundle], row.target, program)
        (result,) = run(program, row, [bundle], [Request(0, feeds)], timeout=timeout)
        _check(result, bundle)
    return list(result.outputs)


def _check(result: Result, bundle: Bundle) -> None:
    from sardonyx.runtime.native import ERRORS

    if result.crash:
        raise errors.RuntimeFailure(f"the program crashed: {result.crash}")
    if result.error:
        kind, message = ERRORS.get(result.error, (errors.RuntimeFailure, f"error {result.error}"))
        node, operator = bundle.facts["steps"][result.step]
        raise kind(bundle.facts["messages"].get(str(result.step), message), node=node, operator=operator)
    if result.damaged or result.leaked:
        raise errors.RuntimeFailure(f"{result.damaged} blocks of memory damaged, {result.leaked} leaked")

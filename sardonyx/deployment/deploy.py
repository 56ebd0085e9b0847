"""`deploy`: from a model of any framework to a folder that runs by itself on this machine.

model.onnx, model.recipe.yaml     the optimised model, and what made it of the source
model.so, weights.bin, ...        the same, compiled; see `bundle.py`
source.onnx                       the model as it was converted, before it was optimised
report.html, report.json          the search; json also has the times of all runtimes
run.py, sample.npz                how to use it, on one sample
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sardonyx.converters.convert import Conversion, convert
from sardonyx.converters.onnx_file import model_inputs
from sardonyx.converters.process import Worker
from sardonyx.converters.source import Request
from sardonyx.deployment.bundle import make_bundle
from sardonyx.deployment.targets import host_target
from sardonyx.errors import InputError, SardonyxError
from sardonyx.model.load import load
from sardonyx.optimizer.optimize import optimize
from sardonyx.optimizer.reading.read import DataOptions, read_data
from sardonyx.optimizer.search.page import page
from sardonyx.optimizer.search.result import Result, bytes_
from sardonyx.optimizer.search.store import write_text

__all__ = ["Deployment", "Side", "deploy"]

ROUNDS, BLOCK_SECONDS = 7, 0.15
EXAMPLE = '''"""Runs the model in this folder on the sample beside it: python run.py"""

from pathlib import Path

import numpy as np
import sardonyx

folder = Path(__file__).parent
session = sardonyx.Session(folder)  # the compiled model: nothing is compiled, converted or searched here
outputs = session.run(dict(np.load(folder / "sample.npz")))
for port, value in zip(session.outputs, outputs):
    print(port.name, value.shape, value.ravel()[:10])
'''


@dataclass(frozen=True)
class Side:
    """One runtime beside the others: median of a run, milliseconds, and bytes of the model it runs (0: unknown)."""

    name: str
    milliseconds: float
    size: int = 0


@dataclass
class Deployment:
    """What `deploy` did.

    Attributes:
        folder: what was written.
        conversion: from the source to ONNX, and its verification.
        result: of the search.
        sides: runtimes beside each other, the source's framework first.
        notes: what the user should know.
        seconds: that it took in all.
    """

    folder: Path
    conversion: Conversion
    result: Result
    sides: list[Side] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        sides = [{"name": s.name, "milliseconds": s.milliseconds, "size": s.size} for s in self.sides]
        facts = {"folder": str(self.folder), "kind": self.conversion.kind, "sides": sides, "notes": self.notes}
        return {**facts, "seconds": self.seconds, "search": self.result.to_json()}

    def table(self) -> Any:
        """A rich table of the runtimes."""
        from rich.table import Table

        table = Table("runtime", title="One run", title_justify="left")
        for head in ("ms", "Sardonyx, optimised, is faster by", "size"):
            table.add_column(head, justify="right")
        ours = self.sides[-1].milliseconds if self.sides else 1.0
        for side in self.sides:
            ratio = f"{side.milliseconds / ours:.2f} x"
            table.add_row(side.name, f"{side.milliseconds:.4g}", ratio, bytes_(side.size))
        return table

    def show(self) -> None:
        """Print what was done."""
        import sys

        from rich.console import Console

        console = Console(width=None if sys.stdout.isatty() else 160)
        report = self.conversion.report
        verified = f"verified: {report.summary()}" if report is not None else "not verified"
        console.print(f"converted from {self.conversion.kind}, {verified}", highlight=False, markup=False)
        console.print(self.result.table())
        console.print(self.result.summary(), highlight=False, markup=False)
        console.print(self.table())
        for note in [*self.conversion.notes, *self.result.notes, *self.notes]:
            console.print(f"note: {note}", highlight=False, markup=False)
        console.print(f"{self.folder} is ready after {self.seconds:.0f} s: python {self.folder / 'run.py'}")


def deploy(
    source: Any,
    output: str | os.PathLike[str],
    *,
    data: Any = None,
    kind: str | None = None,
    options: Mapping[str, str] | None = None,
    trust: bool = False,
    data_options: DataOptions | None = None,
    threads: int | None = None,
    seed: int = 0,
    progress: Callable[[float, str], None] = lambda part, text: None,
    **budget: Any,
) -> Deployment:
    """Convert, verify, optimise and build a model for this machine, and measure it beside the source's framework.

    Args:
        source: see `convert`.
        output: the folder to write; what is in it under the same names is replaced.
        data: see `optimize`.
        kind: see `convert`.
        options: see `convert`.
        trust: whether code that the source holds (a pickle) may run.
        data_options: how `data` is read.
        threads: of runs; None: all that may be used.
        seed: of everything that is random.
        progress: called with the part of the time that is over and a few words.
        budget: what else `optimize` takes: metric, max_drop, max_latency, max_size, objective, seconds, ...

    Raises:
        SourceError, ConversionError, VerificationError: see `convert`.
        InputError, OptimizationError: see `optimize`.
    """
    begin, folder = time.monotonic(), Path(output)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{str(folder)!r} is a file; a folder is to be written")
    folder.mkdir(parents=True, exist_ok=True)
    original, model = folder / "source.onnx", folder / "model.onnx"
    say = lambda text: progress(0.0, text)  # noqa: E731
    conversion = convert(source, original, kind=kind, options=options, trust=trust, progress=say)
    facts = {"data": data, "data_options": data_options, "threads": threads, "seed": seed, "progress": progress}
    store = folder.with_name(folder.name + ".search")
    result = optimize(original, model, store=store, **facts, **budget)
    progress(1.0, "building")
    done = Deployment(folder, conversion, result)
    make_bundle(load(model), host_target(), folder)
    inputs = model_inputs(load(model))
    sample = dict(read_data(data, inputs, data_options, seed).feeds[0])
    _write_example(folder, sample)
    progress(1.0, "measuring all runtimes")
    request = None
    if isinstance(source, str | os.PathLike):
        request = Request(os.fspath(source), conversion.kind, options=dict(options or {}), trust=trust)
    done.sides = _side_by_side(request, original, folder, sample, threads, done.notes)
    done.seconds = time.monotonic() - begin
    write_text(folder / "report.html", page(result))
    write_text(folder / "report.json", json.dumps(done.to_json(), indent=1))
    return done


def _write_example(folder: Path, sample: Mapping[str, np.ndarray]) -> None:
    with tempfile.TemporaryDirectory(dir=folder, prefix=".sample-") as aside:
        arrays = {name: array.astype(str) if array.dtype.kind == "O" else array for name, array in sample.items()}
        np.savez(Path(aside) / "sample.npz", **arrays)  # type: ignore[arg-type]  # names are positional in the stub
        os.replace(Path(aside) / "sample.npz", folder / "sample.npz")
    write_text(folder / "run.py", EXAMPLE)


def _side_by_side(
    request: Request | None,
    original: Path,
    folder: Path,
    sample: Mapping[str, np.ndarray],
    threads: int | None,
    notes: list[str],
) -> list[Side]:
    """Medians over blocks in turns, so that what disturbs the machine disturbs all alike."""
    sides: dict[str, Callable[[], list[int]]] = {}
    with contextlib.ExitStack() as stack:
        if request is not None and request.kind not in ("onnx", "ort"):
            with _noted(notes, f"{request.kind} was not measured"):
                worker = stack.enter_context(Worker(request))
                worker.export(stack.enter_context(_aside()) / "again.onnx")
                worker.run(sample)
                sides[request.kind] = lambda: worker.time(sample, BLOCK_SECONDS)
        for name, path in (("ONNX Runtime", original), ("ONNX Runtime, optimised", folder / "model.onnx")):
            with _noted(notes, f"{name} was not measured"):
                sides[name] = _onnxruntime(path, threads, sample)
        sides["Sardonyx"] = _sardonyx(original, threads, sample)
        sides["Sardonyx, optimised"] = _sardonyx(folder, threads, sample)
        blocks: dict[str, list[float]] = {name: [] for name in sides}
        order = list(sides)
        for _ in range(ROUNDS):
            for name in order:
                blocks[name].append(float(np.median(sides[name]())) / 1e6)
            order.append(order.pop(0))
    before, after = original.stat().st_size, (folder / "model.onnx").stat().st_size
    sizes = {name: after if name.endswith("optimised") else before for name in sides}
    if request is not None and request.kind in sizes:
        sizes[request.kind] = os.path.getsize(request.source) if os.path.isfile(request.source) else 0
    return [Side(name, float(np.median(times)), sizes[name]) for name, times in blocks.items()]


@contextlib.contextmanager
def _noted(notes: list[str], what: str) -> Any:
    """A runtime that is missing or fails is a note, not the end."""
    try:
        yield
    except (SardonyxError, ImportError) as error:
        notes.append(f"{what}: {str(error).splitlines()[0]}")


@contextlib.contextmanager
def _aside() -> Any:
    with tempfile.TemporaryDirectory(prefix="sardonyx-deploy-") as folder:
        yield Path(folder)


def _timed(call: Callable[[], object]) -> Callable[[], list[int]]:
    """A function that runs `call` for a block, and gives nanoseconds of single runs."""

    def block() -> list[int]:
        time.sleep(0.05)  # threads of the runtime before come to rest
        call()
        taken: list[int] = []
        end = time.perf_counter_ns() + int(BLOCK_SECONDS * 1e9)
        while not taken or time.perf_counter_ns() < end:
            start = time.perf_counter_ns()
            call()
            taken.append(time.perf_counter_ns() - start)
        return taken

    return block


def _onnxruntime(path: Path, threads: int | None, sample: Mapping[str, np.ndarray]) -> Callable[[], list[int]]:
    from sardonyx.benchmark.runtimes import load_runtime
    from sardonyx.errors import ProviderError
    from sardonyx.runtime.threads import available_cpus

    try:
        run = load_runtime("onnxruntime", str(path), threads or available_cpus())
        run(sample)
    except SardonyxError:
        raise
    except Exception as error:  # whatever another runtime raises
        raise ProviderError(" ".join(str(error).split())[:200]) from error
    return _timed(lambda: run(sample))


def _sardonyx(path: Path, threads: int | None, sample: Mapping[str, np.ndarray]) -> Callable[[], list[int]]:
    from sardonyx.runtime.options import SessionOptions
    from sardonyx.runtime.session import Session

    session = Session(str(path), SessionOptions(threads=threads, progress=False))
    session.run(sample)
    return _timed(lambda: session.run(sample))

"""The child process in which a framework works: a crash, a leak or a print of it stays there.

Parent and child talk in lines of JSON over a pair of pipes of their own, so that nothing that a framework prints gets
between; arrays travel as .npz files without pickles. What the framework prints is kept, and its end is shown when the
child dies.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

import sardonyx
from sardonyx import errors
from sardonyx.converters.source import Input, Point, Request

_TAIL = 2000  # characters of the framework's output that an error shows


class Exported(Protocol):
    """What conversion and verification see of a source: a `Worker`, or a `Source` in this process."""

    def parts(self) -> Sequence[str]: ...
    def choose(self, part: str) -> None: ...
    def export(self, path: Path) -> list[str]: ...
    def sizes(self) -> Mapping[str, Sequence[int]]: ...
    def inputs(self) -> Sequence[Input]: ...
    def points(self) -> Sequence[Point]: ...
    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]: ...
    def observe(self, feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]: ...


class Worker:
    """A child process that holds one opened source; a context manager.

    Args:
        request: what to open.
        progress: called with a few words at each long step.
        python: the interpreter whose packages the framework comes from.

    Raises:
        SourceError, ConversionError, ...: what the child raised, or that it died.
    """

    def __init__(self, request: Request, progress: Callable[[str], None] = lambda text: None, python: str = ""):
        self._progress = progress
        self._numbers = itertools.count()
        self._folder = tempfile.TemporaryDirectory(prefix="sardonyx-convert-")
        self._log = Path(self._folder.name, "log")
        self._start(python or sys.executable)
        try:
            samples = [self._write(sample) for sample in request.samples]
            self._call("open", request=request.to_json(), samples=samples)
        except BaseException:
            self.close()
            raise

    def _start(self, python: str) -> None:
        child_reads, self._to_child = os.pipe()
        self._from_child, child_writes = os.pipe()
        # The child's own interpreter may not have Sardonyx installed.
        path = [str(Path(sardonyx.__file__).parents[1]), os.getcwd(), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), "TF_CPP_MIN_LOG_LEVEL": "2"}
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [python, "-m", "sardonyx.converters.child", str(child_reads), str(child_writes)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(child_reads, child_writes),
                env=environment,
            )
        os.close(child_reads)
        os.close(child_writes)
        self._replies = os.fdopen(self._from_child, encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child and remove its files; may be called again."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if not self._replies.closed:
            self._replies.close()
            os.close(self._to_child)
        self._folder.cleanup()

    def parts(self) -> list[str]:
        """`Source.parts`."""
        return self._call("parts")

    def choose(self, part: str) -> None:
        """`Source.choose`."""
        self._call("choose", part=part)

    def export(self, path: Path) -> list[str]:
        """`Source.export`."""
        return self._call("export", path=str(path))

    def inputs(self) -> list[Input]:
        """`Source.inputs`."""
        return [Input.from_json(fields) for fields in self._call("inputs")]

    def sizes(self) -> dict[str, list[int]]:
        """`Source.sizes`."""
        return self._call("sizes")

    def points(self) -> list[Point]:
        """`Source.points`."""
        return [Point(**fields) for fields in self._call("points")]

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """`Source.run`."""
        found = self._read(self._call("run", feeds=self._write(feeds)))
        return [found[str(number)] for number in range(len(found))]

    def time(self, feeds: Mapping[str, np.ndarray], seconds: float) -> list[int]:
        """Nanoseconds of single runs of the source, for `seconds`."""
        return self._call("time", feeds=self._write(feeds), seconds=seconds)

    def observe(self, feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
        """`Source.observe`."""
        return self._read(self._call("observe", feeds=self._write(feeds), names=list(names)))

    def _call(self, verb: str, **arguments: Any) -> Any:
        line = json.dumps({"verb": verb, **arguments}) + "\n"
        try:
            os.write(self._to_child, line.encode())
            for answer in self._replies:
                reply = json.loads(answer)
                if "progress" in reply:
                    self._progress(reply["progress"])
                elif "error" in reply:
                    raise _error(reply["error"])
                else:
                    return reply["result"]
        except BrokenPipeError:
            pass  # it died before it read the call: the same as without an answer
        raise self._died()

    def _died(self) -> errors.SourceError:
        code = self._process.wait()
        said = self._log.read_text(errors="replace")[-_TAIL:].strip()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        hint = f"The last that it printed:\n{said}" if said else "It printed nothing; out of memory?"
        return errors.SourceError(f"the framework's process {how}", hint=hint)

    def _write(self, arrays: Mapping[str, np.ndarray]) -> str:
        path = Path(self._folder.name, f"{next(self._numbers)}.npz")
        write_arrays(path, arrays)
        return str(path)

    def _read(self, path: str) -> dict[str, np.ndarray]:
        try:
            return read_arrays(Path(path))
        finally:
            os.unlink(path)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Arrays as .npz without pickles: text as numpy's own strings, types that numpy lacks as bytes with a name."""
    stored: dict[str, np.ndarray] = {}
    for name, value in arrays.items():
        array = np.asarray(value)
        if array.dtype.kind == "O":
            array = array.astype(str)
        if array.dtype.type.__module__ == "ml_dtypes":
            name, array = f"{name}|{array.dtype.name}", array.view(np.uint8 if array.itemsize == 1 else np.uint16)
        stored[name] = array
    with open(path, "wb") as file:
        np.savez(file, **stored)  # type: ignore[arg-type]  # names are positional in the stub


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """What `write_arrays` wrote."""
    found: dict[str, np.ndarray] = {}
    with np.load(path, allow_pickle=False) as content:
        for name in content.files:
            array = content[name]
            name, bar, kind = name.rpartition("|") if "|" in name else (name, "", "")
            if bar:
                import ml_dtypes

                array = array.view(getattr(ml_dtypes, kind))
            found[name] = array.astype(object) if array.dtype.kind == "U" else array
    return found


def _error(fields: Mapping[str, Any]) -> errors.SardonyxError:
    """The child's error, as the class of ours that it was there."""
    kind = getattr(errors, fields["type"], errors.SourceError)
    return kind(fields["message"], node=fields["node"], operator=fields["operator"], hint=fields["hint"])

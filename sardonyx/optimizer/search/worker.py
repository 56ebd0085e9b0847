"""A `Bench` in a process of its own: a crash, a hang or memory that grows ends with one candidate, not the search.

Parent and child talk over a pipe; what a library prints goes to a file, whose end is shown when the child dies.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import numpy as np

import sardonyx
from sardonyx.errors import OptimizationError, SardonyxError
from sardonyx.optimizer.data import Data, Parts
from sardonyx.optimizer.search.measure import Ratio

_TAIL = 500  # characters of the child's output that an error shows


class Worker:
    """The methods of `Bench`, done in a child process that is started when needed, and again after it died.

    Args:
        arguments: of `Bench`, all but the last.
        progress: called with a few words at each long stage.
    """

    def __init__(self, arguments: Sequence[Any], progress: Callable[[str], None] = lambda text: None):
        model, parts, *rest = arguments
        self._arguments = [model, _each(_plain, parts), *rest]
        self._progress = progress
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by __exit__)
        self.deadline: float | None = None  # time.monotonic() at which a call is given up

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._log.close()

    def close(self) -> None:
        """End the child; the next call starts another."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
        if self._process is not None:
            self._process.wait()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None

    def names(self) -> list[str]:
        """`Bench.names`."""
        return self._call("names")

    def make(self, steps: Sequence[dict[str, Any]], path: Path) -> dict[str, Any]:
        """`Bench.make`."""
        return self._call("make", steps, path)

    def run(self, path: Path, count: int | None = None, proof: bool = False) -> list[list[np.ndarray]]:
        """`Bench.run`."""
        return self._call("run", path, count, proof)

    def memory(self, path: Path) -> int:
        """`Bench.memory`."""
        return self._call("memory", path)

    def time(self, path: Path, seconds: float, decisive: float | None = None) -> Ratio:
        """`Bench.time`."""
        return self._call("time", path, seconds, decisive)

    def time_again(self, path: Path, seconds: float, decisive: float | None = None) -> Ratio:
        """`Bench.time_again`."""
        return self._call("time_again", path, seconds, decisive)

    def noise(self, seconds: float) -> list[Ratio]:
        """`Bench.noise`."""
        return self._call("noise", seconds)

    def ranking(self) -> list[dict[str, Any]]:
        """`Bench.ranking`."""
        return self._call("ranking")

    def profile(self, path: Path) -> dict[str, Any]:
        """`Bench.profile`."""
        return self._call("profile", path)

    def _start(self) -> Connection:
        ours, theirs = Pipe()
        path = [str(Path(sardonyx.__file__).parents[1]), os.getcwd(), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "sardonyx.optimizer.search.worker", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            pass_fds=(theirs.fileno(),),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
            start_new_session=True,  # Ctrl-C is for the parent, which decides
        )
        theirs.close()
        self._pipe = ours
        ours.send((os.getpid(), self._arguments))
        return ours

    def _call(self, name: str, *arguments: Any) -> Any:
        try:
            pipe = self._pipe or self._start()
            pipe.send((name, arguments))
            while True:
                left = None if self.deadline is None else max(0.0, self.deadline - time.monotonic())
                if left == 0 or not pipe.poll(left):  # an answer that came meanwhile came too late
                    self.close()
                    raise OptimizationError("it took too long, and was stopped")
                kind, content = pipe.recv()
                if kind == "progress":
                    self._progress(content)
                elif kind == "error":
                    raise content
                else:
                    return content
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise self._died() from None
        except BaseException as error:
            if not isinstance(error, SardonyxError | OSError):
                self.close()  # Ctrl-C in the middle of a message: the pipe cannot be used any more
            raise

    def _died(self) -> OptimizationError:
        code = self._process.wait() if self._process is not None else 0
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - _TAIL))
        said = self._log.read().decode(errors="replace").strip()
        self.close()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        hint = f"The last that it printed: {said}" if said else "Out of memory?"
        return OptimizationError(f"the process that worked on it {how}", hint=hint)


def _each(change: Callable[[Data], Data], parts: Parts) -> Parts:
    proof = None if parts.proof is None else change(parts.proof)
    return Parts(change(parts.calibration), change(parts.evaluation), proof)


def _plain(data: Data) -> Data:
    """`data` without labels of the user's own types, which another process may not know."""
    plain = data.labels is not None and all(
        isinstance(x, np.ndarray | np.generic | int | float | str) for x in data.labels
    )
    return Data(list(data.feeds), list(data.labels) if plain and data.labels else None, data.origin, data.generated)


def _fresh(data: Data) -> Data:
    """`data` with numpy's own element types: arrays that travelled have equal ones, which take a run's slow path.

    (Measured: 22 µs for a run that takes 8, with the digits.)
    """
    feeds = [{n: a if a.dtype.kind == "O" else a.view(np.dtype(a.dtype.name)) for n, a in f.items()} for f in data]
    return Data(feeds, data.labels, data.origin, data.generated)


def serve(pipe: Connection) -> None:
    """Do what the parent asks for until it is gone."""
    parent, (model, parts, seed, threads, packed) = pipe.recv()
    data = _each(_fresh, parts)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    from sardonyx.optimizer.search.bench import Bench

    bench: Bench | None = None
    while True:
        try:
            name, given = pipe.recv()
        except EOFError:
            return
        try:
            if bench is None:
                bench = Bench(model, data, seed, threads, packed, lambda text: pipe.send(("progress", text)))
            reply = "result", getattr(bench, name)(*given)
        except Exception as error:
            reply = "error", _sendable(error)
        pipe.send(reply)


def _sendable(error: Exception) -> Exception:
    """Errors of ours and of the system as they are, others in words."""
    if isinstance(error, SardonyxError | OSError):
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # an attribute that cannot travel
            return OptimizationError(str(error))
        return error
    return OptimizationError(f"{type(error).__name__}: {error}")


def _follow(parent: int) -> None:
    """End with the parent, however it ended: nobody would read what is computed."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))

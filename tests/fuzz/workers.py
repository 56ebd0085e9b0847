"""Runs numbered trials in processes with limited memory and time, so that a crash or a hang is one more result."""

from __future__ import annotations

import importlib
import json
import os
import resource
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

TESTS = Path(__file__).parents[1]
MEMORY = 6 << 30  # bytes of address space of one process
Outcome = tuple[int, str, str]  # number, what came of it, details


def run(trial: str, numbers: Sequence[int], *, arguments: tuple = (), seconds: float = 60.0) -> Iterator[Outcome]:
    """Yield the outcome of each number, in order.

    Args:
        trial: ``module:function``, called as ``function(number, *arguments) -> (outcome, details)``.
        numbers: what to try.
        arguments: further arguments, which JSON can hold.
        seconds: after which one trial counts as hanging.
    """
    done = 0
    while done < len(numbers):
        worker = _start(trial, numbers[done:], arguments)
        try:
            for outcome in _read(worker, seconds):
                yield outcome
                done += 1
        finally:
            worker.kill()
            worker.wait()
            assert worker.stdout is not None
            assert worker.stderr is not None
            worker.stdout.close()
            worker.stderr.close()


def _start(trial: str, numbers: Sequence[int], arguments: tuple) -> subprocess.Popen:
    command = [sys.executable, __file__, trial, json.dumps(list(numbers)), json.dumps(arguments)]
    path = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env={**os.environ, "PYTHONPATH": path})
    worker.stderr = errors  # type: ignore[assignment]
    return worker


def _read(worker: subprocess.Popen, seconds: float) -> Iterator[Outcome]:
    """Outcomes until the worker is done; the last one may be its end."""
    assert worker.stdout is not None
    started, number = False, -1
    with selectors.DefaultSelector() as selector:
        selector.register(worker.stdout, selectors.EVENT_READ)
        buffered = b""
        while True:
            if not selector.select(timeout=seconds + 60 * (not started)):
                yield number, "hang", f"no answer after {seconds:.0f} s"
                return
            part = os.read(worker.stdout.fileno(), 1 << 16)
            if not part:
                break
            *lines, buffered = (buffered + part).split(b"\n")
            for line in lines:
                kind, *rest = json.loads(line)
                if kind == "begin":
                    started, number = True, rest[0]
                else:
                    yield rest[0], rest[1], rest[2]
    code = worker.wait()
    if code:
        assert worker.stderr is not None
        worker.stderr.seek(0)
        tail = worker.stderr.read()[-3000:].decode(errors="replace")
        if not started:
            raise RuntimeError(f"the worker does not start:\n{tail}")
        yield number, "crash", f"exit code {code}\n{tail}"


def main() -> None:
    """The worker: `begin` before each trial, `end` with its outcome after it."""
    import faulthandler

    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    module, _, name = sys.argv[1].partition(":")
    function = getattr(importlib.import_module(module), name)
    arguments = json.loads(sys.argv[3])
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else prints must not mix with the protocol
    with tempfile.TemporaryDirectory(prefix="sardonyx-fuzz-") as folder:
        os.environ.setdefault("SARDONYX_CACHE_DIR", folder)
        for number in json.loads(sys.argv[2]):
            print(json.dumps(["begin", number]), file=output)
            outcome, details = function(number, *arguments)
            print(json.dumps(["end", number, outcome, details]), file=output)


if __name__ == "__main__":
    main()

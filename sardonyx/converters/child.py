"""``python -m sardonyx.converters.child READ WRITE``: opens one source and answers calls; see `process`."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sardonyx.converters.process import read_arrays, write_arrays
from sardonyx.converters.source import Request, Source
from sardonyx.converters.table import kind_called
from sardonyx.errors import SardonyxError


class _Child:
    def __init__(self, reads: int, writes: int):
        self.calls = os.fdopen(reads, encoding="utf-8")
        self.writes = writes
        self.source: Source | None = None

    def serve(self) -> None:
        """Answer until the parent closes its end."""
        for line in self.calls:
            call = json.loads(line)
            try:
                self.send({"result": getattr(self, "do_" + call.pop("verb"))(**call)})
            except Exception as problem:
                self.send({"error": _described(problem)})

    def send(self, message: dict[str, Any]) -> None:
        os.write(self.writes, (json.dumps(message) + "\n").encode())

    def do_open(self, request: dict[str, Any], samples: list[str]) -> None:
        wanted = Request(**request)
        wanted.samples = [read_arrays(Path(path)) for path in samples]
        kind = kind_called(wanted.kind)
        self.send({"progress": f"importing {kind.needs[0]}" if kind.needs else "reading"})
        module = importlib.import_module(f"sardonyx.converters.{kind.converter}")
        self.source = module.open_source(wanted, lambda text: self.send({"progress": text}))

    def do_parts(self) -> list[str]:
        return list(self._opened().parts())

    def do_choose(self, part: str) -> None:
        self._opened().choose(part)

    def do_sizes(self) -> dict[str, list[int]]:
        return {name: list(sizes) for name, sizes in self._opened().sizes().items()}

    def do_export(self, path: str) -> list[str]:
        return self._opened().export(Path(path))

    def do_inputs(self) -> list[dict[str, Any]]:
        return [asdict(each) for each in self._opened().inputs()]

    def do_points(self) -> list[dict[str, Any]]:
        return [asdict(each) for each in self._opened().points()]

    def do_run(self, feeds: str) -> str:
        outputs = self._opened().run(read_arrays(Path(feeds)))
        return self._give(feeds, {str(number): value for number, value in enumerate(outputs)})

    def do_time(self, feeds: str, seconds: float) -> list[int]:
        """Nanoseconds of single runs, one after the other for `seconds`; the first is not counted."""
        arrays, source = read_arrays(Path(feeds)), self._opened()
        taken: list[int] = []
        os.unlink(feeds)
        source.run(arrays)
        end = time.perf_counter_ns() + int(seconds * 1e9)
        while not taken or time.perf_counter_ns() < end:
            start = time.perf_counter_ns()
            source.run(arrays)
            taken.append(time.perf_counter_ns() - start)
        return taken

    def do_observe(self, feeds: str, names: list[str]) -> str:
        return self._give(feeds, self._opened().observe(read_arrays(Path(feeds)), names))

    def _opened(self) -> Source:
        assert self.source is not None, "open comes first"
        return self.source

    def _give(self, feeds: str, values: dict[str, Any]) -> str:
        os.unlink(feeds)
        path = Path(feeds + ".out")
        write_arrays(path, values)
        return str(path)


def _described(problem: Exception) -> dict[str, Any]:
    """An error as JSON. One that the framework raised becomes a ConversionError with its last words."""
    traceback.print_exc()
    if isinstance(problem, SardonyxError):
        fields = {"message": problem.message, "node": problem.node, "operator": problem.operator, "hint": problem.hint}
        return {"type": type(problem).__name__, **fields}
    place = traceback.extract_tb(problem.__traceback__)[-1]
    text = str(problem).strip() or "no message"
    message = f"{type(problem).__name__}: {text[-1500:]}"
    where = Path(place.filename)
    hint = f"Raised in {where.parent.name}/{where.name}, {place.name}()."
    return {"type": "ConversionError", "message": message, "node": None, "operator": None, "hint": hint}


if __name__ == "__main__":
    _Child(int(sys.argv[1]), int(sys.argv[2])).serve()

"""One measurement in a process of its own: reads what to do as JSON from standard input, prints one line of JSON.

A crash, a hang or memory that grows then belongs to one model, not to the whole benchmark.

    {"kind": "case", "model": ..., "threads": 2, "batch": 8, "against": [...], "seconds": 2.0, ...}
    {"kind": "load", "runtime": "sardonyx", "model": ..., "threads": 2, "batch": 1, "dims": {...}}
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sardonyx.errors import SardonyxError

__all__ = ["ask", "main"]


def ask(request: Mapping[str, Any], *, timeout: float, cache: str | None = None) -> dict[str, Any]:
    """The answer of a child process; `{"error": ...}` when it failed, crashed or took too long.

    Args:
        request: See above.
        timeout: In seconds.
        cache: Folder of the cache of compiled models, instead of the user's.
    """
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([_root(), *filter(None, [os.environ.get("PYTHONPATH")])]))
    if cache is not None:
        environment["SARDONYX_CACHE_DIR"] = cache
    command = [sys.executable, "-m", "sardonyx.benchmark.child"]
    try:
        done = subprocess.run(
            command, input=json.dumps(request), env=environment, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no end after {timeout:.0f} s"}
    for line in reversed(done.stdout.splitlines()):  # other runtimes print on the same output
        if line.startswith(MARK):
            return json.loads(line.removeprefix(MARK))
    words = done.stderr.strip().splitlines()[-1:] or [""]
    return {"error": f"the process ended with status {done.returncode}: {words[0][:200]}"}


MARK = "sardonyx-benchmark: "


def _root() -> str:
    import sardonyx

    return str(Path(sardonyx.__file__).parents[1])


def main() -> int:
    """Do what standard input asks for."""
    request = json.load(sys.stdin)
    kinds: dict[str, Callable[..., dict[str, Any]]] = {"case": case, "load": load}
    try:
        answer = kinds[request.pop("kind")](**request)
    except SardonyxError as error:
        answer = {"error": " ".join(str(error).split())}
    except Exception as error:  # whatever another runtime raises
        answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    print(MARK + json.dumps(answer), flush=True)
    return 0


def case(
    model: str,
    threads: int,
    batch: int,
    against: list[str],
    seconds: float,
    rounds: int,
    tolerance: float,
    dims: dict[str, int],
    target: str | None = None,
) -> dict[str, Any]:
    """Times of all runtimes on one model, in turns."""
    from sardonyx.benchmark.batches import rebatched
    from sardonyx.benchmark.versus import compare

    with tempfile.TemporaryDirectory(prefix="sardonyx-bench-") as folder:
        path = str(rebatched(model, Path(folder))) if batch != 1 else model
        result = compare(
            path,
            against,
            threads=threads,
            feeds=lambda infos: batched_feeds(infos, batch, dims),
            seconds=seconds,
            rounds=rounds,
            tolerance=tolerance,
            leave_out=True,
            target=target,
        )
    facts = asdict(result)
    facts.pop("machine"), facts.pop("model")
    return facts


def batched_feeds(infos: Sequence[Any], batch: int, dims: Mapping[str, int]) -> dict[str, Any]:
    """Random inputs: symbolic first dimensions are the batch, unless `dims` names them, as it names other symbols."""
    from sardonyx.benchmark.versus import make_feeds

    symbols = {dim for info in infos for dim in info.shape or () if isinstance(dim, str)}
    first = {info.shape[0] for info in infos if info.shape}
    sizes = {dim: batch for dim in first if isinstance(dim, str)}
    sizes |= {name: size for name, size in dims.items() if name in symbols}
    return make_feeds(infos, sizes)


def load(runtime: str, model: str, threads: int, batch: int, dims: dict[str, int]) -> dict[str, Any]:
    """Seconds to load and to run once, and the memory that both took beyond the interpreter with numpy, in bytes."""
    import numpy as np

    shapes = _shapes(model, batch, dims)
    feeds = {name: _ones(np, shape, dtype) for name, (shape, dtype) in shapes.items()}
    before, start = _peak_memory(), time.perf_counter()
    if runtime == "sardonyx":
        import sardonyx

        run: Any = sardonyx.Session(model, sardonyx.SessionOptions(threads=threads)).run
    else:
        from sardonyx.benchmark.runtimes import load_runtime

        run = load_runtime(runtime, model, threads)
    loaded = time.perf_counter()
    for _ in range(2):
        run(feeds)
    return {"load": loaded - start, "memory": _peak_memory() - before}


def _shapes(model: str, batch: int, dims: Mapping[str, int]) -> dict[str, tuple[list[int], str]]:
    """Shape and numpy type of each input, found in another process: nothing is to be imported before the load."""
    program = (
        "import json, sys\nimport onnx\nfrom onnx import helper\n"
        "graph = onnx.load(sys.argv[1], load_external_data=False).graph\n"
        "stored = {t.name for t in graph.initializer}\n"
        "print(json.dumps([[v.name, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim],"
        " helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type).name]"
        " for v in graph.input if v.name not in stored]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, model], capture_output=True, text=True, check=True)
    found = {}
    for name, shape, dtype in json.loads(done.stdout):
        sizes = [d if isinstance(d, int) else dims.get(d, batch if axis == 0 else 1) for axis, d in enumerate(shape)]
        found[name] = (sizes, dtype)
    return found


def _ones(np: Any, shape: list[int], dtype: str) -> Any:
    return np.full(shape, "a", object) if dtype == "object" else np.ones(shape, dtype)


def _peak_memory() -> int:
    """The most memory that this process has had at one time; 0 where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), 0)


if __name__ == "__main__":
    raise SystemExit(main())

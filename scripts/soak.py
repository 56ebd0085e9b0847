"""Run a model many times with inputs of random sizes and print the memory of the process every so often.

python scripts/soak.py MODEL.onnx --runs 10000 --most 64

Every symbolic dim is drawn anew for each run, from 1 to --most. The exit code is 1 when the memory after the last run
is more than --slack MB above that after the first 500.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from pathlib import Path

import numpy as np

from sardonyx import Session, SessionOptions

WARM = 500  # runs after which nothing new should be needed


def resident() -> float:
    """MB of memory that the process holds."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 1e6


def feeds(session: Session, rng: np.random.Generator, most: int) -> dict[str, np.ndarray]:
    sizes: dict[str, int] = {}
    given = {}
    for port in session.inputs:
        shape = [
            dim if isinstance(dim, int) else sizes.setdefault(str(dim), int(rng.integers(1, most + 1)))
            for dim in port.shape
        ]
        kind = np.dtype(port.dtype)
        values = rng.integers(0, 2, shape) if kind.kind in "iub" else rng.random(shape)
        given[port.name] = values.astype(kind)
    return given


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--every", type=int, default=500)
    parser.add_argument("--most", type=int, default=64, help="largest value of a symbolic dim")
    parser.add_argument("--slack", type=float, default=16.0, help="MB of growth that is let pass")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="a file for the growth, beside that of other models")
    options = parser.parse_args()
    session = Session(options.model, SessionOptions(threads=options.threads))
    rng = np.random.default_rng(0)
    started, base = time.monotonic(), 0.0
    for run in range(1, options.runs + 1):
        session.run(feeds(session, rng, options.most))
        if run == min(WARM, options.runs):
            base = resident()
        if run % options.every == 0 or run == options.runs:
            gc.collect()
            held = sum(context.host.memory().cached for context in session._all_contexts()) / 1e6
            print(
                f"{run:6} runs  {resident():8.1f} MB resident  {session.memory()['arena'] / 1e6:8.1f} MB arena  "
                f"{held:6.1f} MB kept by hosts  {(time.monotonic() - started) / run * 1e3:7.2f} ms each",
                flush=True,
            )
    growth = resident() - base
    print(f"{growth:+.1f} MB since run {min(WARM, options.runs)}")
    if options.json is not None:
        report = json.loads(options.json.read_text()) if options.json.exists() else {}
        report[options.model.stem] = {"runs": options.runs, "growth": round(growth, 1), "slack": options.slack}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return int(growth > options.slack)


if __name__ == "__main__":
    raise SystemExit(main())

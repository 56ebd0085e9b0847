"""A residual network of digits that loses half of its work, into benchmarks/results/pruned.json.

    python benchmarks/pruned.py [--threads 1] [--seconds 2]

It is trained here on scikit-learn's digits; channels are pruned along groups and what is kept is fitted anew by least
squares on 400 pictures, without training. Accuracy is that on pictures that neither has seen, time that of one picture.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "pruned.json"
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "optimizer" / "prune"), str(ROOT / "tests")]

from digits import calibration, images, trained  # noqa: E402

from sardonyx import Session, SessionOptions  # noqa: E402
from sardonyx.benchmark.versus import machine, paired_ratio, take_turns  # noqa: E402
from sardonyx.model import load  # noqa: E402
from sardonyx.optimizer.prune.channels import PruneChannels  # noqa: E402
from sardonyx.optimizer.step import Context  # noqa: E402

SIZE, CHANNELS, EPOCHS, FITTED, ROUNDS = 8, 32, 8, 400, 9


def accuracy(session: Session, x: np.ndarray, labels: np.ndarray) -> float:
    """Of pictures [N, 1, H, W]."""
    [scores] = session.run({"x": x})
    return float((scores.argmax(1) == labels).mean())


def measure(threads: int, seconds: float) -> dict[str, Any]:
    """Accuracy of both, the share of operations that is left, and how many times as fast the pruned one is."""
    proto = trained(CHANNELS, EPOCHS, SIZE)
    applied = PruneChannels(flops=0.5, multiple=8).apply(load(proto), Context(calibration(SIZE, FITTED)))
    models = {"original": proto, "pruned": applied.model}
    sessions = {name: Session(model, SessionOptions(threads=threads)) for name, model in models.items()}
    _, _, x, labels = images(SIZE)
    found = {name: accuracy(session, x, labels) for name, session in sessions.items()}
    feeds = {"x": x[:1]}
    for session in sessions.values():
        session.run(feeds)
    work = {name: session.operations() for name, session in sessions.items()}
    blocks = take_turns({name: s.run for name, s in sessions.items()}, feeds, seconds / ROUNDS, ROUNDS)
    ratio = paired_ratio(blocks["pruned"], blocks["original"])[1]
    return {"accuracy": found, "work": work["pruned"] / work["original"], "ratio": ratio, "threads": threads}


def main() -> int:
    """Measure, and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each of both")
    arguments = parser.parse_args()
    report = measure(arguments.threads, arguments.seconds)
    print(json.dumps(report))
    report["machine"] = {**machine(), "date": time.strftime("%Y-%m-%d")}
    RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

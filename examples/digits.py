"""The whole journey on handwritten digits: from scikit-learn to a small, fast model in a folder that runs by itself.

    make demo                     # or: python examples/digits.py [OUT_DIR]

A neural network is trained on 1797 images of 8 x 8 pixels and saved. `sardonyx.deploy` converts it to ONNX, verifies
that it computes the same, searches for the fastest form that recognises at most 0.5 % fewer digits, compiles that for
this machine, and measures scikit-learn, ONNX Runtime and Sardonyx side by side.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import joblib
import numpy as np
from rich.console import Console
from rich.progress import Progress
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import sardonyx

DROP, SECONDS = 0.005, 30.0
SHADES = " .:-=+*#%@"


def train(out: Path) -> tuple[Path, Path]:
    """Train and save a network; also save the images that judge it, which it has not seen."""
    digits = load_digits()
    pixels = (digits.data / 16.0).astype(np.float32)
    train_x, test_x, train_y, test_y = train_test_split(
        pixels, digits.target, test_size=0.3, random_state=0, stratify=digits.target
    )
    network = MLPClassifier((256, 128), max_iter=60, early_stopping=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it may stop before it has converged
        network.fit(train_x, train_y)
    joblib.dump(network, out / "network.joblib")
    np.savez(out / "digits.npz", X=test_x, labels=test_y)
    return out / "network.joblib", out / "digits.npz"


def picture(pixels: np.ndarray) -> str:
    """One image of 8 x 8 pixels in letters."""
    rows = pixels.reshape(8, 8)
    return "\n".join("".join(SHADES[int(p * 9.99)] * 2 for p in row) for row in rows)


def main(out: Path = Path("out")) -> int:
    """Train, deploy, run what was deployed; returns the exit code."""
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    network, data = train(out)
    console.print(f"Trained and saved as {network}. Now: sardonyx.deploy\n")
    with Progress(transient=True) as bar:
        task = bar.add_task("", total=1.0)
        done = sardonyx.deploy(
            network,
            out / "digits",
            data=str(data),
            max_drop=DROP,
            seconds=SECONDS,
            trust=True,  # a joblib file is a pickle; this one we wrote ourselves
            progress=lambda part, text: bar.update(task, completed=part or None, description=text),
        )
    done.show()
    example = done.folder / "run.py"
    console.print(f"\nThe first of the digits:\n{picture(np.load(data)['X'][0])}", highlight=False)
    console.print(f"\nand what {example} says it is:")
    ran = subprocess.run([sys.executable, str(example)], check=False)
    console.print("\nTo play on:\n")
    for command in ("inspect {0}/model.onnx", "bench {0}/model.onnx --against onnxruntime", "optimize --help"):
        console.print(f"    .venv/bin/sardonyx {command.format(done.folder)}", highlight=False)
    console.print(f"    and {done.folder / 'report.html'} in a browser")
    return ran.returncode


if __name__ == "__main__":
    raise SystemExit(main(*(Path(argument) for argument in sys.argv[1:])))

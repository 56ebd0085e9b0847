"""Programs made for ONNX Runtime, unmodified under ``python -m sardonyx.shim``: the same answers.

Needs ``python tests/models/install.py`` (make test-models).
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
from models.catalog import ROOT, models_folder

pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.models
PROGRAM = Path(__file__).with_name("clients.py")
TOLERANCE = 1e-4  # of scores, which are between 0 and 1
PACKAGES = {
    "ocr": ("rapidocr_onnxruntime", "cv2", "PIL", "shapely", "pyclipper", "yaml", "six", "tqdm"),
    "file_types": ("magika", "click", "dotenv"),
    "speech": ("silero_vad", "packaging"),
    "speech_by_steps": ("silero_vad", "packaging", "torch"),
    "people": ("nudenet", "cv2"),
}


@pytest.mark.parametrize("client", PACKAGES)
def test_a_client_of_onnxruntime_gets_the_same_answers(client: str) -> None:
    missing = [name for name in PACKAGES[client] if not _installed(name)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    expected = _answer([], client)
    actual = _answer(["-m", "sardonyx.shim"], client)
    ours = ROOT / "sardonyx" / "onnxruntime"
    assert Path(actual["onnxruntime"]).parent == ours, "the shim was not in use"
    assert Path(expected["onnxruntime"]).parent != ours
    assert _leaves(expected["answer"]), "a client that finds nothing proves nothing"
    assert not _differences(expected["answer"], actual["answer"])


def _installed(package: str) -> bool:
    folder = models_folder()
    found = [folder / package, *folder.glob(f"{package}.*")]
    return any(path.exists() for path in found) or importlib.util.find_spec(package) is not None


def _answer(launcher: list[str], client: str) -> dict[str, Any]:
    """What the client prints in a process of its own, which sees the packages with models."""
    path = os.pathsep.join([str(ROOT), str(models_folder())])
    done = subprocess.run(
        [sys.executable, *launcher, str(PROGRAM), client],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def _leaves(value: Any) -> list[Any]:
    """Everything in nested lists and dicts that is neither."""
    if isinstance(value, dict):
        value = list(value.values())
    return [leaf for item in value for leaf in _leaves(item)] if isinstance(value, list) else [value]


def _differences(expected: Any, actual: Any, where: str = "answer") -> list[str]:
    """Where two answers differ: texts and whole numbers at all, other numbers by more than TOLERANCE."""
    if type(expected) is not type(actual):
        return [f"{where}: {expected!r} became {actual!r}"]
    if isinstance(expected, dict):
        expected, actual = sorted(expected.items()), sorted(actual.items())
    if isinstance(expected, list | tuple):
        pairs = zip_longest(expected, actual, fillvalue="(nothing)")
        return [d for i, (e, a) in enumerate(pairs) for d in _differences(e, a, f"{where}[{i}]")]
    same = abs(expected - actual) <= TOLERANCE if isinstance(expected, float) else expected == actual
    return [] if same else [f"{where}: {expected!r} became {actual!r}"]

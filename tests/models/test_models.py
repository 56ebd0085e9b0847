"""Whole networks: same numbers as ONNX Runtime. Needs ``python tests/models/install.py`` (make test-models)."""

from __future__ import annotations

import numpy as np
import pytest
from models.catalog import Entry, entries

onnxruntime = pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.models
TOLERANCE = 1e-4  # largest error as a part of the output's spread


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_a_real_model_computes_what_onnxruntime_computes(entry: Entry) -> None:
    if not entry.path.exists():
        pytest.skip(f"{entry.path} is not installed")
    sardonyx = pytest.importorskip("sardonyx.runtime.session")
    ours = sardonyx.Session(str(entry.path))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    theirs = onnxruntime.InferenceSession(str(entry.path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in theirs.get_outputs()]
    for feeds in entry.feeds():
        shapes = {name: value.shape for name, value in feeds.items()}
        for name, expected, actual in zip(names, theirs.run(None, feeds), ours.run(feeds), strict=True):
            assert actual.dtype == expected.dtype
            assert actual.shape == expected.shape, f"{name} for {shapes}"
            error = relative_error(expected, actual)
            assert error <= TOLERANCE, f"{name} for {shapes}: {error:.2e} of the spread"


def relative_error(expected: np.ndarray, actual: np.ndarray) -> float:
    """Largest difference over the spread of `expected` (of its size, if all values are equal)."""
    if expected.dtype.kind != "f":
        return 0.0 if np.array_equal(expected, actual) else np.inf
    if expected.size == 0:
        return 0.0
    wide, ours = expected.astype(np.float64), actual.astype(np.float64)
    spread = np.ptp(wide) or np.abs(wide).max() or 1.0
    return float(np.abs(wide - ours).max() / spread)

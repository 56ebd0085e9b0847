"""The cache keeps to a size, whoever fills it."""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest

import sardonyx
from sardonyx.compiler import cache_limit
from sardonyx.compiler.cache import Cache, default
from sardonyx.compiler.cache_limit import VARIABLE, trim
from sardonyx.errors import CacheError
from tests.small_models import FLOAT, model_of


@pytest.fixture
def full(tmp_path) -> Cache:
    """Eight entries of a thousand bytes and more, the first used longest ago."""
    cache = Cache(tmp_path / "cache")
    for number in range(8):
        path = cache.publish(f"entry-00{number}", lambda folder: (folder / "weights.bin").write_bytes(bytes(1000)))
        os.utime(path / "manifest.json", (1000 + number, 1000 + number))
    return cache


def keys(cache: Cache) -> list[str]:
    return [entry.key for entry in cache.entries()]


def test_what_was_used_longest_ago_goes_to_three_quarters(full, monkeypatch):
    one = full.entries()[0].size
    monkeypatch.setenv(VARIABLE, str(one * 6))
    trim(full, "entry-007")
    assert full.size() <= one * 6 * 3 // 4
    assert keys(full) == [f"entry-00{n}" for n in range(8 - len(keys(full)), 8)]
    assert len(keys(full)) >= 3


def test_the_entry_at_hand_stays_however_small_the_limit(full, monkeypatch):
    monkeypatch.setenv(VARIABLE, "1")
    trim(full, "entry-002")
    assert keys(full) == ["entry-002"]


def test_no_limit_and_a_large_one_remove_nothing(full, monkeypatch):
    for limit in ("0", str(1 << 40)):
        monkeypatch.setenv(VARIABLE, limit)
        (full.root / "trimmed").unlink(missing_ok=True)
        trim(full, "entry-000")
    assert len(keys(full)) == 8


def test_the_size_is_looked_at_once_in_a_while(full, monkeypatch):
    trim(full, "entry-000")
    monkeypatch.setenv(VARIABLE, "1")
    trim(full, "entry-000")
    assert len(keys(full)) == 8
    old = cache_limit.CHECK_SECONDS + 10
    os.utime(full.root / "trimmed", (1000 + old, 1000 + old))
    trim(full, "entry-000")
    assert keys(full) == ["entry-000"]


def test_a_limit_that_is_no_number_is_an_error(full, monkeypatch):
    monkeypatch.setenv(VARIABLE, "lots")
    with pytest.raises(CacheError, match="SARDONYX_CACHE_LIMIT is 'lots'"):
        trim(full, "entry-000")


def test_a_compiled_model_runs_where_the_limit_is_below_its_size(tmp_path, monkeypatch):
    monkeypatch.setenv("SARDONYX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv(VARIABLE, "1")
    model = model_of([onnx.helper.make_node("Relu", ["x"], ["y"])], [("x", FLOAT, [3])], ["y"])
    assert sardonyx.Session(model).run({"x": np.ones(3, np.float32)})[0].tolist() == [1.0, 1.0, 1.0]
    assert len(default().entries()) == 1
